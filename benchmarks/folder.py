"""Seconds for a folder of pictures, file to file: the command against a plain loop as Real-ESRGAN's script has it.

    uv run --group bench python -m benchmarks.folder --pictures 20 --side 128

Both read and write PNG with the same model. The plain loop reads, runs torch in fp32 NCHW, and writes, one after the
other; starting Python is in neither.
"""

import contextlib
import io
import tempfile
from functools import partial
from pathlib import Path

import torch
from cyclopts import App

from benchmarks.harness import pick_clock, save, show, take_turns
from esrgan.cli import main as esrgan
from esrgan.images import read_rgb, write_rgb
from esrgan.library import find_model
from esrgan.model_file import load_model
from esrgan.parity import made_picture

app = App(help=__doc__)


@app.default
def main(
    *,
    pictures: int = 20,
    side: int = 128,
    model: str = "lite_x4_psnr",
    rounds: int = 3,
    processor: bool = False,
    json: Path | None = None,
) -> None:
    """Measure.

    Args:
        pictures: How many.
        side: Of the largest; the others are down to half of it.
        model: Name or file.
        rounds: How often each way is timed.
        processor: Count processor seconds of one thread, for a machine where other programs run.
        json: File for the figures.
    """
    clock = pick_clock(processor=processor)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        for i in range(pictures):
            height, width = side - i * side // (2 * pictures), side
            write_rgb(made_picture(height, width)[0], folder / f"{i:02}.png")
        ways = {"plain loop, fp32 NCHW": partial(_plain, folder, out, model),
                "esrgan upscale": partial(_ours, folder, out, model)}  # fmt: skip
        title = f"{pictures} pictures of up to {side} x {side}, {model}"
        timings = take_turns(ways, rounds=rounds, clock=clock)
    show(title, timings)
    save({title: timings}, json)


@torch.no_grad()
def _plain(folder: Path, out: Path, model: str) -> None:
    network = load_model(find_model(model)).eval()
    for path in sorted(folder.iterdir()):
        write_rgb(network(read_rgb(path)[None])[0].clamp(0, 1), out / path.name)


def _ours(folder: Path, out: Path, model: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = esrgan(["upscale", str(folder), "--out", str(out), "--model", model, "--overwrite"])
    assert code == 0


if __name__ == "__main__":
    app()
