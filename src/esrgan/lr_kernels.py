"""How an LR picture was made from its HR picture: ours (MATLAB's bicubic), or one of the usual others."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.resize import make_lr, quantise

SAME = 55.0  # dB; above this two LR pictures were made alike, up to rounding
CLEARER = 3.0  # dB by which another way must fit better than ours to be believed
POOR = 36.0  # dB; below this no way that is known made the LR picture
UNLIKE = 17.0  # dB; below this it does not even show the same
SIDE = 64  # LR pixels of the square in the middle that is looked at


class Way(NamedTuple):
    """How an LR picture was made."""

    words: str
    fit: float | None
    """dB of PSNR between it and one made so; none if the way is not known."""
    ours: float
    """The same for our way."""


def looks_like(lr: Tensor, hr: Tensor, scale: int) -> Way | None:
    """How ``lr`` was made if not by ``make_lr``; none if it was, or nothing known fits better.

    Args:
        lr: (3, h, w) in [0, 1].
        hr: (3, scale * h, scale * w).
        scale: HR over LR size.
    """
    rows, columns = (slice(max(0, (n - SIDE) // 2), max(0, (n - SIDE) // 2) + SIDE) for n in lr.shape[1:])
    whole_lr, whole_hr = lr, hr
    lr = lr[:, rows, columns]
    hr = hr[:, rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
    ours = _likeness(make_lr(quantise(hr), scale), lr)
    if scale == 1 or ours > SAME:
        return None
    fits = {words: _likeness(make_lr(whole_hr.flip(dims), scale), whole_lr) for words, dims in _FLIPS.items()}
    fits |= {words: _likeness(make(hr, scale), lr) for words, make in _WAYS.items()}
    fits |= {_shift_words(dy, dx): _likeness(make_lr(_shifted(hr, dy, dx), scale), lr)
             for dy in _SHIFTS for dx in _SHIFTS if dy or dx}  # fmt: skip
    best = max(fits, key=lambda words: fits[words])
    if fits[best] >= max(ours + CLEARER, UNLIKE):
        return Way(best, fits[best], ours)
    if ours < UNLIKE:
        return Way("of another picture, it seems", None, ours)
    return Way("in another way (noise, JPEG, blur?)", None, ours) if ours < POOR else None


def _interpolated(mode: str, *, antialias: bool) -> Callable[[Tensor, int], Tensor]:
    def make(hr: Tensor, scale: int) -> Tensor:
        return F.interpolate(hr[None], scale_factor=1 / scale, mode=mode, antialias=antialias, align_corners=False)[0]

    return make


def _lanczos(hr: Tensor, scale: int) -> Tensor:
    """Antialiased Lanczos with three lobes."""
    for dim in (1, 2):
        length = hr.shape[dim] // scale
        centre = (torch.arange(length)[:, None] + 0.5) * scale - 0.5
        reach = 3 * scale
        positions = centre.floor() + torch.arange(-reach, reach + 1)
        weights = torch.sinc((positions - centre) / scale) * torch.sinc((positions - centre) / scale / 3)
        weights = torch.where((positions - centre).abs() < reach, weights, 0)
        weights /= weights.sum(dim=1, keepdim=True)
        index = positions.long().clamp(0, hr.shape[dim] - 1)
        hr = (hr.movedim(dim, -1)[..., index] * weights).sum(-1).movedim(-1, dim)
    return hr


_WAYS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "by OpenCV's cubic, which skips pixels (no antialiasing)": _interpolated("bicubic", antialias=False),
    "by a linear kernel without antialiasing (OpenCV's linear)": _interpolated("bilinear", antialias=False),
    "by an antialiased linear kernel (PIL's bilinear)": _interpolated("bilinear", antialias=True),
    "by the mean of each block (area, box)": lambda hr, scale: F.avg_pool2d(hr[None], scale)[0],
    "by taking every nth pixel (nearest)": lambda hr, scale: hr[:, ::scale, ::scale],
    "by taking the middle pixel of each block (nearest)": lambda hr, scale: hr[
        :, scale // 2 :: scale, scale // 2 :: scale
    ],
    "by Lanczos": _lanczos,
    "in linear light": lambda hr, scale: make_lr(hr.clamp(0, 1) ** 2.2, scale).clamp(0, 1) ** (1 / 2.2),
    "with red and blue swapped": lambda hr, scale: make_lr(quantise(hr.flip(0)), scale),
}
_FLIPS = {"mirrored": (2,), "upside down": (1,), "turned by 180 degrees": (1, 2)}
_SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # HR pixels


def _shift_words(dy: float, dx: float) -> str:
    return f"shifted, down by {dy:g} and right by {dx:g} HR pixels"


def _shifted(hr: Tensor, dy: float, dx: float) -> Tensor:
    """``hr`` moved down by dy and right by dx; halves are the mean of both neighbours."""
    for dim, shift in ((1, dy), (2, dx)):
        whole = int(shift // 1)
        moved = torch.roll(hr, whole, dim)
        hr = moved if shift == whole else (moved + torch.roll(hr, whole + 1, dim)) / 2
    return quantise(hr)


def _likeness(one: Tensor, other: Tensor) -> float:
    """PSNR in dB of the inner part, both rounded to 8 bits."""
    edge = 3 if min(other.shape[1:]) > 12 else 0
    rows, columns = (slice(edge, length - edge) for length in other.shape[1:])
    error = (quantise(one) - quantise(other))[:, rows, columns].square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))
