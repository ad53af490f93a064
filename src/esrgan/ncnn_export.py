"""Writing ncnn's model files, as the converters of realsr-ncnn-vulkan and realesrgan-ncnn-vulkan wrote theirs.

The blobs are named ``data`` and ``output``, which those programs and upscayl look for.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esrgan.convolutions import NEGATIVE_SLOPE
from esrgan.generator import RESIDUAL_SCALE, Generator
from esrgan.graph import Graph
from esrgan.ncnn_files import HALF, MAGIC, fold

LEAKY = f"9=2 -23310=1,{NEGATIVE_SLOPE}"
SCALED_ADD = f"0=1 -23301=2,{RESIDUAL_SCALE},1.0"
ADD, MULTIPLY = "0=0", "0=2"


def write_ncnn(generator: Generator, param: Path, binary: Path, *, half: bool = False) -> None:
    """Write ``generator`` as the two files of an ncnn model, weights in fp32 or, with ``half``, fp16."""
    graph = _Graph(half)
    graph.network(generator, "data")
    graph.finish()
    layers = graph.with_splits()
    blobs = sum(len(outputs) for _, _, outputs, _ in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}"]
    for i, (kind, inputs, outputs, options) in enumerate(layers):
        line = f"{kind:<24} {f'{kind.lower()}_{i}':<24} {len(inputs)} {len(outputs)}"
        lines.append(" ".join([line, *inputs, *outputs, options]).rstrip())
    param.write_text("\n".join(lines) + "\n", encoding="ascii")
    with binary.open("wb") as file:
        file.writelines(graph.weights)


class _Graph(Graph[str]):
    """Layers in the order of computing, each blob named once and read any number of times; and their weights."""

    def __init__(self, half: bool) -> None:
        self.half = half
        self.layers: list[tuple[str, list[str], str, str]] = [("Input", [], "data", "")]
        self.weights: list[bytes] = []

    def layer(self, kind: str, inputs: Sequence[str], options: str = "") -> str:
        """Append a layer; gives the name of what it writes."""
        output = f"blob{len(self.layers)}"
        self.layers.append((kind, list(inputs), output, options))
        return output

    def conv(self, layer: nn.Module, x: str, *, activated: bool = False, unshuffle: int = 1) -> str:
        assert isinstance(layer, nn.Conv2d)
        weight = fold(layer.weight, unshuffle)  # pixel-unshuffle as a convolution with a stride
        size, bias = weight.shape[-1], layer.bias is not None
        pad = size // 3 if unshuffle > 1 else size // 2
        shape = f"0={weight.shape[0]} 1={size} 3={unshuffle} 4={pad} 5={int(bias)} 6={weight.numel()}"
        self.weights.append(_stored(weight, self.half))
        if layer.bias is not None:
            self.weights.append(_floats(layer.bias))
        return self.layer("Convolution", [x], f"{shape} {LEAKY if activated else ''}")

    def concat(self, features: Sequence[str]) -> str:
        return self.layer("Concat", features, "0=0")

    def add(self, x: str, y: str) -> str:
        return self.layer("BinaryOp", [x, y], ADD)

    def scaled_add(self, new: str, x: str) -> str:
        return self.layer("Eltwise", [new, x], SCALED_ADD)

    def affine(self, x: str, factor: float, offset: float) -> str:
        scaled = self.layer("BinaryOp", [x], f"{MULTIPLY} 1=1 2={factor}")
        return self.layer("BinaryOp", [scaled], f"{ADD} 1=1 2={offset}")

    def nearest(self, x: str, factor: int) -> str:
        return self.layer("Interp", [x], f"0=1 1={float(factor)} 2={float(factor)}")

    def shuffle(self, x: str, factor: int) -> str:
        return self.layer("PixelShuffle", [x], f"0={factor}")

    def prelu(self, x: str, slope: Tensor) -> str:
        self.weights.append(_floats(slope))
        return self.layer("PReLU", [x], "0=1")

    def tanh(self, x: str) -> str:
        return self.layer("TanH", [x])

    def finish(self) -> None:
        """Name what the last layer writes ``output``."""
        kind, inputs, _, options = self.layers[-1]
        self.layers[-1] = (kind, inputs, "output", options)

    def with_splits(self) -> list[tuple[str, list[str], list[str], str]]:
        """The layers in ncnn's way: a blob is read once, and copied by a Split layer where more need it."""
        readers = Counter(blob for _, inputs, _, _ in self.layers for blob in inputs)
        copies = {
            blob: iter([f"{blob}_split{i}" for i in range(count)]) for blob, count in readers.items() if count > 1
        }
        layers = []
        for kind, inputs, output, options in self.layers:
            layers.append((kind, [next(copies[b]) if b in copies else b for b in inputs], [output], options))
            if output in copies:
                layers.append(("Split", [output], [f"{output}_split{i}" for i in range(readers[output])], ""))
        return layers


def _stored(weight: Tensor, half: bool) -> bytes:
    if not half:
        return bytes(4) + _floats(weight)
    data: bytes = weight.detach().to("cpu", torch.float16).numpy().astype("<f2").tobytes()
    return HALF.to_bytes(4, "little") + data + bytes(-len(data) % 4)


def _floats(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy(), "<f4").tobytes()
