"""Convolutions by ``winograd_kernel`` on features that lie as it reads them."""

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cached_property
from threading import Barrier
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from esrgan.winograd_job import LANES, OUTPUTS, SQUARE, TAPS, TOGETHER, Array, Job, transformed, whole
from esrgan.winograd_kernel import code, give_way

Table = npt.NDArray[np.int64]
BLOCKS = TOGETHER, 4 * TOGETHER
"""Squares between two transforms: few, so that they stay in the cache; more of layers whose weights do not."""
SHARES = 8
"""Of a convolution, for each thread: some cores are slower than others."""
START = 60.0
"""Seconds in which all threads must have begun."""
EVERYBODY = 1 << 62
"""More than will ever have arrived."""
MANY = 9 * 128 * 128
"""Weights of a layer that the cache does not hold."""


class Features:
    """Features of some pictures as the kernel reads them: in planes of 8 channels, each picture in a frame of zeros.

    Args:
        count: Of pictures.
        channels: Rounded up to whole planes.
        height: Of a picture, in pixels.
        width: Likewise.

    Attributes:
        data: (channels / 8, count, height', width', 8), zeros; the sides are those of whole squares, and the frame's 2.
    """

    def __init__(self, count: int, channels: int, height: int, width: int) -> None:
        self.count, self.height, self.width = count, height, width
        sides = (-(-side // SQUARE) * SQUARE + 2 for side in (height, width))
        self.data: Array = np.zeros((whole(channels) // LANES, count, *sides, LANES), np.float32)

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

    def address(self, channel: int = 0) -> int:
        """Where the plane of a channel begins, in bytes."""
        return int(self.data.ctypes.data) + channel // LANES * self.plane * self.data.itemsize

    @cached_property
    def sources(self) -> Table:
        """Where in a plane the pixels begin that each square of results reads."""
        return self._places(SQUARE, 0)

    @cached_property
    def sources_twice(self) -> Table:
        """The same for squares of results that are twice as fine."""
        return self._places(SQUARE // 2, 0)

    @cached_property
    def targets(self) -> Table:
        """Where in a plane each square of results begins."""
        return self._places(SQUARE, self.row + LANES)

    @cached_property
    def left(self) -> tuple[Table, Table]:
        """Rows and columns of pixels from each square's first to the last of its picture."""
        y, x = (np.arange(0, side, SQUARE) for side in (self.height, self.width))
        shape = self.count, len(y), len(x)
        rows, columns = (np.broadcast_to(n, shape) for n in ((self.height - y)[:, None], self.width - x))
        return rows.astype(np.int64).ravel(), columns.astype(np.int64).ravel()

    def _places(self, step: int, start: int) -> Table:
        y, x = (np.arange(0, side, step) for side in (self.height, self.width))
        pictures = np.arange(self.count) * (self.plane // self.count)
        return (start + pictures[:, None, None] + y[:, None] * self.row + x * LANES).astype(np.int64).ravel()

    def put(self, pictures: Tensor) -> "Features":
        """Take over (count, channels, height, width); gives itself."""
        for plane, some in zip(self.inner, torch.split(pictures, LANES, dim=1), strict=True):
            plane[..., : some.shape[1]] = some.permute(0, 2, 3, 1).numpy()
        return self

    def take(self, channels: int) -> Tensor:
        """The first ``channels`` channels as (count, channels, height, width)."""
        lanes = torch.from_numpy(self.inner).permute(1, 0, 4, 2, 3)
        return lanes.flatten(1, 2)[:, :channels].contiguous()


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
        count, weight = len(weight), weight.detach().cpu().float() * factor
        parts = torch.split(weight, list(sources) or weight.shape[1], dim=1)
        self.kept = whole(count)
        padded = np.zeros((whole(count, OUTPUTS), sum(whole(part.shape[1]) for part in parts), 3, 3), np.float32)
        start = 0
        for part in parts:
            padded[:count, start : start + part.shape[1]] = part.numpy()
            start += whole(part.shape[1])
        self.outputs, self.inputs = padded.shape[:2]
        self.block = BLOCKS[padded.size > MANY]
        self.weights = transformed(padded)
        self.bias = np.zeros(self.outputs, np.float32)
        if bias is not None:
            self.bias[:count] = bias.detach().cpu().float().numpy() * factor


class Work(NamedTuple):
    """A job, and what its addresses point to, which must not go before it is done."""

    job: Job
    holds: tuple[Any, ...]


def convolution(
    layer: Layer,
    source: Features,
    target: Features,
    *,
    grown: Features | None = None,
    channel: int = 0,
    added: Features | None = None,
    added_scaled: Features | None = None,
) -> Work:
    """What writes a layer's results to ``target``, from ``channel`` on, once it is run.

    Args:
        layer: What is applied.
        source: What it reads, all channels; if ``target`` is twice as large, enlarged by nearest neighbour.
        target: Where its results go.
        grown: What it reads besides, as many channels as it has weights for.
        channel: Of ``target``, a multiple of 8.
        added: Is added to the results.
        added_scaled: The same, ``RESIDUAL`` times.
    """
    more, own = grown or source, min(layer.inputs, len(source.data) * LANES)
    twice = target.height > source.height
    places = source.sources_twice if twice else source.sources
    rows, columns = target.left
    job = Job(
        source.address(), own, more.address(), layer.inputs - own, source.row, source.plane,
        places.ctypes.data, twice, layer.weights.ctypes.data, layer.bias.ctypes.data, layer.outputs,
        target.address(channel), layer.kept, target.row, target.plane, target.targets.ctypes.data,
        rows.ctypes.data, columns.ctypes.data, layer.slope.ctypes.data, len(places), layer.block, layer.block,
        added.address() if added else 0, added_scaled.address() if added_scaled else 0,
    )  # fmt: skip
    return Work(job, (layer, source, target, more, added, added_scaled))


class Threads:
    """As many threads as torch uses; a context.

    Raises:
        MemoryError: The system gives no more threads.
    """

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count)
        together = Barrier(self.count)  # each does its part of a job at the same time: all must be there
        try:
            started = [self._pool.submit(together.wait, START) for _ in range(self.count)]
            for each in started:
                each.result()
        except RuntimeError as error:  # a broken barrier's too
            together.abort()
            self._pool.shutdown()
            raise MemoryError("no more threads can be started") from error
        self._scratch: list[list[Array]] = [[np.empty(0, np.float32)] * 2 for _ in range(self.count)]

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, *works: Work) -> None:
        """Do them, one after the other, each by all threads."""
        jobs = [work.job._replace(share=self._share(work.job)) for work in works]
        words, taken, arrived = np.array(jobs, np.int64), np.zeros(len(jobs), np.int64), np.zeros(1, np.int64)
        machine, let = code().run, give_way()
        needed = [max(each.block * TAPS * (each.first_channels + each.second_channels) for each in jobs),
                  max(each.block * TAPS * each.outputs for each in jobs)]  # fmt: skip
        addresses = [[room.ctypes.data for room in self._room(i, needed)] for i in range(self.count)]
        shared = taken.ctypes.data, arrived.ctypes.data, let
        try:
            parts = [
                self._pool.submit(machine, words.ctypes.data, len(jobs), self.count, *own, *shared) for own in addresses
            ]
            for part in wait(parts, return_when=FIRST_EXCEPTION).done:
                part.result()
        finally:
            arrived[0] = EVERYBODY  # whoever waits for one that failed goes on

    def _share(self, job: Job) -> int:
        blocks = -(-job.squares // job.block)
        return max(1, blocks // (SHARES * self.count)) * job.block

    def _room(self, thread: int, needed: Sequence[int]) -> list[Array]:
        for i, size in enumerate(needed):
            if self._scratch[thread][i].size < size:
                self._scratch[thread][i] = np.empty(size, np.float32)
        return self._scratch[thread]
