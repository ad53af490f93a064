"""The proof that a converted or exported network is the same network: its pictures against torch's."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.images import read_rgb

LEVEL = 1 / 255
SIZES = ((48, 64), (72, 40))
"""Height and width of the pictures compared; multiples of 4, which pixel-unshuffle networks need in ncnn."""
PHOTO = Path(__file__).with_name("parity.png")
"""80 x 80 pixels of docs/samples/osprey.png, a CC0 photograph."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far two networks' outputs lie apart on one picture."""

    height: int
    width: int
    largest_difference: float
    """Of any value, pictures being in [0, 1]."""
    psnr: float
    """Over all values, in dB; at most 200, which stands for no difference at all."""

    def __str__(self) -> str:
        size = f"{self.width} x {self.height}"
        return f"{size}: largest difference {255 * self.largest_difference:.5f} of 255, PSNR {self.psnr:.1f} dB"


def compare(generator: Generator, run: Run, *, picture: Tensor | None = None) -> list[Parity]:
    """Run both on two sizes of ``picture``, (3, H, W) in [0, 1]; with none, of a photograph that comes along."""
    rows = []
    picture = read_rgb(PHOTO) if picture is None else large_enough(picture)
    for height, width in SIZES:
        lr = _crop(picture, height, width)
        with torch.inference_mode():
            expected = generator(lr).clamp(0, 1)
        found = run(lr).float().clamp(0, 1)
        if found.shape != expected.shape:
            raise EsrganError(f"the other engine gives a picture of {tuple(found.shape)}, not {tuple(expected.shape)}")
        difference = (found - expected).double()
        mean_square = max(difference.square().mean().item(), 1e-20)
        rows.append(
            Parity(
                height=height,
                width=width,
                largest_difference=difference.abs().max().item(),
                psnr=-10 * math.log10(mean_square),
            )
        )
    return rows


def require(rows: list[Parity], *, half: bool, what: Path | str) -> None:
    """Stop where the pictures differ by more than 1/255 (or, in fp16, have less than 50 dB).

    Raises:
        EsrganError: They do, or are not finite.
    """
    for row in rows:
        same = row.psnr >= 50 if half else row.largest_difference <= LEVEL
        if not same:  # also where either is not a number
            raise EsrganError(
                f"{what} is not written: its pictures are not those of the model ({row});"
                + (" its weights do not fit into fp16, leave --half out" if half else " please report this")
            )


def made_picture(height: int, width: int) -> Tensor:
    """A picture with all that networks react to: a gradient, round edges, fine texture; the same one always."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.05).float()
    waves = torch.sin(60 * x * (1 + y)) * 0.15
    grain = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 0.1
    colours = torch.stack((x, 0.5 * (x + y), 1 - y)) * 0.6 + 0.1
    return (colours + 0.3 * disc + waves + grain).clamp(0, 1)[None]


def large_enough(picture: Tensor) -> Tensor:
    """``picture``, (3, H, W), which must not be smaller than what is compared.

    Raises:
        EsrganError: It is.
    """
    height, width = (max(side) for side in zip(*SIZES, strict=True))
    if picture.shape[-2] < height or picture.shape[-1] < width:
        raise EsrganError(
            f"the picture to compare with is {picture.shape[-1]} x {picture.shape[-2]}; it must be at least"
            f" {width} x {height}"
        )
    return picture


def _crop(picture: Tensor, height: int, width: int) -> Tensor:
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[None, :, top : top + height, left : left + width].contiguous()
