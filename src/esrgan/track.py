"""Am I on track? What a run's log says, in words, and the shipped runs to hold it against."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from esrgan.config import GeneratorConfig
from esrgan.model_file import read_header
from esrgan.run_log import Row

TIE = math.log(2)  # the discriminator's loss when it cannot tell real from fake
TREND = 4  # validations that make a trend
NOISE = {"psnr_y": 0.02, "lpips": 0.001}  # changes between validations that mean nothing
ENOUGH = {"psnr_y": 0.1, "lpips": 0.05}  # what a run may lack of a shipped one's gain and still be on track
SIDES = ("blocks", "channels", "growth")
CURVES = Path(__file__).parent / "models" / "curves"


def balance(loss: float) -> str:
    """What the discriminator's loss of the relativistic average GAN says."""
    said = f"({loss:.3f}; a tie is {TIE:.3f})"
    if loss < 0.05:
        return f"the discriminator wins outright {said}: fewer of its channels, or no batch norm"
    if loss < 0.35:
        return f"the discriminator is far ahead {said}"
    if loss <= 0.85:
        return f"the two networks are in balance {said}"
    if loss <= 1.5:
        return f"the discriminator guesses wrong {said}; usually it comes back by itself"
    return f"diverging {said}: smaller --optim.learning-rate, or --optim.clip 1"


def trend(rows: Sequence[Row], name: str) -> str:
    """Whether the validation score ``name`` still improves; lower is better for LPIPS alone."""
    sign = -1 if name == "lpips" else 1
    values = [(row["step"], sign * row["validation"][name]) for row in rows
              if "validation" in row and row["validation"].get(name) is not None]  # fmt: skip
    if len(values) < 2:
        return "the first validation" if values else ""
    best_step, best = max(values, key=lambda value: value[1])
    latest = values[-1][1]
    before = values[max(0, len(values) - 1 - TREND)][1]
    label = {"psnr_y": "PSNR", "lpips": "LPIPS"}[name]
    if latest > max(before + NOISE[name], best - NOISE[name]):
        return f"{label} is improving"
    if best - latest > 3 * NOISE[name]:
        return f"{label} is worse than at step {best_step}, its {'lowest' if name == 'lpips' else 'highest'} so far"
    return f"{label} has stood still for the last {min(TREND, len(values) - 1) + 1} validations"


def verdict(rows: Sequence[Row], references: dict[str, list[Row]], *, name: str) -> str:
    """One line on the newest validation in ``rows``: its trend, gain over bicubic, and whether shipped runs had more.

    Args:
        rows: The run's log.
        references: Logs of shipped runs by name.
        name: The score that chooses the best model: psnr_y or lpips.
    """
    parts = [trend(rows, name)]
    if own := gains(rows, name):
        gain = own[-1][1]
        said = f"{gain:+.2f} dB over bicubic" if gain >= 0 else f"{-gain:.2f} dB below bicubic"
        said = f"LPIPS {gain:.0%} of bicubic's" if name == "lpips" else said
        places = [_place(own, label, gains(others, name), name) for label, others in references.items()]
        parts.append(", ".join(filter(None, [said, *places])))
    return "; ".join(filter(None, parts))


def _place(own: list[tuple[int, float]], label: str, theirs: list[tuple[int, float]], name: str) -> str:
    """Whether the newest gain keeps up with a shipped run's at that step.

    Empty before that run's first validation, and where it began from a model that was better by far.
    """
    step, gain = own[-1]
    if not theirs or step < theirs[0][0]:
        return ""
    sign = -1 if name == "lpips" else 1
    if own[0][0] == theirs[0][0] == 0 and sign * (own[0][1] - theirs[0][1]) < -ENOUGH[name]:
        return ""
    other = _at(theirs, step)
    lead = sign * (gain - other)
    had = f"{other:.0%}" if name == "lpips" else f"{other:+.2f}"
    where = "here" if step <= theirs[-1][0] else f"at its end, step {theirs[-1][0]}"
    return f"{'on track' if lead >= -ENOUGH[name] else 'behind'}: {label} had {had} {where}"


def bicubic(rows: Sequence[Row]) -> dict[str, float]:
    """Bicubic's scores on the run's validation pictures, newest first, from its log; empty if they are not in it."""
    return next((row["bicubic"] for row in reversed(rows) if "bicubic" in row), {})


def gains(rows: Sequence[Row], name: str = "psnr_y") -> list[tuple[int, float]]:
    """(step, gain) of every validation: dB of PSNR-Y above bicubic, or LPIPS as a share of bicubic's.

    Scores of different pictures cannot be compared; these nearly can.
    """
    base = bicubic(rows).get(name)
    if base is None:
        return []
    known = [(row["step"], row["validation"].get(name)) for row in rows if "validation" in row]
    return [(step, value / base if name == "lpips" else value - base) for step, value in known if value is not None]


def _at(curve: list[tuple[int, float]], step: int) -> float:
    """The curve's value at ``step``, between its points; its ends beyond them."""
    before = [point for point in curve if point[0] <= step]
    after = [point for point in curve if point[0] >= step]
    if not before or not after:
        return (before or after)[-1 if before else 0][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (step - x0) / (x1 - x0)


def load_references(
    stage: str, network: GeneratorConfig, *, begun: bool, folder: Path = CURVES
) -> dict[str, list[Row]]:
    """The logs of shipped runs of this stage (psnr or gan) and scale, with networks no larger; none is fine.

    A row of such a file is ``{"step": ..., "psnr_y": ..., "lpips": ...}``, bicubic's has ``"bicubic": true`` too.

    Args:
        stage: psnr or gan.
        network: What the run trains.
        begun: Whether the run began from a model; only runs that began alike are comparable.
        folder: Holds ``NAME_xSCALE_STAGE*.jsonl``; beside it lie the models of the runs that made them.
    """
    found = {}
    for path in sorted(folder.glob(f"*_x{network.scale}_{stage}*.jsonl")):
        model = folder.parent / f"{path.stem}.safetensors"
        header = read_header(model) if model.is_file() else None
        larger = header is not None and any(getattr(header.config, side) > getattr(network, side) for side in SIDES)
        if not larger and (header is not None and "init" in header.provenance) == begun:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            found[path.stem] = [_as_row(line) for line in lines]
    return found


def _as_row(line: Row) -> Row:
    if "validation" in line or line.get("bicubic") not in (None, True):
        return line
    scores = {name: line[name] for name in ("psnr_y", "lpips") if line.get(name) is not None}
    return {"step": line["step"], "bicubic" if line.get("bicubic") else "validation": scores}
