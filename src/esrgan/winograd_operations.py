"""Operations of Winograd's convolutions that torch can differentiate, on features in the kernel's planes.

The frames around pictures are zero, in features and in gradients.
"""

from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from esrgan.winograd import Features, Gradient, Layer, convolution, planes
from esrgan.winograd_job import LANES, SQUARE
from esrgan.winograd_threads import run

GRADIENT_SHARES = 4
"""Parts that the sum of a gradient is made of: the same whatever the number of threads, and so is the sum. Another
number gives other rounding: interrupted runs then go on a little differently."""


class Size(NamedTuple):
    """Of the pictures in some planes."""

    pictures: int
    height: int
    width: int

    def room(self, channels: int) -> Tensor:
        """For so many channels: any numbers in frames of zeros."""
        data = torch.empty(planes(self.pictures, channels, self.height, self.width))
        data[:, :, 0] = 0
        data[:, :, self.height + 1 :] = 0
        # At once what lies between a row's last pixel and the next row's first; the outermost rows are zero already.
        rows, row = data[..., 0, 0].numel(), data.shape[3]
        beside = data.view(-1)[(self.width + 1) * LANES :]
        beside.as_strided((rows - 1, (row - self.width) * LANES), (row * LANES, 1)).zero_()
        return data

    def times(self, factor: int) -> "Size":
        """Of pictures so many times as large."""
        return Size(self.pictures, factor * self.height, factor * self.width)

    def halved(self) -> "Size":
        """Of pictures half as large."""
        return Size(self.pictures, self.height // 2, self.width // 2)

    def features(self, data: Tensor) -> Features:
        """Planes as the kernel takes them, the same memory."""
        return Features(self.pictures, len(data) * LANES, self.height, self.width, data.detach().numpy())


def to_planes(pictures: Tensor) -> tuple[Tensor, Size]:
    """(N, C, H, W) in planes, and their size."""
    count, channels, height, width = pictures.shape
    lanes = F.pad(pictures.float(), (0, 0, 0, 0, 0, -channels % LANES)).view(count, -1, LANES, height, width)
    return _framed(lanes.permute(1, 0, 3, 4, 2)), Size(count, height, width)


def from_planes(x: Tensor, size: Size, channels: int) -> Tensor:
    """The first channels of planes, (N, channels, H, W)."""
    return _inner(x, size).permute(1, 0, 4, 2, 3).flatten(1, 2)[:, :channels]


def _inner(x: Tensor, size: Size) -> Tensor:
    return x[:, :, 1 : size.height + 1, 1 : size.width + 1]


def _framed(inner: Tensor) -> Tensor:
    height, width = inner.shape[2:4]
    return F.pad(inner, (0, 0, 1, 1 + -width % SQUARE, 1, 1 + -height % SQUARE))


class Frozen:
    """A convolution whose weights stay, as the kernel takes them; ``slope`` is that of the activation after it."""

    def __init__(self, module: nn.Conv2d, slope: float) -> None:
        self.module, self.slope = module, slope

    @cached_property
    def forward(self) -> Layer:
        """For its results."""
        return Layer(self.module.weight, self.module.bias, slope=self.slope)

    @cached_property
    def backward(self) -> Layer:
        """For the gradient of what it reads."""
        return Layer(turned(self.module.weight), None)


class Convolution(torch.autograd.Function):
    """``slope`` is that of the activation after it; of weights that stay, ``frozen`` is given in their place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Size, frozen: Frozen | None, slope: float, weight: Tensor | None,
                bias: Tensor | None) -> Tensor:  # fmt: skip
        layer = frozen.forward if frozen else Layer(cast(Tensor, weight), bias, slope=slope)
        result = size.room(layer.kept)
        run(convolution(layer, size.features(x), size.features(result)))
        ctx.size, ctx.frozen, ctx.slope = size, frozen, slope
        ctx.save_for_backward(x if weight is not None else None, result if slope != 1 else None, weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, result, weight = ctx.saved_tensors
        size: Size = ctx.size
        if result is not None:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)  # one pass
        given, own, of_weight, of_bias = size.features(gradient.contiguous()), None, None, None
        if ctx.needs_input_grad[0]:
            layer = ctx.frozen.backward if ctx.frozen else Layer(turned(weight), None)
            own = size.room(layer.kept)
            run(convolution(layer, given, size.features(own)))
        if weight is not None:
            outputs, inputs = weight.shape[:2]
            work = Gradient(size.features(x), given, [inputs] * outputs, shares=GRADIENT_SHARES)
            run(work.work)
            of_weight, of_bias = work.weights()[:outputs, :inputs], sums(gradient)[:outputs]
        return own, None, None, None, of_weight, of_bias


class Repeated(torch.autograd.Function):
    """Enlarged by nearest neighbour."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Size, factor: int) -> Tensor:
        ctx.size, ctx.factor = size, factor
        result = size.times(factor).room(len(x) * LANES)
        for copy in _copies(result, size.times(factor), factor):
            copy.copy_(_inner(x, size))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        own = ctx.size.room(len(gradient) * LANES)
        first, *others = _copies(gradient, ctx.size.times(ctx.factor), ctx.factor)
        total = _inner(own, ctx.size).copy_(first)
        for other in others:
            total += other
        return own, None, None


class Pooled(torch.autograd.Function):
    """The largest of each 2 x 2 pixels; the gradient goes to the first of these."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Size) -> Tensor:
        first, *others = _of_squares(x, size)
        result = size.halved().room(len(x) * LANES)
        largest = _inner(result, size.halved()).copy_(first)
        for other in others:
            torch.maximum(largest, other, out=largest)
        ctx.size = size
        ctx.save_for_backward(x, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, result = ctx.saved_tensors
        own, halved = torch.zeros_like(x), ctx.size.halved()
        largest, left = _inner(result, halved), _inner(gradient, halved).clone()
        for pixel, place in zip(_of_squares(x, ctx.size), _of_squares(own, ctx.size), strict=True):
            place.copy_(left * (pixel == largest))
            left -= place
        return own, None


def _of_squares(x: Tensor, size: Size) -> list[Tensor]:
    """Of each 2 x 2 pixels the first, the second, ..."""
    return _copies(x, Size(size.pictures, size.height // 2 * 2, size.width // 2 * 2), 2)


def _copies(x: Tensor, size: Size, factor: int) -> list[Tensor]:
    """Of each pixel, in pictures that were enlarged."""
    inner = _inner(x, size)
    return [inner[:, :, top::factor, left::factor] for top in range(factor) for left in range(factor)]


def turned(weight: Tensor) -> Tensor:
    """Weights for the gradient of what a convolution reads."""
    return weight.flip(2, 3).transpose(0, 1)


def sums(x: Tensor) -> Tensor:
    """Of each channel of planes."""
    rows = x.flatten(1, 2).flatten(2).sum(1)  # long vectors: by far the fastest
    return rows.view(len(x), -1, LANES).sum(1).flatten()
