"""Convolutions by ``winograd_kernel`` on features that lie as it reads them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from esrgan.winograd_job import (
    LANES,
    OUTPUTS,
    POINTS,
    SQUARE,
    TOGETHER,
    Array,
    GradientJob,
    Job,
    transformed,
    weight_gradient,
    whole,
)
from esrgan.winograd_threads import Work

Table = npt.NDArray[np.int64]
BLOCKS = TOGETHER, 4 * TOGETHER
"""Squares between two transforms: few, so that they stay in the cache; more of layers whose weights do not."""
SUMMED = 64
"""Squares between two transforms of a gradient."""
MANY = 9 * 128 * 128
"""Weights of a layer that the cache does not hold."""


class Features:
    """Features of some pictures as the kernel reads them: in planes of 8 channels, each picture in a frame of zeros.

    Args:
        count: Of pictures.
        channels: Rounded up to whole planes.
        height: Of a picture, in pixels.
        width: Likewise.
        data: The features, if they are there already.

    Attributes:
        data: (channels / 8, count, height', width', 8), zeros; sides rounded up to whole squares, and the frame's 2.
    """

    def __init__(self, count: int, channels: int, height: int, width: int, data: Array | None = None) -> None:
        self.count, self.height, self.width = count, height, width
        self.data = np.zeros(planes(count, channels, height, width), np.float32) if data is None else data

    @property
    def inner(self) -> Array:
        """The pictures without their frames: (channels / 8, count, height, width, 8)."""
        return self.data[:, :, 1 : self.height + 1, 1 : self.width + 1]

    @property
    def row(self) -> int:
        """Numbers from one row to the next."""
        return int(self.data.shape[3]) * LANES

    @property
    def plane(self) -> int:
        """Numbers from one plane to the next."""
        return int(self.data[0].size)

    @property
    def address(self) -> int:
        """Where the first plane begins, in bytes."""
        return int(self.data.ctypes.data)

    def part(self, channel: int, channels: int) -> "Features":
        """Some of the channels, in the same memory; the first a multiple of 8."""
        some = self.data[channel // LANES : (channel + whole(channels)) // LANES]
        return Features(self.count, channels, self.height, self.width, some)

    @property
    def sources(self) -> Table:
        """Where in a plane the pixels begin that each square of results reads."""
        return _places(self.count, self.height, self.width, SQUARE, 0)

    @property
    def sources_twice(self) -> Table:
        """The same for squares of results that are twice as fine."""
        return _places(self.count, self.height, self.width, SQUARE // 2, 0)

    @property
    def targets(self) -> Table:
        """Where in a plane each square of results begins."""
        return _places(self.count, self.height, self.width, SQUARE, self.row + LANES)

    @property
    def remaining(self) -> tuple[Table, Table]:
        """Rows and columns of pixels from each square's first to the last of its picture."""
        return _remaining(self.count, self.height, self.width)

    def put(self, pictures: Tensor) -> "Features":
        """Take over (count, channels, height, width); gives itself."""
        for plane, some in zip(self.inner, torch.split(pictures, LANES, dim=1), strict=True):
            plane[..., : some.shape[1]] = some.permute(0, 2, 3, 1).numpy()
            plane[..., some.shape[1] :] = 0
        return self

    def clear_frame(self) -> "Features":
        """Let what is around the pictures be zeros again; gives itself."""
        for lines, end in ((self.data, self.height), (self.data.swapaxes(2, 3), self.width)):
            lines[:, :, 0] = 0
            lines[:, :, end + 1 :] = 0
        return self

    def take(self, channels: int) -> Tensor:
        """The first ``channels`` channels as (count, channels, height, width)."""
        lanes = torch.from_numpy(self.inner).permute(1, 0, 4, 2, 3)
        return lanes.flatten(1, 2)[:, :channels].contiguous()


def planes(count: int, channels: int, height: int, width: int) -> tuple[int, ...]:
    """The shape of ``Features.data``."""
    sides = (whole(side, SQUARE) + 2 for side in (height, width))
    return whole(channels) // LANES, count, *sides, LANES


@lru_cache(maxsize=64)
def _places(count: int, height: int, width: int, step: int, start: int) -> Table:
    _, _, rows, columns, lanes = planes(count, LANES, height, width)
    y, x = (np.arange(0, side, step) for side in (height, width))
    places = (np.arange(count)[:, None, None] * rows + y[:, None]) * columns + x
    return (start + places * lanes).astype(np.int64).ravel()


@lru_cache(maxsize=64)
def _remaining(count: int, height: int, width: int) -> tuple[Table, Table]:
    y, x = (np.arange(0, side, SQUARE) for side in (height, width))
    shape = count, len(y), len(x)
    rows, columns = (np.broadcast_to(n, shape) for n in ((height - y)[:, None], width - x))
    return rows.astype(np.int64).ravel(), columns.astype(np.int64).ravel()


