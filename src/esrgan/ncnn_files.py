"""Reading ncnn's model files: ``.param``, the layers as text, and ``.bin``, their weights one after the other."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.convolutions import NEGATIVE_SLOPE
from esrgan.errors import EsrganError, first_line
from esrgan.foreign import Found, OtherArchitectureError, config_of, in_rgb, require_rgb
from esrgan.generator import RESIDUAL_SCALE

MAGIC = "7767517"
HALF = 0x01306B47  # stands before weights that are stored in fp16; 0 before fp32
LARGEST_PARAM = 8 * 2**20
PLAIN = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "ReLU", "Reorg", "PixelShuffle", "TanH"}
"""The layers of RRDB networks that have no weights."""


@dataclass
class Layer:
    """One line of a ``.param``: a layer's kind, its parameters by number, what it reads and what it writes."""

    kind: str
    options: dict[int, list[float]]
    inputs: list[str]
    outputs: list[str]

    def option(self, number: int, default: float = 0) -> float:
        """A parameter that is one number."""
        values = self.options.get(number, [default])
        if len(values) != 1 or abs(values[0]) > LARGEST_PARAM:
            raise ValueError(f"the {self.kind} layer {self.outputs} has {values} where one sensible number belongs")
        return values[0]


def is_param(path: Path) -> bool:
    """Whether ``path`` begins as a ``.param`` file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC.encode()


def read_ncnn(path: Path) -> Found:
    """The network of a ``.param`` file and of the ``.bin`` beside it.

    Raises:
        EsrganError: No ``.bin``, damaged, quantised, or not an RRDB network.
    """
    binary = path.with_suffix(".bin")
    if not binary.is_file():
        raise EsrganError(f"{path} is half a model: its weights, {binary.name}, must lie beside it")
    try:
        layers = _parse(path)
    except (ValueError, IndexError) as error:
        raise EsrganError(f"{path} is a damaged ncnn .param file ({first_line(error)}); download it again") from error
    try:
        config = _describe(layers, path)
        weights = _read_bin(layers, layer_names(config), binary.read_bytes())
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, RuntimeError) as error:
        raise EsrganError(
            f"{binary} does not belong to {path.name}, or one is damaged ({first_line(error)}); download both again"
        ) from error
    if config.unshuffle > 1 and not any(layer.kind == "Reorg" for layer in layers):
        weights["conv_first.weight"] = unfold(weights["conv_first.weight"], config.unshuffle)
    weights = in_rgb(weights)
    require_rgb(weights["conv_first.weight"], weights["conv_last.weight"], config.unshuffle, path)
    return Found(config, weights, "ncnn")


def precision(path: Path) -> str:
    """How the weights of a network that ``read_ncnn`` reads are stored; its first layer tells."""
    with path.with_suffix(".bin").open("rb") as file:
        return "float16" if int.from_bytes(file.read(4), "little") == HALF else "float32"


def layer_names(config: GeneratorConfig) -> list[str]:
    """Our names of the layers that have weights, in the order in which they are computed.

    Every convolution of an RRDB network reads the one before it, so that this order is the only one.
    """
    dense = ["conv1", "conv2", *(["conv1x1"] if config.plus else []), "conv3", "conv4", "conv5"]
    names = ["conv_first"]
    names += [f"body.{i}.rdb{j}.{layer}" for i in range(config.blocks) for j in (1, 2, 3) for layer in dense]
    names += ["conv_body"]
    for i in range(1, len(config.factors) + 1):
        names += [f"conv_up{i}"] if config.variant == "classic" else [f"conv_up{i}", f"prelu_up{i}"]
    return [*names, *(["conv_hr"] if config.variant == "classic" else []), "conv_last"]


def fold(weight: Tensor, side: int) -> Tensor:
    """A convolution after pixel-unshuffle as one of that stride on the picture itself: 3x3 becomes 3 side x 3 side."""
    return torch.pixel_shuffle(weight, side)


def unfold(weight: Tensor, side: int) -> Tensor:
    """The inverse of :func:`fold`."""
    return torch.pixel_unshuffle(weight, side)


def _parse(path: Path) -> list[Layer]:
    if path.stat().st_size > LARGEST_PARAM:
        raise ValueError("larger than any")
    layers = []
    for line in path.read_text(encoding="ascii").splitlines()[2:]:
        kind, _, read, written, *rest = line.split()
        outputs, last = int(read), int(read) + int(written)
        layers.append(Layer(kind, _options(rest[last:]), rest[:outputs], rest[outputs:last]))
    return layers


def _options(pairs: list[str]) -> dict[int, list[float]]:
    """``9=2 -23310=1,0.2`` as {9: [2], 10: [0.2]}: the second form is a list, its length first."""
    options = {}
    for pair in pairs:
        number, _, values = pair.partition("=")
        numbers = [float(value) for value in values.split(",")]
        options.update({-23300 - int(number): numbers[1:]} if int(number) <= -23300 else {int(number): numbers})
    return options


def _describe(layers: list[Layer], path: Path) -> GeneratorConfig:
    kinds = Counter(layer.kind for layer in layers)
    if kinds.keys() - PLAIN - {"Convolution", "PReLU"} or not kinds["Concat"]:
        name = "Compact (SRVGGNet)" if kinds["PReLU"] and not kinds["Concat"] else "unknown"
        raise OtherArchitectureError(
            f"{path} is a network of another architecture ({name}), not ESRGAN; give its .pth or .safetensors, which "
            "`esrgan upscale`, without --alpha, and `esrgan test` take, through spandrel"
        )
    subpixel = kinds["TanH"] > 0
    ups = [layer for layer in layers if layer.kind == ("PixelShuffle" if subpixel else "Interp")]
    main = [layer for layer in layers if layer.kind == "Convolution" and layer.option(1) > 1]
    blocks, rest = divmod(len(main) - len(ups) - (3 if subpixel else 4), 15)
    right = _constants_are_right(layers, blocks, len(ups), subpixel=subpixel) and _layers_are_plain(layers, main[:1])
    if rest or blocks < 1 or not right:
        raise OtherArchitectureError(
            f"{path} is another network than ESRGAN, though of like layers; it runs in ncnn only"
        )
    reorg = [layer for layer in layers if layer.kind == "Reorg"]
    unshuffle = int(reorg[0].option(0) if reorg else main[0].option(3, 1))
    return config_of(
        path,
        variant="subpixel" if subpixel else "classic",
        scale=math.prod(int(layer.option(0 if subpixel else 1)) for layer in ups) // unshuffle,
        channels=int(main[0].option(0)),
        growth=int(main[1].option(0)),
        blocks=blocks,
        unshuffle=unshuffle,
        plus=len(main) < kinds["Convolution"],
    )


def _constants_are_right(layers: list[Layer], blocks: int, ups: int, *, subpixel: bool) -> bool:
    """Whether the activations, residual scalings and enlargements are those of an RRDB network."""
    slopes = [layer.option(0) for layer in layers if layer.kind == "ReLU"]
    slopes += [layer.option(10) for layer in layers if layer.kind == "Convolution" and layer.option(9)]
    factors = [value for layer in layers if layer.kind == "Eltwise" for value in layer.options.get(1, []) if value != 1]
    factors += [layer.option(2) for layer in layers if layer.kind == "BinaryOp" and layer.option(0) == 2]
    nearest = all(layer.option(0) == 1 for layer in layers if layer.kind == "Interp")
    expected = [RESIDUAL_SCALE] * 4 * blocks + ([0.5, 2.0] if subpixel else [])
    return (
        nearest
        and [round(slope, 5) for slope in slopes] == [NEGATIVE_SLOPE] * (12 * blocks + (0 if subpixel else ups + 1))
        and sorted(round(factor, 5) for factor in factors) == expected
    )


def _layers_are_plain(layers: list[Layer], first: list[Layer]) -> bool:
    """Whether each layer does what its kind does in an RRDB network: no strides, dilations, crops, other operations."""
    joined = [len(layer.inputs) for layer in layers if layer.kind == "Concat"]
    produced = [blob for layer in layers for blob in layer.outputs]
    return (
        joined == [2, 3, 4, 5] * (len(joined) // 4)
        and len(produced) == len(set(produced))
        and all(blob in produced for layer in layers for blob in layer.inputs)
        and all(_convolves_plainly(layer, free=layer in first) for layer in layers if layer.kind == "Convolution")
        and all(layer.option(0) == 1 for layer in layers if layer.kind == "Eltwise")
        and all(layer.option(0) in (0, 2) for layer in layers if layer.kind == "BinaryOp")
        and all(layer.option(0) == 0 for layer in layers if layer.kind == "Concat")
        and all(layer.option(1) == layer.option(2) for layer in layers if layer.kind == "Interp")
    )


def _convolves_plainly(layer: Layer, *, free: bool) -> bool:
    size, stride = layer.option(1), layer.option(3, 1)
    square = layer.option(11, size) == size and layer.option(13, stride) == stride
    same = stride == 1 and layer.option(4) == size // 2
    folded = free and stride > 1 and size == 3 * stride and layer.option(4) == stride
    return square and (same or folded) and layer.option(2, 1) == 1 and not layer.option(8)


def _read_bin(layers: list[Layer], names: list[str], data: bytes) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    offset = 0
    weighted = [layer for layer in layers if layer.kind in ("Convolution", "PReLU")]
    for name, layer in zip(names, weighted, strict=True):
        outputs = int(layer.option(0))
        if layer.kind == "PReLU":
            weights[f"{name}.weight"], offset = _floats(data, offset, outputs)
            continue
        flat, offset = _flagged(data, offset, int(layer.option(6)))
        size = int(layer.option(1))
        weights[f"{name}.weight"] = flat.reshape(outputs, -1, size, size)
        if layer.option(5):
            weights[f"{name}.bias"], offset = _floats(data, offset, outputs)
    if offset != len(data):
        raise ValueError(f"{len(data) - offset} bytes are left over")
    return weights


def _flagged(data: bytes, offset: int, count: int) -> tuple[Tensor, int]:
    flag = int.from_bytes(data[offset : offset + 4], "little")
    if flag == 0:
        return _floats(data, offset + 4, count)
    if flag != HALF:
        raise ValueError("the weights are quantised; only fp32 and fp16 are read")
    values = np.frombuffer(data, "<f2", count, offset + 4).astype(np.float32)
    return torch.from_numpy(values), offset + 4 + (2 * count + 3) // 4 * 4


def _floats(data: bytes, offset: int, count: int) -> tuple[Tensor, int]:
    return torch.from_numpy(np.frombuffer(data, "<f4", count, offset).astype(np.float32)), offset + 4 * count
