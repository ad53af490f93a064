"""The dense block as one operation of Winograd's convolutions that torch can differentiate."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from esrgan.convolutions import NEGATIVE_SLOPE
from esrgan.generator import RESIDUAL_SCALE
from esrgan.winograd import Gradient, Layer, convolution
from esrgan.winograd_job import whole
from esrgan.winograd_operations import GRADIENT_SHARES, Size, sums, turned
from esrgan.winograd_threads import run


class DenseBlock(torch.autograd.Function):
    """``x + RESIDUAL_SCALE * conv5(...)``, of the weights and biases of the five convolutions in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Size, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        channels, growth = weights[4].shape[0], weights[0].shape[0]
        sources, step = (channels, growth, growth, growth, growth), whole(growth)
        grown, result = size.room(4 * step), size.room(channels)
        read, more, last = (size.features(each) for each in (x, grown, result))
        works = []
        for i in range(4):
            layer = Layer(weights[i], biases[i], sources[: i + 1], slope=NEGATIVE_SLOPE)
            works.append(convolution(layer, read, more.part(i * step, growth), grown=more))
        layer = Layer(weights[4], biases[4], sources, factor=RESIDUAL_SCALE)
        run(*works, convolution(layer, read, last, grown=more, added=read))
        ctx.size = size
        ctx.save_for_backward(x, grown, *weights)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """A dense block too, from the last convolution's results to the first's: each reads the gradients so far."""
        x, grown, *weights = ctx.saved_tensors
        size: Size = ctx.size
        gradient = gradient.contiguous()
        channels, growth = weights[4].shape[0], weights[0].shape[0]
        step, sources = whole(growth), (channels, growth, growth, growth, growth)
        back, own = size.room(4 * step), size.room(channels)
        given, signs, more, last = (size.features(each) for each in (gradient, grown, back, own))
        scaled = [*weights[:4], weights[4] * RESIDUAL_SCALE]
        works = []
        for i in range(4):  # the gradient of convolution k's results, k = 3 first, from those that read them
            k = 3 - i
            start = channels + k * growth
            readers = [turned(weight[:, start : start + growth]) for weight in scaled[:k:-1]]
            layer = Layer(torch.cat(readers, dim=1), None, sources[: i + 1], slope=NEGATIVE_SLOPE)
            there = more.part(i * step, growth)
            works.append(convolution(layer, given, there, grown=more, signs=signs.part(k * step, growth)))
        readers = [turned(weight[:, :channels]) for weight in scaled[::-1]]
        run(*works, convolution(Layer(torch.cat(readers, dim=1), None, sources), given, last, grown=more, added=given))
        return own, None, *_of_dense_block(size, (x, grown), (gradient, back), channels, growth)


def _of_dense_block(
    size: Size, read: Sequence[Tensor], gradients: Sequence[Tensor], channels: int, growth: int
) -> Iterator[Tensor]:
    """The gradients of its weights and biases in turn."""
    (x, grown), (gradient, back) = map(size.features, read), map(size.features, gradients)
    wide, step = whole(channels), whole(growth)
    needed = [wide + 4 * step] * wide + [wide + i * step for i in (3, 2, 1, 0) for _ in range(step)]
    job = Gradient(x, gradient, needed, grown=grown, further=back, shares=GRADIENT_SHARES)
    run(job.work)
    found, biases = job.weights(), torch.cat([sums(each) for each in gradients])
    starts = [0, *range(wide, wide + 4 * step, step)]
    inputs = [slice(start, start + count) for start, count in zip(starts, (channels, *[growth] * 4), strict=True)]
    for i in (0, 1, 2, 3):
        rows = slice(wide + (3 - i) * step, wide + (3 - i) * step + growth)
        yield torch.cat([found[rows, each] for each in inputs[: i + 1]], dim=1)
        yield biases[rows]
    yield RESIDUAL_SCALE * torch.cat([found[:channels, each] for each in inputs], dim=1)
    yield RESIDUAL_SCALE * biases[:channels]
