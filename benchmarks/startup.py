"""Seconds from process start to the first output, a picture of 64 x 64 enlarged, against ``import torch`` alone.

uv run python -m benchmarks.startup --model lite_x4_psnr
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from cyclopts import App

from benchmarks.harness import save, show, take_turns
from esrgan.images import write_rgb
from esrgan.parity import made_picture

app = App(help=__doc__)


@app.default
def main(*, model: str | None = None, rounds: int = 7, json: Path | None = None) -> None:
    """Measure.

    Args:
        model: Name or file; none = the default model.
        rounds: How often each program is started.
        json: File for the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        lr, sr = Path(folder) / "lr.png", Path(folder) / "sr.png"
        write_rgb(made_picture(64, 64)[0], lr)
        verb = [sys.executable, "-m", "esrgan", "upscale", str(lr), "-o", str(sr), "--overwrite"]
        programs = {
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "esrgan upscale": [*verb, *(["--model", model] if model else [])],
            "esrgan --help": [sys.executable, "-m", "esrgan", "--help"],
        }
        start = partial(subprocess.run, check=True, capture_output=True)
        timings = take_turns({name: partial(start, words) for name, words in programs.items()}, rounds=rounds)
    show("startup", timings)
    save({"startup": timings}, json)


if __name__ == "__main__":
    app()
