"""The classic network on the CPU by Winograd's convolutions: in fp32, and without 16 bits the fastest."""

import math
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product

import torch
from torch import Tensor, nn

from esrgan.convolutions import NEGATIVE_SLOPE
from esrgan.extras import import_extra
from esrgan.generator import RESIDUAL_SCALE, Generator, unshuffle
from esrgan.memory import mapped
from esrgan.tiling import spans
from esrgan.winograd import Features, Layer, convolution, planes
from esrgan.winograd_job import Array, Job, whole
from esrgan.winograd_kernel import code
from esrgan.winograd_threads import Threads, Work

PART = 192
"""Side in LR pixels of what is enlarged together: the largest features are those of a part, not of the picture."""
HALO = 2
"""LR pixels around a part that its results depend on."""
FACTORS = {"rdb1": RESIDUAL_SCALE, "rdb2": RESIDUAL_SCALE, "rdb3": RESIDUAL_SCALE**2}
"""By what a dense block's results are multiplied: each for itself, the third for its RRDB too."""


Shape = tuple[int, int, int]
"""Channels, height, width."""


class Winograd:
    """A network run by convolutions with fewer products; pictures come from and go to the CPU's memory.

    Args:
        network: Of the classic variant, without ESRGAN+'s paths. Its weights are read at the first tile.

    Raises:
        EsrganError: llvmlite is not installed.
    """

    dtype = torch.float32

    def __init__(self, network: Generator) -> None:
        if find_spec("llvmlite") is None:
            import_extra("llvmlite", "winograd")  # says so
        self.network = network
        self.device = torch.device("cpu")
        self.about = "by Winograd on cpu"
        self._layers: dict[str, Layer] = {}
        self._lock = threading.Lock()

    def __call__(self, lr: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002 - it knows one
        """Enlarge (N, 3, h, w) on the CPU; the result is float32, and so is the arithmetic."""
        code(Job)  # first: where memory lacks, LLVM would end the program
        with self._lock:
            self._layers = self._layers or _layers(self.network)
        height, width = lr.shape[-2:]
        side, scale = self.network.config.unshuffle, self.network.scale
        with torch.inference_mode(), Threads() as threads:
            lr = unshuffle(lr, side) if side > 1 else lr
            run = _Run(self.network, self._layers, threads)
            return torch.cat([run.enlarge(each[None]) for each in lr])[..., : scale * height, : scale * width]


def misfit(network: Generator) -> str | None:
    """Why Winograd cannot run a network of ours, if it cannot."""
    if network.config.variant == "classic" and not network.config.plus:
        return None
    return "it runs the classic variant only, without ESRGAN+'s paths; use --engine torch"


def _layers(network: Generator) -> dict[str, Layer]:
    named = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    return {name: _layer(network, name, layer) for name, layer in named}


def _layer(network: Generator, name: str, layer: nn.Conv2d) -> Layer:
    *_, block, last = ("", *name.split("."))
    if block not in FACTORS:
        linear = last in ("conv_first", "conv_body", "conv_last")
        return Layer(layer.weight, layer.bias, slope=1.0 if linear else NEGATIVE_SLOPE)
    channels, growth = network.config.channels, network.config.growth
    sources = channels, *[growth] * ((layer.in_channels - channels) // growth)
    if last == "conv5":
        return Layer(layer.weight, layer.bias, sources, factor=FACTORS[block])
    return Layer(layer.weight, layer.bias, sources, slope=NEGATIVE_SLOPE)


class _Run:
    """One call's pictures, one after the other."""

    def __init__(self, network: Generator, layers: dict[str, Layer], threads: Threads) -> None:
        self.config, self.layers, self.run = network.config, layers, threads.run
        self.factor = math.prod(self.config.factors)

    def enlarge(self, picture: Tensor) -> Tensor:
        """(1, C, h, w) -> (1, 3, H, W), part by part from the body's features on."""
        height, width = picture.shape[-2:]
        parts = list(product(spans(height, PART, HALO), spans(width, PART, HALO)))
        body = self._body_shapes(*picture.shape[1:])
        largest = (max(span.read_stop - span.read_start for span in sides) for sides in zip(*parts, strict=True))
        memory = mapped(max(_numbers(body), _numbers(body[:1]) + _numbers(self._tail_shapes(*largest))))
        features = self._body(picture, _features(memory, body))
        memory = memory[features.data.size :]
        shape = 1, 3, self.factor * height, self.factor * width
        sr = torch.from_numpy(mapped(math.prod(shape)).reshape(shape))
        for rows, columns in parts:
            part = features.inner[:, :, rows.read, columns.read]
            kept = self._tail(part, _features(memory, self._tail_shapes(*part.shape[2:4])))
            kept = kept[..., rows.kept(self.factor), columns.kept(self.factor)]
            sr[..., rows.placed(self.factor), columns.placed(self.factor)] = kept
        return sr

    def _body_shapes(self, channels: int, height: int, width: int) -> list[Shape]:
        """Of all that ``_body`` uses; what it gives comes first."""
        config = self.config
        grown = 4 * whole(config.growth)
        return [(count, height, width) for count in (config.channels, channels, *[config.channels] * 3, grown)]

    def _body(self, picture: Tensor, features: Iterator[Features]) -> Features:
        """All at the size of the LR picture."""
        layers = self.layers
        one, source, first, start, two, grown = features
        source.put(picture)
        self.run(convolution(layers["conv_first"], source, first))
        start.data[:] = first.data
        for name in (f"body.{i}" for i in range(self.config.blocks)):
            self.run(  # block by block, so that Ctrl+C need not wait for long
                *self._grow(f"{name}.rdb1", start, grown),
                convolution(layers[f"{name}.rdb1.conv5"], start, one, grown=grown, added=start),
                *self._grow(f"{name}.rdb2", one, grown),
                convolution(layers[f"{name}.rdb2.conv5"], one, two, grown=grown, added=one),
                *self._grow(f"{name}.rdb3", two, grown),
                convolution(layers[f"{name}.rdb3.conv5"], two, start, grown=grown, added=start, added_scaled=two),
            )
        self.run(convolution(layers["conv_body"], start, one, added=first))
        return one

    def _grow(self, name: str, x: Features, grown: Features) -> Iterator[Work]:
        """A dense block's first four convolutions, each after all before it in ``grown``."""
        for i in range(4):
            layer = self.layers[f"{name}.conv{i + 1}"]
            yield convolution(layer, x, grown.part(i * layer.kept, layer.kept), grown=grown)

    def _tail_shapes(self, height: int, width: int) -> list[Shape]:
        """Of all that ``_tail`` uses, in the order in which it does."""
        channels, shapes = self.config.channels, [(self.config.channels, height, width)]
        for factor in self.config.factors:
            height, width = factor * height, factor * width
            shapes += [(channels, height, width)] * (1 if factor == 2 else 2)
        return [*shapes, (channels, height, width), (3, height, width)]

    def _tail(self, part: Array, features: Iterator[Features]) -> Tensor:
        """From the body's features to the picture, (1, 3, H, W)."""
        x = next(features)
        x.inner[:] = part
        for i, factor in enumerate(self.config.factors, 1):
            if factor != 2:  # as which it is read
                larger = next(features)
                larger.inner[:] = x.inner.repeat(factor, axis=2).repeat(factor, axis=3)
                x = larger
            target = next(features)
            self.run(convolution(self.layers[f"conv_up{i}"], x, target))
            x = target
        target, sr = features
        self.run(convolution(self.layers["conv_hr"], x, target), convolution(self.layers["conv_last"], target, sr))
        return sr.take(3)


def _numbers(shapes: Sequence[Shape]) -> int:
    """How many they have in all, as ``Features`` hold them."""
    return sum(math.prod(planes(1, *shape)) for shape in shapes)


def _features(memory: Array, shapes: Sequence[Shape]) -> Iterator[Features]:
    """One after the other in ``memory``, of any numbers within a frame of zeros."""
    for shape in shapes:
        numbers = _numbers([shape])
        yield Features(1, *shape, memory[:numbers].reshape(planes(1, *shape))).clear_frame()
        memory = memory[numbers:]
