"""Seconds on a CPU for a folder of pictures, file to file: the command against plain loops over other engines.

    uv run --group bench python -m benchmarks.folder --pictures 20 --side 128

All read and write PNG with the same weights. A plain loop loads the network, then reads, runs and writes one picture
after the other, as Real-ESRGAN's script does (the first row, in torch, fp32, NCHW). Starting Python is in none.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from cyclopts import App
from torch import Tensor

from benchmarks.harness import as_commands_do, pick_clock, save, show, take_turns
from benchmarks.peers import Network, peers, write_files
from esrgan.cli import main as esrgan
from esrgan.images import find_images, read_rgb, write_rgb
from esrgan.library import find_model
from esrgan.model_file import load_model

app = App(help=__doc__)


@app.default
def main(
    *,
    pictures: int = 20,
    photos: Path = Path("docs/samples"),
    side: int = 128,
    model: str = "lite_x4_psnr",
    rounds: int = 3,
    processor: bool = False,
    json: Path | None = None,
) -> None:
    """Measure.

    Args:
        pictures: How many; cut from the middle of ``photos``, taken in turn.
        photos: Folder of photographs.
        side: Of the largest, and at most the photographs'; the others are down to half of it.
        model: Name or file.
        rounds: How often each way is timed.
        processor: Count processor seconds of one thread, for a machine where other programs run.
        json: File for the figures.
    """
    clock = pick_clock(processor=processor)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        sources = [read_rgb(path) for path in find_images([photos])]
        for i in range(pictures):
            photo = _middle(sources[i % len(sources)], side - i * side // (2 * pictures), side)
            write_rgb(photo, folder / f"{i:02}.png")
        write_files(load_model(find_model(model)), Path(name))
        loops = {peer: partial(_loop, folder, out, load) for peer, load in peers(Path(name), fixed=False).items()}
        ways: dict[str, Callable[[], object]] = {
            **loops,
            "esrgan upscale": as_commands_do(partial(_ours, folder, out, model)),
        }
        title = f"{pictures} pictures of up to {side} x {side}, {model}"
        timings = take_turns(ways, rounds=rounds, clock=clock)
    show(title, timings)
    save({title: timings}, json)


def _middle(photo: Tensor, height: int, width: int) -> Tensor:
    top, left = max(photo.shape[1] - height, 0) // 2, max(photo.shape[2] - width, 0) // 2
    return photo[:, top : top + height, left : left + width]


def _loop(folder: Path, out: Path, load: Callable[[], Network]) -> None:
    network = load()
    for path in sorted(folder.iterdir()):
        write_rgb(torch.as_tensor(network(read_rgb(path)[None]))[0].clamp(0, 1), out / path.name)


def _ours(folder: Path, out: Path, model: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = esrgan(["upscale", str(folder), "--out", str(out), "--model", model, "--device", "cpu", "--overwrite"])
    assert code == 0


if __name__ == "__main__":
    app()
