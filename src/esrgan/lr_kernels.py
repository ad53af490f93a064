"""How an LR picture was made from its HR picture: ours (MATLAB's bicubic), or one of the usual others."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.resize import make_lr, quantise

SAME = 42.0  # dB; above this two LR pictures were made alike, up to rounding and JPEG of high quality
CLEARER = 3.0  # dB by which another way must fit better than ours to be believed


def looks_like(lr: Tensor, hr: Tensor, scale: int) -> str | None:
    """In words, how ``lr`` was made if not by ``make_lr``; none if it was, or nothing known fits better.

    Args:
        lr: (3, h, w) in [0, 1].
        hr: (3, scale * h, scale * w).
        scale: HR over LR size.
    """
    ours = _likeness(make_lr(quantise(hr), scale), lr)
    if scale == 1 or ours > SAME:
        return None
    fits = {name: _likeness(make(hr, scale), lr) for name, make in _WAYS.items()}
    fits |= {_shift_name(dy, dx): _likeness(make_lr(_shifted(hr, dy, dx), scale), lr)
             for dy in _SHIFTS for dx in _SHIFTS if dy or dx}  # fmt: skip
    best = max(fits, key=lambda name: fits[name])
    if fits[best] < ours + CLEARER:
        return None if ours > 30 else f"in another way (they are only {ours:.0f} dB like ours: noise, JPEG or blur?)"
    return f"{best} ({fits[best]:.0f} dB like that, {ours:.0f} dB like ours)"


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
}
_SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # HR pixels


def _shift_name(dy: float, dx: float) -> str:
    return f"shifted by {dy:g} rows and {dx:g} columns of HR"


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
