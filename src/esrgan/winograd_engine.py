"""The classic network on the CPU by Winograd's convolutions: in fp32, and without 16 bits the fastest."""

import math
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product

import torch
from torch import Tensor, nn

from esrgan.convolutions import NEGATIVE_SLOPE
from esrgan.extras import import_extra
from esrgan.generator import RESIDUAL_SCALE, Generator, unshuffle
from esrgan.tiling import spans
from esrgan.winograd import Features, Layer, convolution
from esrgan.winograd_job import LANES, Job, whole
from esrgan.winograd_kernel import code
from esrgan.winograd_threads import Threads, Work

PART = 192
"""Side in LR pixels of what is enlarged together: the largest features are those of a part, not of the picture."""
HALO = 2
"""LR pixels around a part that its results depend on."""
FACTORS = {"rdb1": RESIDUAL_SCALE, "rdb2": RESIDUAL_SCALE, "rdb3": RESIDUAL_SCALE**2}
"""By what a dense block's results are multiplied: each for itself, the third for its RRDB too."""


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
        features = self._body(picture)
        sr = torch.empty(1, 3, self.factor * height, self.factor * width)
        for rows, columns in product(spans(height, PART, HALO), spans(width, PART, HALO)):
            part = features.inner[:, :, rows.read, columns.read]
            x = Features(1, self.config.channels, *part.shape[2:4])
            x.inner[:] = part
            kept = self._end(x)[..., rows.kept(self.factor), columns.kept(self.factor)]
            sr[..., rows.placed(self.factor), columns.placed(self.factor)] = kept
        return sr

    def _like(self, x: Features, factor: int = 1) -> Features:
        """Room for features, ``factor`` times as large."""
        return Features(1, self.config.channels, factor * x.height, factor * x.width)

    def _body(self, picture: Tensor) -> Features:
        """All at the size of the LR picture."""
        layers, source = self.layers, Features(*picture.shape).put(picture)
        first, start, one, two = (self._like(source) for _ in range(4))
        grown = Features(1, 4 * whole(self.config.growth), source.height, source.width)
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

    def _end(self, x: Features) -> Tensor:
        """From the body's features to the picture, (1, 3, H, W)."""
        for i, factor in enumerate(self.config.factors, 1):
            target = self._like(x, factor)
            self.run(convolution(self.layers[f"conv_up{i}"], x if factor == 2 else _repeated(x, factor), target))
            x = target
        target, sr = self._like(x), Features(1, 3, x.height, x.width)
        self.run(convolution(self.layers["conv_hr"], x, target), convolution(self.layers["conv_last"], target, sr))
        return sr.take(3)


def _repeated(x: Features, factor: int) -> Features:
    """Enlarged by nearest neighbour."""
    larger = Features(1, len(x.data) * LANES, factor * x.height, factor * x.width)
    larger.inner[:] = x.inner.repeat(factor, axis=2).repeat(factor, axis=3)
    return larger
