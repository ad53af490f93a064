"""Peak memory above the loaded program against the size of the picture, as the operating system counts it.

    uv run python -m benchmarks.memory --model lite_x4_psnr --megapixels 1 4 16
    uv run python -m benchmarks.memory --model nearest --megapixels 4 64 268

``nearest`` stands in the network's place: all else is the same, and pictures become possible that take a CPU hours.
Not on Windows.
"""

import json as json_module
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pyvips
import torch
import torch.nn.functional as F
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.enlarge_file import Enlargement, write_enlarged
from esrgan.generator import Generator
from esrgan.memory import keep_buffers
from esrgan.picture_formats import FORMATS
from esrgan.picture_reader import open_picture
from esrgan.upscaler import Upscaler

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
GRAIN = 8  # side of the noise's grains, in pixels

app = App(help=__doc__)


class Nearest(Generator):
    """Each pixel four by four times."""

    def __init__(self) -> None:
        super().__init__(GeneratorConfig(channels=3, growth=1, blocks=1))

    def forward(self, lr: Tensor) -> Tensor:
        return F.interpolate(lr, scale_factor=4, mode="nearest")


@app.default
def main(
    *,
    model: str = "lite_x4_psnr",
    megapixels: Annotated[list[float], Parameter(consume_multiple=True)] = [1, 4, 16],  # noqa: B006
    tile: int | None = None,
    folder: Path | None = None,
    json: Path | None = None,
) -> None:
    """Enlarge square pictures of MEGAPIXELS, PNG to PNG, each in a process of its own.

    Args:
        model: Name or file of a model, or nearest.
        megapixels: Of the picture given.
        tile: As in ``esrgan upscale``.
        folder: For the pictures, with room for them; none = the system's temporary one.
        json: File for the figures.
    """
    table = Table("MP in", "MP out", "loaded, MiB", "above that, MiB", "times the first", "seconds", box=None)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for size in megapixels:
            side = round((size * 1e6) ** 0.5) if size != 268 else 16384
            lr = Path(name) / "lr.png"
            _noise(side).write_to_file(str(lr), compression=1)
            words = [sys.executable, "-m", "benchmarks.memory", "one", str(lr), model, *([str(tile)] if tile else [])]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            row = json_module.loads(done.stdout) | {"megapixels": side * side / 1e6}
            rows.append(row)
            above = row["peak"] - row["loaded"]
            ratio = above / (rows[0]["peak"] - rows[0]["loaded"])
            cells = (f"{size:.0f}", f"{row['scale'] ** 2 * size:.0f}", f"{row['loaded']:.0f}", f"{above:.0f}",
                     f"{ratio:.2f}", f"{row['seconds']:.0f}")  # fmt: skip
            table.add_row(*cells)
            print(*cells, flush=True)
    Console().print(table)
    if json:
        about = {"model": model, "system": platform.platform(), "torch": torch.__version__, "rows": rows}
        json.write_text(json_module.dumps(about, indent=1), encoding="utf-8")


@app.command
def one(lr: Path, model: str, tile: int | None = None) -> None:
    """Load everything by enlarging a small picture, then enlarge LR; print what memory that took."""
    keep_buffers()  # as the command does
    upscaler = Upscaler(Nearest() if model == "nearest" else model, tile=tile, device="cpu")
    small = lr.with_name("small.png")
    _noise(16).write_to_file(str(small))
    _enlarge(upscaler, small)
    loaded = _now()
    start = time.perf_counter()
    _enlarge(upscaler, lr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
    seconds = time.perf_counter() - start
    print(json_module.dumps({"loaded": loaded, "peak": peak, "seconds": seconds, "scale": upscaler.scale}))


def _enlarge(upscaler: Upscaler, lr: Path) -> None:
    with tempfile.TemporaryFile(dir=lr.parent) as file:
        picture = open_picture(lr, limit_pixels=10**9)
        write_enlarged(upscaler, picture, file.fileno(), name=lr.name, form=FORMATS["png"], how=Enlargement())


def _noise(side: int) -> pyvips.Image:
    """A picture that is not flat, made as it is written."""
    small = pyvips.Image.gaussnoise(-(-side // GRAIN), -(-side // GRAIN), mean=128, sigma=40)
    large = small.resize(GRAIN, kernel="linear").crop(0, 0, side, side)
    return large.bandjoin([large * 0.9, large * 0.8 + 20]).cast("uchar").copy(interpretation="srgb")


def _now() -> float:
    """MiB resident now; where the system does not tell, the peak so far."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20


if __name__ == "__main__":
    app()
