"""Draw the README's picture: crops of the CC0 samples, bicubic on the left, the shipped default model on the right."""

from pathlib import Path

import torch
from cyclopts import App

from esrgan.images import read_rgb, write_rgb
from esrgan.resize import resize
from esrgan.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
CROPS = (("osprey", 20, 46), ("lynx", 50, 70))  # name, top and left in LR pixels
HEIGHT, WIDTH = 88, 110  # of a crop, LR pixels
GAP = 8

app = App(help=__doc__)


@app.default
def before_after(*, model: str | None = None, out: Path = ROOT / "docs" / "images" / "before_after.png") -> None:
    """Enlarge the samples with MODEL and put crops side by side into OUT.

    Args:
        model: Name or path; none = the default model.
        out: The picture.
    """
    upscaler = Upscaler(model)
    rows = []
    for name, top, left in CROPS:
        lr = read_rgb(ROOT / "docs" / "samples" / f"{name}.png")
        scale = upscaler.scale
        window = (..., slice(top * scale, (top + HEIGHT) * scale), slice(left * scale, (left + WIDTH) * scale))
        pictures = (resize(lr, scale, eight_bit=True), upscaler(lr[None])[0])
        gap = torch.ones(3, HEIGHT * scale, GAP)
        rows += [torch.cat((pictures[0][window], gap, pictures[1][window]), dim=2)]
    gap = torch.ones(3, GAP, rows[0].shape[2])
    write_rgb(torch.cat((rows[0], gap, rows[1]), dim=1), out)


if __name__ == "__main__":
    app()
