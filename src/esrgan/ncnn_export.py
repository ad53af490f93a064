"""Writing ncnn's model files, as the converters of realsr-ncnn-vulkan and realesrgan-ncnn-vulkan wrote theirs.

The blobs are named ``data`` and ``output``, which those programs and upscayl look for.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esrgan.generator import NEGATIVE_SLOPE, RESIDUAL_SCALE, Generator, ResidualDenseBlock, ResidualDenseBlockPlus
from esrgan.ncnn_files import HALF, MAGIC, fold

LEAKY = f"9=2 -23310=1,{NEGATIVE_SLOPE}"
SCALED_ADD = f"0=1 -23301=2,{RESIDUAL_SCALE},1.0"
ADD, MULTIPLY = "0=0", "0=2"


def write_ncnn(generator: Generator, param: Path, binary: Path, *, half: bool = False) -> None:
    """Write ``generator`` as the two files of an ncnn model, weights in fp32 or, with ``half``, fp16."""
    graph = _Graph(half)
    graph.network(generator)
    layers = graph.with_splits()
    blobs = sum(len(outputs) for _, _, outputs, _ in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}"]
    for i, (kind, inputs, outputs, options) in enumerate(layers):
        line = f"{kind:<24} {f'{kind.lower()}_{i}':<24} {len(inputs)} {len(outputs)}"
        lines.append(" ".join([line, *inputs, *outputs, options]).rstrip())
    param.write_text("\n".join(lines) + "\n", encoding="ascii")
    with binary.open("wb") as file:
        file.writelines(graph.weights)


class _Graph:
    """Layers in the order of computing, each blob named once and read any number of times; and their weights."""

    def __init__(self, half: bool) -> None:
        self.half = half
        self.layers: list[tuple[str, list[str], str, str]] = [("Input", [], "data", "")]
        self.weights: list[bytes] = []

    def add(self, kind: str, inputs: list[str], options: str = "") -> str:
        """Append a layer; gives the name of what it writes."""
        output = f"blob{len(self.layers)}"
        self.layers.append((kind, inputs, output, options))
        return output

    def scalar(self, kind: str, blob: str, value: float) -> str:
        """``blob`` with a number added or multiplied."""
        return self.add("BinaryOp", [blob], f"{kind} 1=1 2={value}")

    def conv(self, layer: nn.Module, blob: str, options: str = "", *, stride: int = 1) -> str:
        """A convolution; with ``stride``, one of a picture that pixel-unshuffle would have rearranged for it."""
        assert isinstance(layer, nn.Conv2d)
        weight = fold(layer.weight, stride)
        size, bias = weight.shape[-1], layer.bias is not None
        shape = f"0={weight.shape[0]} 1={size} 3={stride} 4={size // 3 if stride > 1 else size // 2} 5={int(bias)}"
        self.weights.append(_stored(weight, self.half))
        if layer.bias is not None:
            self.weights.append(_floats(layer.bias))
        return self.add("Convolution", [blob], f"{shape} 6={weight.numel()} {options}")

    def dense(self, block: ResidualDenseBlock, x: str) -> str:
        """A dense block, ESRGAN+'s or not."""
        plus = isinstance(block, ResidualDenseBlockPlus)
        features = [x, self.conv(block.conv1, x, LEAKY)]
        for i, layer in enumerate((block.conv2, block.conv3, block.conv4), 2):
            new = self.conv(layer, self.add("Concat", list(features), "0=0"), LEAKY)
            if plus and i != 3:
                extra = self.conv(block.get_submodule("conv1x1"), x) if i == 2 else features[2]
                new = self.add("BinaryOp", [new, extra], ADD)
            features.append(new)
        last = self.conv(block.conv5, self.add("Concat", features, "0=0"))
        return self.add("Eltwise", [last, x], SCALED_ADD)

    def network(self, generator: Generator) -> None:
        """All layers of ``generator``."""
        config, classic = generator.config, generator.config.variant == "classic"
        x = "data" if classic else self.scalar(ADD, self.scalar(MULTIPLY, "data", 2.0), -1.0)
        first = x = self.conv(generator.conv_first, x, stride=config.unshuffle)
        for block in generator.body:
            start = x
            for name in ("rdb1", "rdb2", "rdb3"):
                dense = block.get_submodule(name)
                assert isinstance(dense, ResidualDenseBlock)
                x = self.dense(dense, x)
            x = self.add("Eltwise", [x, start], SCALED_ADD)
        x = self.add("BinaryOp", [first, self.conv(generator.conv_body, x)], ADD)
        for i, factor in enumerate(config.factors, 1):
            layer = generator.get_submodule(f"conv_up{i}")
            if classic:
                x = self.conv(layer, self.add("Interp", [x], f"0=1 1={float(factor)} 2={float(factor)}"), LEAKY)
            else:
                x = self.add("PReLU", [self.add("PixelShuffle", [self.conv(layer, x)], f"0={factor}")], "0=1")
                self.weights.append(_floats(generator.get_parameter(f"prelu_up{i}.weight")))
        if classic:
            x = self.conv(generator.conv_last, self.conv(generator.conv_hr, x, LEAKY))
        else:
            x = self.add("TanH", [self.conv(generator.conv_last, x)])
            x = self.scalar(MULTIPLY, self.scalar(ADD, x, 1.0), 0.5)
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
