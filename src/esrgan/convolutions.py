"""The generators' convolutions, in the form that is fastest where they run; the same outputs up to rounding."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2
_FUSES = (  # where torch has oneDNN, and that bf16
    hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
_LEAKY = ("leaky_relu", [NEGATIVE_SLOPE], "")


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def activate(x: Tensor) -> Tensor:
    """The network's LeakyReLU."""
    return F.leaky_relu(x, NEGATIVE_SLOPE)


def conv_activated(layer: nn.Module, x: Tensor) -> Tensor:
    """``activate(layer(x))``; for inference in bf16 on a CPU oneDNN does both at once, 6 % sooner for a network."""
    assert isinstance(layer, nn.Conv2d)
    plain = torch.compiler.is_compiling() or not _FUSES or layer.padding_mode != "zeros"  # asking more breaks its graph
    if plain or x.device.type != "cpu" or x.dtype != torch.bfloat16 or not torch.is_inference_mode_enabled():
        return activate(layer(x))
    geometry = (layer.padding, layer.stride, layer.dilation, layer.groups)
    fused = torch.ops.mkldnn._convolution_pointwise(x, layer.weight, layer.bias, *geometry, *_LEAKY)
    return cast(Tensor, fused)


def conv_enlarged(layer: nn.Module, x: Tensor, factor: int) -> Tensor:
    """``activate(layer(nearest enlargement of x))``, (N, C, H, W) -> (N, C', factor * H, factor * W).

    On a CPU, for inference in bf16 and for training in fp32, as a transposed convolution, which is the same up to
    rounding and about twice as fast (``docs/LOG.md``). Elsewhere it stays what it is, bit for bit.
    """
    assert isinstance(layer, nn.Conv2d)
    bf16 = x.dtype == torch.bfloat16
    plain = torch.compiler.is_compiling() or layer.padding_mode != "zeros" or x.device.type != "cpu"
    if plain or not (torch.is_inference_mode_enabled() if bf16 else layer.training):
        return conv_activated(layer, F.interpolate(x, scale_factor=factor, mode="nearest"))
    kernel = transposed_kernel(layer.weight, factor)
    kernel = evenly_rounded(kernel, factor).bfloat16() if bf16 else kernel
    return F.leaky_relu_(F.conv_transpose2d(x, kernel, layer.bias, stride=factor, padding=1), NEGATIVE_SLOPE)


def transposed_kernel(weight: Tensor, factor: int) -> Tensor:
    """A transposed convolution's kernel that does what ``weight`` does after nearest enlargement.

    Of the pixels that ``weight`` reads there, up to ``factor`` in a row are copies of one; their weights are summed. So
    (factor + 2)^2 products take the place of 9 factor^2.

    Args:
        weight: (out, in, 3, 3), for padding 1.
        factor: The enlargement; the stride of the transposed convolution, whose padding is 1 too.

    Returns:
        (in, out, factor + 2, factor + 2), float32.
    """
    ones = torch.ones(1, 1, factor, factor, device=weight.device)
    with torch.autocast(weight.device.type, enabled=False):
        summed = F.conv2d(weight.float().flatten(0, 1)[:, None], ones, padding=factor - 1)
    return summed.view(*weight.shape[:2], factor + 2, factor + 2).flip(2, 3).transpose(0, 1)


def evenly_rounded(kernel: Tensor, factor: int) -> Tensor:
    """The kernel of a transposed convolution with values that bf16 holds, rounded so that flat areas stay flat.

    Each of factor x factor neighbouring pixels is made by its own taps of ``kernel``. Their sums are one number, and
    would not be after plain rounding: a grid. Here what a sum is off goes into its smallest tap, which has the finest
    steps.

    Args:
        kernel: (in, out, factor + 2, factor + 2), float32.
        factor: The stride.
    """
    side = kernel.shape[-1]
    count = -(-side // factor)
    pad, ends = [0, count * factor - side] * 2, kernel.shape[:2]

    def by_pixel(image: Tensor) -> Tensor:
        """(in, out, side, side) -> (in, out, factor, factor, taps); where a pixel has fewer, zeros."""
        return F.pad(image, pad).view(*ends, count, factor, count, factor).permute(0, 1, 3, 5, 2, 4).flatten(4)

    taps, there = by_pixel(kernel), by_pixel(torch.ones_like(kernel)) > 0
    wanted = taps.sum(-1, keepdim=True)
    if factor > 2:  # a pixel has one tap only, which sets what the others can be
        wanted = wanted.bfloat16().float()
    taps = taps.bfloat16().float()
    for _ in range(4):
        smallest = taps.abs().masked_fill(~there, torch.inf).argmin(-1, keepdim=True)
        taps = taps.scatter_add(-1, smallest, wanted - taps.sum(-1, keepdim=True)).bfloat16().float()
    even = taps.view(*ends, factor, factor, count, count).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    return even[..., :side, :side].contiguous()


def blocked_kernel(weight: Tensor, side: int) -> Tensor:
    """A kernel that makes ``side`` x ``side`` neighbouring outputs of ``weight`` at once, for stride ``side``.

    Args:
        weight: (out, in, k, k).
        side: Of the block; the result is brought in place by pixel-shuffle.

    Returns:
        (side^2 out, in, k + side - 1, k + side - 1).
    """
    places = [(down, right) for down in range(side) for right in range(side)]
    rest = side - 1
    shifted = [F.pad(weight, (right, rest - right, down, rest - down)) for down, right in places]
    return torch.stack(shifted, 1).flatten(0, 1)
