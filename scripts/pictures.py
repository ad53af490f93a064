"""Draw the pictures of the documentation with the shipped models, from photographs that no model was trained on.

before_after.png: bicubic and the default model; crops.png: bicubic, PSNR, GAN, HR; alpha.png: blends from PSNR to GAN;
jpeg.png: LR from a JPEG file of quality 60 by bicubic, the GAN model and the one for JPEG files, and HR.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter
from torch import Tensor

from esrgan.cli import run
from esrgan.compare import labelled
from esrgan.images import find_images, read_rgb, write_rgb
from esrgan.interpolate import interpolate
from esrgan.jpeg import compressed_tensor
from esrgan.library import find_model, partner
from esrgan.model_file import load_model
from esrgan.resize import make_lr
from esrgan.stand_ins import Bicubic
from esrgan.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
BEFORE_AFTER = (("osprey", 20, 46), ("lynx", 50, 70))  # name, top and left in LR pixels
HEIGHT, WIDTH = 88, 110  # of a crop, LR pixels
CROP = 48  # side of a small crop, LR pixels
CROPS = {"osprey": (6, 54), "wren": (18, 52), "colosseum": (60, 90), "lynx": (34, 118)}
QUALITY = 60  # of the JPEG files
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
GAP = 8

app = App(help=__doc__)


@app.default
def draw(
    *,
    photos: Path,
    more: Annotated[list[Path], Parameter(consume_multiple=True)] = [],  # noqa: B006
    out: Path = IMAGES,
    model: str | None = None,
) -> None:
    """Draw all four into OUT.

    Args:
        photos: Folder of the four samples at full size (osprey, wren, colosseum, lynx).
        more: Other HR pictures, such as a benchmark set's, whose middles are put into OUT/more.png.
        out: Where the pictures go.
        model: The GAN model; none = the default one. Its PSNR model lies beside it.
    """
    path = find_model(model)
    models = load_model(partner(path)), load_model(path)
    psnr, gan = (Upscaler(m, precision="fp32") for m in models)
    bicubic = Bicubic(gan.scale)
    columns: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": bicubic, "PSNR model": psnr, "GAN model": gan}

    samples = {name: read_rgb(ROOT / "docs" / "samples" / f"{name}.png") for name in CROPS}
    real = {name: read_rgb(photos / f"{name}.png") for name in CROPS}
    sheets: dict[str, list[list[Tensor]]] = {}  # written at the end, when nothing can fail any more
    sheets["before_after"] = [
        [_window(way(samples[name][None])[0], (top, left), (HEIGHT, WIDTH), gan.scale) for way in (bicubic, gan)]
        for name, top, left in BEFORE_AFTER
    ]

    size = (CROP, CROP)
    sheets["crops"] = []
    for name, corner in CROPS.items():
        made = {title: way(samples[name][None])[0] for title, way in columns.items()} | {"HR": real[name]}
        row = [labelled(_window(image, corner, size, gan.scale), title) for title, image in made.items()]
        sheets["crops"].append(row)

    blends = {f"alpha {alpha:g}": Upscaler(interpolate(*models, alpha), precision="fp32") for alpha in ALPHAS}
    sheets["alpha"] = [
        [
            labelled(_window(way(samples[name][None])[0], CROPS[name], size, gan.scale), title)
            for title, way in blends.items()
        ]
        for name in ("osprey", "lynx")
    ]
    jpeg = Upscaler("lite_x4_jpeg", precision="fp32")
    ways: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": bicubic, "GAN model": gan, "lite_x4_jpeg": jpeg}
    sheets["jpeg"] = []
    for name in ("colosseum", "lynx"):
        lr = compressed_tensor(samples[name], QUALITY)[None]
        made = {title: way(lr)[0] for title, way in ways.items()} | {"HR": real[name]}
        row = [labelled(_window(image, CROPS[name], size, gan.scale), title) for title, image in made.items()]
        sheets["jpeg"].append(row)
    if more:
        sheets["more"] = [_middles(image, columns, gan.scale) for image in find_images(more)]
    for name, rows in sheets.items():
        write_rgb(_sheet(rows), out / f"{name}.png")


def _middles(path: Path, columns: dict[str, Callable[[Tensor], Tensor]], scale: int) -> list[Tensor]:
    """The middle of an HR picture as each way gives it back from its LR, and itself."""
    hr = read_rgb(path)
    height, width = (side // scale for side in hr.shape[-2:])
    hr = hr[:, : height * scale, : width * scale]
    lr, size = make_lr(hr, scale), (min(CROP, height), min(CROP, width))
    corner = ((height - size[0]) // 2, (width - size[1]) // 2)
    made = {title: way(lr[None])[0] for title, way in columns.items()} | {f"HR {path.stem}": hr}
    return [labelled(_window(image, corner, size, scale), title) for title, image in made.items()]


def _window(image: Tensor, corner: tuple[int, int], size: tuple[int, int], scale: int) -> Tensor:
    rows, columns = (slice(a * scale, (a + n) * scale) for a, n in zip(corner, size, strict=True))
    return image[:, rows, columns]


def _sheet(rows: list[list[Tensor]]) -> Tensor:
    """Pictures side by side, rows below each other, in white."""
    height, width = (max(image.shape[i] for row in rows for image in row) + GAP for i in (1, 2))
    lines = []
    for row in rows:
        cells = torch.ones(len(row), 3, height, width)
        for cell, image in zip(cells, row, strict=True):
            cell[:, : image.shape[1], : image.shape[2]] = image
        lines.append(torch.cat(list(cells), dim=2))
    return torch.cat(lines, dim=1)[:, :-GAP, :-GAP]


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:]))
