"""Reading ncnn's model files: ``.param``, the layers as text, and ``.bin``, their weights one after the other."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError, first_line
from esrgan.foreign import Found, OtherArchitectureError, config_of, in_rgb, require_rgb
from esrgan.generator import Generator
from esrgan.ncnn_layers import Layer, same_network

MAGIC = "7767517"
HALF = 0x01306B47  # stands before weights that are stored in fp16; 0 before fp32
LARGEST_PARAM = 8 * 2**20
PLAIN = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "ReLU", "Reorg", "PixelShuffle", "TanH"}
"""The layers of RRDB networks that have no weights."""
LIKE = "{} is another network than ESRGAN, though of like layers; it runs in ncnn only"


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
        stored = _read_bin(layers, layer_names(config), binary.read_bytes())
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, RuntimeError) as error:
        raise EsrganError(
            f"{binary} does not belong to {path.name}, or one is damaged ({first_line(error)}); download both again"
        ) from error
    folded = config.unshuffle > 1 and not any(layer.kind == "Reorg" for layer in layers)
    first = stored["conv_first.weight"]
    weights = in_rgb(stored | ({"conv_first.weight": unfold(first, config.unshuffle)} if folded else {}))
    require_rgb(weights["conv_first.weight"], weights["conv_last.weight"], config.unshuffle, path)
    _require_same(layers, stored, config, weights, path)
    return Found(config, weights, "ncnn")


def _require_same(
    layers: list[Layer], stored: dict[str, Tensor], config: GeneratorConfig, weights: dict[str, Tensor], path: Path
) -> None:
    """Refuse layers that, with the weights ``stored``, are not the network of ``config`` with ``weights``."""
    with torch.device("meta"):
        generator = Generator(config, start="paper")
    in_order = [(stored[f"{name}.weight"], stored.get(f"{name}.bias")) for name in layer_names(config)]
    try:
        generator.load_state_dict(weights, assign=True)
        same = same_network(layers, in_order, generator)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise OtherArchitectureError(f"{LIKE.format(path)} ({first_line(error)})") from error
    if not same:
        raise OtherArchitectureError(LIKE.format(path))


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
        if not line.strip():
            continue
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
    if rest or blocks < 1:
        raise OtherArchitectureError(LIKE.format(path))
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