class Layer:
    """A convolution's weights as the kernel takes them.

    Args:
        weight: (out, in, 3, 3).
        bias: (out,), or none.
        sources: Channels of the features that it reads, one after the other, each in planes of its own; none = one.
        factor: Its results are multiplied by it,
        slope: and then, where they are below zero, by this: the slope of ReLU or LeakyReLU.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        sources: Sequence[int] = (),
        *,
        factor: float = 1.0,
        slope: float = 1.0,
    ) -> None:
        self.slope = np.array(slope, np.float32)
        weight = weight.detach().cpu().float()
        count, parts = len(weight), torch.split(weight, list(sources) or weight.shape[1], dim=1)
        self.kept = whole(count)
        padded = torch.zeros(whole(count, OUTPUTS), sum(whole(part.shape[1]) for part in parts), 3, 3)
        start = 0
        for part in parts:
            padded[:count, start : start + part.shape[1]] = part
            start += whole(part.shape[1])
        self.outputs, self.inputs = padded.shape[:2]
        self.block = BLOCKS[padded.numel() > MANY]
        self.weights: Array = transformed(padded.mul_(factor)).numpy()
        self.bias = np.zeros(self.outputs, np.float32)
        if bias is not None:
            self.bias[:count] = bias.detach().cpu().float().numpy() * factor


def convolution(
    layer: Layer,
    source: Features,
    target: Features,
    *,
    grown: Features | None = None,
    signs: Features | None = None,
    added: Features | None = None,
    added_scaled: Features | None = None,
) -> Work:
    """What writes a layer's results to ``target``, once it is run.

    Args:
        layer: What is applied.
        source: What it reads, all channels; if ``target`` is twice as large, enlarged by nearest neighbour.
        target: Where its results go.
        grown: What it reads besides, as many channels as it has weights for.
        signs: Decide in the place of the results where these are multiplied by the layer's slope: where they are not
            above zero.
        added: Is added to the results.
        added_scaled: The same, ``RESIDUAL`` times.
    """
    second, first_channels = grown or source, min(layer.inputs, len(source.data) * LANES)
    twice = target.height > source.height
    places = source.sources_twice if twice else source.sources
    rows, columns = target.remaining
    job = Job(
        source.address, first_channels, second.address, layer.inputs - first_channels, source.row, source.plane,
        places.ctypes.data, twice, layer.weights.ctypes.data, layer.bias.ctypes.data, layer.outputs,
        target.address, layer.kept, target.row, target.plane, target.targets.ctypes.data,
        rows.ctypes.data, columns.ctypes.data, layer.slope.ctypes.data,
        signs.address if signs else 0, len(places), 0, layer.block,
        added.address if added else 0, added_scaled.address if added_scaled else 0,
    )  # fmt: skip
    return Work(job, (layer, source, target, second, signs, added, added_scaled, places, rows, columns))


class Gradient:
    """The gradient of the weights of convolutions that read the same features.

    Args:
        source: What they read,
        grown: and besides.
        result: The gradient of their results; the channels of ``further`` follow.
        needed: For each channel of both: how many channels of the sources its convolution reads.
        shares: Parts that the squares are divided into, each summed by itself: the same sums however many threads.
    """

    def __init__(
        self,
        source: Features,
        result: Features,
        needed: Sequence[int],
        *,
        grown: Features | None = None,
        further: Features | None = None,
        shares: int = 1,
    ) -> None:
        second, rest = grown or source, further or result
        inputs = len(source.data), len(grown.data) if grown else 0
        outputs = len(result.data), len(further.data) if further else 0
        padded, squares = whole(sum(outputs) * LANES, OUTPUTS), len(source.sources)
        limits = np.zeros(padded, np.int64)
        limits[: len(needed)] = needed
        limits = limits.reshape(-1, OUTPUTS).max(1)
        share = -(-squares // (shares * SUMMED)) * SUMMED
        count = -(-squares // share)
        self.sums = np.empty((count, POINTS, padded // OUTPUTS, sum(inputs) * LANES, OUTPUTS), np.float32)
        places, targets = source.sources, result.targets
        job = GradientJob(
            source.address, inputs[0] * LANES, second.address, inputs[1] * LANES, source.row, source.plane,
            places.ctypes.data, result.address, outputs[0] * LANES, rest.address, outputs[1] * LANES,
            result.row, result.plane, targets.ctypes.data, padded, limits.ctypes.data, self.sums.ctypes.data,
            squares, share, SUMMED,
        )  # fmt: skip
        self.work = Work(job, (source, result, second, rest, self.sums, limits, places, targets))

    def weights(self) -> Tensor:
        """Once the work is done: (out, in, 3, 3), both in whole planes; what is not needed is any number."""
        return weight_gradient(torch.from_numpy(self.sums).sum(0))
