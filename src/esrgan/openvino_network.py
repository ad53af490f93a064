"""The networks in OpenVINO, built layer by layer from the weights in memory: to run them, and to write its files."""

import threading
from collections.abc import Sequence
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esrgan.convolutions import NEGATIVE_SLOPE, blocked_kernel, evenly_rounded, transposed_kernel
from esrgan.extras import import_extra
from esrgan.generator import RESIDUAL_SCALE, Generator
from esrgan.graph import Graph

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""OpenVINO's names of the arithmetics that its CPU plugin is given here."""
KERNELS = 1000
"""Compiled kernels that OpenVINO keeps; without a bound every new size of picture takes megabytes for good."""
_NOTHING = -12345.0  # what a result holds until there is one


class OpenVINO:
    """A network run by OpenVINO on the CPU; pictures come from and go to the CPU's memory.

    OpenVINO is loaded at the first tile, which takes half a second.

    Args:
        network: Its weights are read at the first tile.
        dtype: Its usual arithmetic.

    Raises:
        EsrganError: OpenVINO is not installed.
    """

    def __init__(self, network: Generator, dtype: torch.dtype) -> None:
        if find_spec("openvino") is None:
            import_extra("openvino", "openvino")  # says so
        self.network, self.dtype = network, dtype
        self.device = torch.device("cpu")
        self.about = "by OpenVINO on cpu"
        self._ready: dict[torch.dtype, Any] = {}
        self._lock = threading.Lock()  # a request serves one caller at a time

    def __call__(self, lr: Tensor, dtype: torch.dtype) -> Tensor:
        """Enlarge (N, 3, h, w) on the CPU; the result is float32, made in ``dtype``."""
        count, _, height, width = lr.shape
        sr = np.empty((count, 3, self.network.scale * height, self.network.scale * width), np.float32)
        sr[0, 0, 0] = _NOTHING
        with self._lock:
            try:
                request = self._request(dtype)
                request.set_output_tensor(import_extra("openvino", "openvino").Tensor(sr, shared_memory=True))
                request.infer([lr.contiguous().numpy()], share_outputs=True)
            except RuntimeError as error:
                if "alloc" in str(error):
                    raise torch.OutOfMemoryError("OpenVINO is out of memory") from error
                raise
        if (sr[0, 0, 0] == _NOTHING).all():  # it does not always raise
            raise torch.OutOfMemoryError("OpenVINO is out of memory")
        return torch.from_numpy(sr)

    def _request(self, dtype: torch.dtype) -> Any:
        if dtype not in self._ready:
            options = {
                "INFERENCE_PRECISION_HINT": HINTS[dtype],
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "CPU_RUNTIME_CACHE_CAPACITY": str(KERNELS),
            }
            core = import_extra("openvino", "openvino").Core()
            compiled = core.compile_model(openvino_network(self.network, dtype), "CPU", options)
            self._ready[dtype] = compiled.create_infer_request()
        return self._ready[dtype]


def openvino_network(generator: Generator, dtype: torch.dtype = torch.float32) -> Any:
    """An ``openvino.Model``: ``input`` (N, 3, height, width) to ``output``, sizes free, float32 in and out.

    ``dtype`` is the arithmetic that it will be run in.

    With pixel-unshuffle the edges are mirrored up to a whole number of pixel blocks, and the result is cut to size.
    """
    openvino = import_extra("openvino", "openvino")
    graph = _Graph(dtype)
    op, scale = graph.op, generator.scale
    picture = op.parameter([-1, 3, -1, -1], np.float32, name="input")
    picture.output(0).set_names({"input"})
    if generator.config.unshuffle == 1:
        result = graph.network(generator, picture)
    else:
        size = op.slice(op.shape_of(picture), graph.whole(2), graph.whole(4), graph.whole(1))
        missing = op.floor_mod(op.negative(size), op.constant(np.int64(generator.config.unshuffle)))
        padded = op.pad(picture, graph.whole(0, 0, 0, 0), op.concat([graph.whole(0, 0), missing], 0), "reflect")
        stop = op.multiply(size, op.constant(np.int64(scale)))
        enlarged = graph.network(generator, padded)
        result = op.slice(enlarged, graph.whole(0, 0), stop, graph.whole(1, 1), graph.whole(2, 3))
    result.output(0).set_names({"output"})
    return openvino.Model([result], [picture], "esrgan")


