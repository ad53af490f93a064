"""Am I on track? What a run's log says, in words, and the shipped runs to hold it against."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TIE = math.log(2)  # the discriminator's loss when it cannot tell real from fake: 0.693
TREND = 4  # validations that make a trend
NOISE = {"psnr_y": 0.02, "lpips": 0.001}  # changes between validations that mean nothing
CURVES = Path(__file__).parent / "models" / "curves"


def balance(loss: float) -> str:
    """What the discriminator's loss of the relativistic average GAN says."""
    if loss < 0.05:
        return f"the discriminator wins outright ({loss:.3f}; a tie is 0.693): fewer of its channels, or no batch norm"
    if loss < 0.35:
        return f"the discriminator is far ahead ({loss:.3f}; a tie is 0.693)"
    if loss <= 0.85:
        return f"the two networks are in balance ({loss:.3f}; a tie is 0.693)"
    if loss <= 1.5:
        return f"the discriminator guesses wrong ({loss:.3f}; a tie is 0.693); usually it comes back by itself"
    return f"diverging ({loss:.3f}; a tie is 0.693): smaller --optim.learning-rate, or --optim.clip 1"


def trend(rows: Sequence[Row], name: str) -> str:
    """Whether the validation score ``name`` still improves; lower is better for LPIPS alone."""
    sign = -1 if name == "lpips" else 1
    values = [(row["step"], sign * row["validation"][name]) for row in rows
              if "validation" in row and row["validation"].get(name) is not None]  # fmt: skip
    if len(values) < 2:
        return "the first validation" if values else ""
    best_step, best = max(values, key=lambda value: value[1])
    latest = values[-1][1]
    before = max(value for _, value in values[-1 - TREND : -1])
    label = {"psnr_y": "PSNR", "lpips": "LPIPS"}[name]
    if latest > before + NOISE[name]:
        return f"{label} is improving"
    if best - latest > 10 * NOISE[name]:
        return f"{label} is worse than at step {best_step}, the best so far"
    return f"{label} has stood still for the last {min(TREND, len(values) - 1) + 1} validations"


def verdict(rows: Sequence[Row], references: dict[str, list[Row]], *, name: str) -> str:
    """One line on the newest validation in ``rows``: its trend, its gain over bicubic, and a shipped run's there.

    Args:
        rows: The run's log.
        references: Logs of shipped runs by name.
        name: The score that chooses the best model: psnr_y or lpips.
    """
    parts = [trend(rows, name)]
    own = gains(rows)
    for label, others in references.items():
        theirs = gains(others)
        if own and theirs:
            step, gain = own[-1]
            parts.append(f"{gain:+.2f} dB over bicubic, {label} had {_at(theirs, step):+.2f} here")
    if own and len(parts) == 1:
        parts.append(f"{own[-1][1]:+.2f} dB over bicubic")
    return "; ".join(part for part in parts if part)


def bicubic(rows: Sequence[Row]) -> dict[str, float]:
    """Bicubic's scores on the run's validation pictures, from its log; empty if they are not in it."""
    return next((row["bicubic"] for row in rows if "bicubic" in row), {})


def gains(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """(step, dB of PSNR-Y above bicubic) of every validation."""
    base = bicubic(rows).get("psnr_y")
    if base is None:
        return []
    known = [(row["step"], row["validation"].get("psnr_y")) for row in rows if "validation" in row]
    return [(step, value - base) for step, value in known if value is not None]


def _at(curve: list[tuple[int, float]], step: int) -> float:
    """The curve's value at ``step``, between its points; its ends beyond them."""
    before = [point for point in curve if point[0] <= step]
    after = [point for point in curve if point[0] >= step]
    if not before or not after:
        return (before or after)[-1 if before else 0][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (step - x0) / (x1 - x0)


def load_references(stage: str, scale: int, folder: Path = CURVES) -> dict[str, list[Row]]:
    """The logs of shipped runs of this stage (psnr or gan) and scale; none is fine.

    A row of such a file is ``{"step": ..., "psnr_y": ..., "lpips": ...}``, bicubic's has ``"bicubic": true`` too.
    """
    found = {}
    for path in sorted(folder.glob(f"*_x{scale}.jsonl")):
        if ("psnr" in path.stem) == (stage == "psnr"):
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            found[path.stem] = [_as_row(line) for line in lines]
    return found


def _as_row(line: Row) -> Row:
    if "validation" in line or line.get("bicubic") not in (None, True):
        return line
    scores = {name: line[name] for name in ("psnr_y", "lpips") if line.get(name) is not None}
    return {"step": line["step"], "bicubic" if line.get("bicubic") else "validation": scores}
