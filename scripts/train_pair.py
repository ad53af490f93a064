"""Train a PSNR model and from it a GAN model, both stages together within a number of minutes.

    uv run python scripts/train_pair.py lite --images photos --val validation --minutes 120

The minutes are those of the steps alone: starting, the dry runs and validations come on top. A dry run on this machine
finds how many steps each stage takes. They are kept in OUT/plan.json, so that the same command resumes after an
interruption, and a run may be continued elsewhere by moving OUT. To begin another run from the result, best.safetensors
is all that is needed: give it to that run with --init.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from esrgan.cli import run
from esrgan.errors import EsrganError, UsageError
from esrgan.files import write_text

CONFIGS = Path(__file__).parents[1] / "configs"
STEPS_PER_SECOND = re.compile(r"([\d.e+-]+) steps/s")
Several = Annotated[list[Path], Parameter(consume_multiple=True)]

app = App(help=__doc__)


@app.default
def train_pair(  # noqa: PLR0913 - each is an option
    name: str,
    *,
    images: Several,
    val: Several,
    minutes: float,
    scale: int = 4,
    psnr_share: float = 0.5,
    out: Path | None = None,
    init: Path | None = None,
    vgg: Path | None = None,
    lpips: Path | None = None,
) -> None:
    """Train the pair NAME by configs/NAME_psnr_xSCALE.toml and configs/NAME_esrgan_xSCALE.toml.

    Args:
        name: Of the configs, such as lite.
        images: Training pictures.
        val: Validation pictures.
        minutes: For both stages together, on this machine.
        scale: Of the configs.
        psnr_share: Share of the minutes that stage 1 gets.
        out: Where both run folders go; none = runs/NAME_xSCALE.
        init: Model that stage 1 begins from.
        vgg: VGG19 weights.
        lpips: LPIPS-Alex weights.
    """
    _check_vgg(vgg)
    out = out or Path("runs") / f"{name}_x{scale}"
    common = ["--images", *map(str, images), "--val", *map(str, val), *(["--lpips", str(lpips)] if lpips else [])]
    one = ["pretrain", "--config", str(CONFIGS / f"{name}_psnr_x{scale}.toml"), *common, "--run-dir", str(out / "psnr")]
    one += ["--init", str(init)] if init else []
    two = ["train", "--config", str(CONFIGS / f"{name}_esrgan_x{scale}.toml"), *common, "--run-dir", str(out / "gan")]
    two += ["--init", str(out / "psnr" / "best.safetensors"), *(["--vgg", str(vgg)] if vgg else [])]
    for stage, command, minutes_of_it in (
        ("psnr", one, minutes * psnr_share),
        ("gan", two, minutes * (1 - psnr_share)),
    ):
        _esrgan([*command, "--steps", str(_steps(out / "plan.json", stage, command, minutes_of_it))])


def _check_vgg(weights: Path | None) -> None:
    """Raise now, and not after stage 1, where stage 2 could not have them."""
    from esrgan.pretrained import VGG19, fetch  # noqa: PLC0415 - torch

    if weights is None:
        fetch(VGG19)
    elif not weights.is_file():
        raise EsrganError(f"there are no VGG19 weights {weights}")


def _steps(plan: Path, stage: str, command: list[str], minutes: float) -> int:
    """How many steps the stage takes: as planned before, else what fits into the minutes."""
    planned: dict[str, float] = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else {}
    before = planned.setdefault(f"{stage} minutes", minutes)
    if before != minutes:
        raise UsageError(
            f"{plan} gives stage {stage} {before:g} minutes, not {minutes:g}; give the same --minutes and --psnr-share,"
            f" or another --out, or take {stage} out of that file to plan it anew"
        )
    if stage not in planned:
        said = _esrgan([*command, "--dry-run"], read=True)
        found = STEPS_PER_SECOND.search(said)
        if not found:
            raise EsrganError(f"the dry run of stage {stage} did not say how fast it is: {said}")
        planned[stage] = max(1, int(float(found[1]) * 60 * minutes))
        plan.parent.mkdir(parents=True, exist_ok=True)
        write_text(plan, json.dumps(planned) + "\n")
    return int(planned[stage])


def _esrgan(arguments: list[str], *, read: bool = False) -> str:
    """Run the command; where it fails it has said why. It is stopped as it would be alone, and saves."""
    words = [sys.executable, "-m", "esrgan", *arguments]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE if read else None) as process:
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # the terminal tells the command too
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number)),
        }
        said, _ = process.communicate()
        for number, handler in before.items():
            signal.signal(number, handler)
    if process.returncode:
        sys.exit(process.returncode if process.returncode > 0 else 128 - process.returncode)  # of a signal
    return said or ""


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:]))
