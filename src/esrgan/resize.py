"""MATLAB-compatible bicubic resizing, the field's way of making LR from HR.

Keys' cubic kernel (a = -0.5), widened by the factor when it shrinks (antialiasing). PIL normalises differently at the
border, OpenCV does not antialias. MATLAB's ``imresize`` once repeated the edge pixel beyond the border and now mirrors;
the published LR images of Set5, Set14 and BSD100 come from the former (ours are within 1 level of them at every pixel,
mirrored ones up to 12 off), so that is the default here.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from esrgan.errors import EsrganError


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


Border = Literal["replicate", "symmetric"]


@lru_cache(maxsize=64)
def taps(length: int, out_length: int, factor: float, border: Border) -> tuple[Tensor, Tensor]:
    """For every output position: the input positions it reads and their weights; (out_length, taps) each."""
    shrink = min(factor, 1.0)
    centre = (torch.arange(out_length, dtype=torch.float64) + 0.5) / factor - 0.5
    reach = 2 / shrink
    count = math.ceil(2 * reach) + 1
    positions = (centre - reach).floor()[:, None] + torch.arange(count, dtype=torch.float64)
    weights = shrink * cubic(shrink * (centre[:, None] - positions))
    weights /= weights.sum(dim=1, keepdim=True)
    index = positions.long()
    if border == "symmetric":  # ... b a | a b ... y z | z y ...
        index = index % (2 * length)
        index = torch.where(index < length, index, 2 * length - 1 - index)
    index = index.clamp(0, length - 1)
    used = weights.abs().amax(dim=0) > 0
    return index[:, used], weights[:, used]


def _along(image: Tensor, dim: int, out_length: int, factor: float, border: Border) -> Tensor:
    index, weights = taps(image.shape[dim], out_length, factor, border)
    index, weights = index.to(image.device), weights.to(image.dtype).to(image.device)  # MPS has no float64
    image = image.movedim(dim, -1)
    out = torch.zeros(*image.shape[:-1], out_length, dtype=image.dtype, device=image.device)
    for tap in range(index.shape[1]):
        out += image[..., index[:, tap]] * weights[:, tap]
    return out.movedim(-1, dim)


def resize(
    image: Tensor,
    factor: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    border: Border = "replicate",
    eight_bit: bool = False,
) -> Tensor:
    """Resize by bicubic interpolation as MATLAB's ``imresize`` does.

    Args:
        image: (..., H, W), floating point, any range.
        factor: Output over input size; the output has ceil(H * factor) rows, ceil(W * factor) columns.
        size: (rows, columns) instead of, or, where rounding matters, together with, the factor.
        border: What lies beyond the edge: the edge pixel again, or the mirrored picture (newer MATLAB).
        eight_bit: ``image`` is in [0, 1]; round it to 256 levels after each dimension, as MATLAB does with uint8.

    Returns:
        The resized image; unless ``eight_bit``, not clamped: the kernel overshoots at edges.
    """
    if (factor is None and size is None) or min(image.shape[-2:]) < 1:
        raise EsrganError(f"resize needs a factor or a size, and an image that is not empty; got {tuple(image.shape)}")
    lengths = image.shape[-2:]
    sizes = size or (
        math.ceil(lengths[0] * (factor or 1)),
        math.ceil(lengths[1] * (factor or 1)),
    )
    if min(sizes) < 1 or (factor is not None and factor <= 0):
        raise EsrganError(f"cannot resize {lengths[0]} x {lengths[1]} to {sizes[0]} x {sizes[1]}")
    factors = [factor or new / old for new, old in zip(sizes, lengths, strict=True)]
    order = sorted((-2, -1), key=lambda dim: factors[dim])  # MATLAB: the dimension that shrinks most comes first
    for dim in order:
        image = _along(image, dim, sizes[dim], factors[dim], border)
        image = quantise(image) if eight_bit else image
    return image


def make_lr(hr: Tensor, scale: int) -> Tensor:
    """The field's LR picture of ``hr``, (..., H, W) in [0, 1] with H and W multiples of ``scale``; 8-bit levels."""
    return resize(hr, 1 / scale, eight_bit=True)


def quantise(image: Tensor) -> Tensor:
    """Round [0, 1] to the 256 levels of an 8-bit file, as MATLAB does (halves away from zero)."""
    return (image * 255 + 0.5).floor().clamp(0, 255) / 255