class _Graph(Graph[Any]):
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.op = import_module("openvino.opset13")

    def number(self, value: float) -> Any:
        return self.op.constant(np.float32(value))

    def whole(self, *values: int) -> Any:
        return self.op.constant(np.array(values, np.int64))

    def conv(self, layer: nn.Module, x: Any, *, activated: bool = False, unshuffle: int = 1) -> Any:
        assert isinstance(layer, nn.Conv2d)
        if unshuffle > 1:
            x = self.op.space_to_depth(x, "depth_first", unshuffle)
        return self._end(layer, self._products(layer.weight, x), activated)

    def conv_all(self, layer: nn.Module, features: Sequence[Any], *, activated: bool = False) -> Any:
        """As the sum of one convolution for each of ``features``: concatenation would copy them all again."""
        assert isinstance(layer, nn.Conv2d)
        channels = [x.get_output_partial_shape(0)[1].get_length() for x in features]
        parts = torch.split(layer.weight, channels, dim=1)
        products = (self._products(weight, x) for weight, x in zip(parts, features, strict=True))
        return self._end(layer, reduce(self.op.add, products), activated)

    def conv_last(self, layer: nn.Module, x: Any, factor: int) -> Any:
        """All colours of ``factor`` x ``factor`` pixels at once: those of one fill a fifth of a vector."""
        assert isinstance(layer, nn.Conv2d)
        products = self._products(blocked_kernel(layer.weight, factor), x, factor)
        return self._end(layer, self.shuffle(products, factor), activated=False)

    def _products(self, weight: Tensor, x: Any, stride: int = 1) -> Any:
        pad = [(weight.shape[-1] - stride) // 2] * 2
        return self.op.convolution(x, self.op.constant(_array(weight)), [stride] * 2, pad, pad, [1, 1])

    def conv_enlarged(self, layer: nn.Module, x: Any, factor: int) -> Any:
        assert isinstance(layer, nn.Conv2d)
        kernel, one = transposed_kernel(layer.weight.detach(), factor), [1, 1]
        if self.dtype == torch.bfloat16:
            kernel = evenly_rounded(kernel, factor)
        x = self.op.convolution_backprop_data(
            x, self.op.constant(_array(kernel)), [factor, factor], pads_begin=one, pads_end=one, dilations=one
        )
        return self._end(layer, x, activated=True)

    def _end(self, layer: nn.Conv2d, x: Any, activated: bool) -> Any:
        """What follows the products of a convolution."""
        if layer.bias is not None:
            x = self.op.add(x, self.op.constant(_array(layer.bias).reshape(1, -1, 1, 1)))
        return self.op.prelu(x, self.number(NEGATIVE_SLOPE)) if activated else x

    def concat(self, features: Sequence[Any]) -> Any:
        return self.op.concat(list(features), 1)

    def add(self, x: Any, y: Any) -> Any:
        return self.op.add(x, y)

    def scaled_add(self, new: Any, x: Any) -> Any:
        return self.op.add(self.op.multiply(new, self.number(RESIDUAL_SCALE)), x)

    def affine(self, x: Any, factor: float, offset: float) -> Any:
        return self.op.add(self.op.multiply(x, self.number(factor)), self.number(offset))

    def nearest(self, x: Any, factor: int) -> Any:
        factors = self.op.constant(np.full(2, factor, np.float32))
        return self.op.interpolate(
            x, factors, "nearest", "scales", axes=self.whole(2, 3),
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip

    def shuffle(self, x: Any, factor: int) -> Any:
        return self.op.depth_to_space(x, "depth_first", factor)

    def prelu(self, x: Any, slope: Tensor) -> Any:
        return self.op.prelu(x, self.op.constant(_array(slope)))

    def tanh(self, x: Any) -> Any:
        return self.op.tanh(x)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().float().contiguous().numpy()
