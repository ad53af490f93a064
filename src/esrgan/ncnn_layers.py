"""What ncnn's layers compute, in torch: by that a ``.param`` is told from one that only looks like an RRDB network."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.generator import Generator

LARGEST = 8 * 2**20
"""Of a layer's parameters; no network has larger ones."""
MOST = 2**22
"""Values that a layer may give for a picture of ``SIDE``; RRDB networks of 16 times the size stay far below."""
SIDE = 8
DEFAULTS = {
    "Convolution": {2: 1, 3: 1, 4: 0, 5: 0, 8: 0, 9: 0, 18: 0},
    "Eltwise": {0: 0},
    "BinaryOp": {0: 0, 1: 0, 2: 0},
    "Interp": {0: 0, 1: 1, 3: 0, 4: 0, 5: 0, 6: 0},
    "Reorg": {0: 1, 1: 0},
    "PixelShuffle": {0: 1, 1: 0},
    "Concat": {0: 0},
    "ReLU": {0: 0},
}
"""The parameters that are one number, by kind and number, and what stands for a missing one."""


@dataclass
class Layer:
    """One line of a ``.param``: a layer's kind, its parameters by number, what it reads and what it writes."""

    kind: str
    options: dict[int, list[float]]
    inputs: list[str]
    outputs: list[str]

    def option(self, number: int, default: float = 0) -> float:
        """A parameter that is one number."""
        values = self.options.get(number, [DEFAULTS.get(self.kind, {}).get(number, default)])
        if len(values) != 1 or abs(values[0]) > LARGEST:
            raise ValueError(f"the {self.kind} layer {self.outputs} has {values} where one sensible number belongs")
        return values[0]


def same_network(layers: list[Layer], weights: list[tuple[Tensor, Tensor | None]], generator: Generator) -> bool:
    """Whether ``layers`` make of a picture what ``generator`` makes of it.

    Args:
        layers: In the file's order.
        weights: Of each convolution and PReLU, in that order: its weights and its bias, as they are in the file.
        generator: With the same weights.

    Raises:
        ValueError: A layer that computes what no RRDB network does.
        KeyError: A layer reads what none before it wrote.
        RuntimeError: Layers that do not fit together.
    """
    picture = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grey = weights[0][0].shape[1] == 1
    weights = [(weight.double(), None if bias is None else bias.double()) for weight, bias in weights]
    with torch.inference_mode():
        wanted = generator.eval().double()(picture.mean(1, keepdim=True).expand(-1, 3, -1, -1) if grey else picture)
        found = _computed(layers, weights, picture.mean(1, keepdim=True) if grey else picture)
        if found.shape[-2:] != wanted.shape[-2:]:
            return False
        largest = wanted.abs().max().item()
        return torch.allclose(found.expand_as(wanted), wanted, rtol=0, atol=1e-6 * largest, equal_nan=True)


def _computed(layers: list[Layer], weights: list[tuple[Tensor, Tensor | None]], picture: Tensor) -> Tensor:
    blobs: dict[str, Tensor] = {}
    weighted = iter(weights)
    for layer in layers:
        inputs = [blobs.pop(name) for name in layer.inputs]  # each is read once, else a Split copies it
        if layer.kind in ("Convolution", "PReLU"):
            result = _weighted(layer, inputs[0], *next(weighted))
        else:
            result = _plain(layer, inputs) if inputs else picture
        if result.numel() > MOST or blobs.keys() & layer.outputs:
            raise ValueError(f"{layer.outputs} are larger than in any network, or written twice")
        blobs |= dict.fromkeys(layer.outputs, result)
    return result


def _weighted(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.kind == "PReLU":
        return F.prelu(x, weight)
    size, dilation, stride, pad = (int(layer.option(number)) for number in (1, 2, 3, 4))
    sides = {11: size, 12: dilation, 13: stride, 14: pad, 15: pad, 16: layer.option(14, pad)}
    if any(layer.option(number, usual) != usual for number, usual in sides.items()) or layer.option(8) or pad < 0:
        raise ValueError(f"the convolution {layer.outputs} is not the same in both directions, or of int8")
    x = F.conv2d(x, weight, bias, stride, pad, dilation)
    if layer.option(9) not in (0, 1, 2) or layer.option(18):
        raise ValueError(f"the convolution {layer.outputs} ends in another activation or border")
    slopes = [1.0, 0.0, *layer.options.get(10, [])[:1]]
    return F.leaky_relu(x, slopes[int(layer.option(9))]) if layer.option(9) else x


def _plain(layer: Layer, inputs: list[Tensor]) -> Tensor:  # noqa: C901, PLR0911 - one for each kind
    """What a layer without weights makes of what it reads."""
    option, x = layer.option, inputs[0]
    match layer.kind:
        case "Split":
            return x
        case "Concat" if option(0) == 0:
            return torch.cat(inputs, dim=1)
        case "ReLU":
            return F.leaky_relu(x, option(0))
        case "TanH":
            return x.tanh()
        case "Eltwise" if option(0) == 1:
            shares = layer.options.get(1) or [1.0] * len(inputs)
            return cast(Tensor, sum(share * each for share, each in zip(shares, inputs, strict=True)))
        case "BinaryOp" if option(0) in (0, 2):
            y = option(2) if option(1) else inputs[1]
            return x * y if option(0) else x + y
        case "Interp" if option(0) == 1 and option(2, option(1)) == option(1) and not (option(3) or option(4)):
            return F.interpolate(x, scale_factor=option(1), mode="nearest")
        case "Reorg" if not option(1):
            return F.pixel_unshuffle(x, int(option(0)))
        case "PixelShuffle" if not option(1):
            return F.pixel_shuffle(x, int(option(0)))
    raise ValueError(f"the {layer.kind} layer {layer.outputs} computes what no ESRGAN network does")
