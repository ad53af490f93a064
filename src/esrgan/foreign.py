"""Models of other people: which network the names and shapes of a file's weights describe, under our names.

Read are BasicSR's and Real-ESRGAN's names (which are ours), those of the 2018 code (the "old architecture") and of
its 2019 revision (``RRDB_trunk``), any mixture of them, ESRGAN+ (``conv1x1``) and ESRGAN-PyTorch (``trunk``).
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from esrgan.config import GeneratorConfig, Variant
from esrgan.errors import EsrganError

OLD, REVISED, PYTORCH, BASICSR = "old architecture (2018)", "RRDB_trunk (2019)", "ESRGAN-PyTorch", "BasicSR"
RENAMES = (
    (OLD, r"model\.0", "conv_first"),
    (OLD, r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d|1x1)(?:\.0)?", r"body.\1.rdb\2.conv\3"),
    (OLD, r"model\.1\.sub\.\d+", "conv_body"),
    (REVISED, r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d|1x1)", r"body.\1.rdb\2.conv\3"),
    (REVISED, "trunk_conv", "conv_body"),
    (REVISED, r"upconv(\d)", r"conv_up\1"),
    (REVISED, "HRconv", "conv_hr"),
    (PYTORCH, r"trunk\.(\d+\.rdb\d\.conv\d)", r"body.\1"),
    (PYTORCH, "conv1", "conv_first"),
    (PYTORCH, "conv2", "conv_body"),
    (PYTORCH, r"upsampling(\d)\.0", r"conv_up\1"),
    (PYTORCH, r"conv3\.0", "conv_hr"),
    (PYTORCH, "conv4", "conv_last"),
)
"""Dialect, a layer's name in it (a whole match), ours. The old architecture's last layers are found by their order."""
OTHERS = {
    "body.0.weight": "Compact (SRVGGNet)",
    "am_list.0.fc.0.weight": "MMRealSR",
    "layers.0.residual_group.blocks.0.norm1.weight": "SwinIR",
    "layers.0.residual_group.blocks.0.conv_block.cab.0.weight": "HAT",
    "before_RG.1.weight": "DAT",
    "block_1.c1_r.sk.weight": "SPAN",
    "feats.0.weight": "PLKSR",
    "residual_layer.0.residual_layer.0.layer.0.fn.0.weight": "OmniSR",
    "to_feat.weight": "SAFMN",
    "recon_trunk.0.conv1.weight": "SRResNet",
    "head.0.weight": "EDSR or RCAN",
    "features.0.weight": "discriminator or VGG",
    "conv0.weight": "U-Net discriminator (Real-ESRGAN's net_d)",
    "classifier.0.weight": "discriminator or classifier",
}
"""A layer that only this architecture has, and its name."""
LAYER = re.compile(r"conv_(first|body|up\d+|hr|last)|prelu_up\d+|body\.\d+\.rdb[123]\.conv([1-5]|1x1)")
"""What layers of RRDB networks are called."""

ANCHOR = re.compile(
    r"(|.*?\.)(body\.0\.rdb1|model\.1\.sub\.0\.RDB1|RRDB_trunk\.0\.RDB1|trunk\.0\.rdb1)\.conv1(\.0)?\.weight"
)
"""The first convolution of the body in each dialect, after whatever prefix the names have."""


class OtherArchitectureError(EsrganError):
    """The weights are of no RRDB network."""


class Found(NamedTuple):
    """A network as its file describes it."""

    config: GeneratorConfig
    weights: dict[str, Tensor]
    """Under our names; not yet compared with the config."""
    dialect: str
    """Whose names the file uses."""


def recognise(tensors: dict[str, Tensor], path: Path) -> Found:
    """The network that ``tensors`` are the weights of; x3 cannot be told from x2 and is taken for x2.

    Raises:
        OtherArchitectureError: Not an RRDB network.
        EsrganError: One that takes or gives other than RGB or grey, or of a scale that there is not.
    """
    tensors = _one_network(tensors)
    dialect, weights = _renamed(tensors)
    needed = {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"}
    if not needed <= weights.keys() or _strange(weights):
        raise OtherArchitectureError(
            f"{path} holds {_what(tensors, weights, needed)}; only `esrgan upscale`, "
            "without --alpha, and `esrgan test` take such, through spandrel"
        )
    weights = in_rgb(weights)
    return Found(_infer(weights, path), weights, dialect)


def _strange(weights: dict[str, Tensor]) -> list[str]:
    """The weights that are of no layer of an RRDB network; counters are none."""
    names = (name for name, tensor in weights.items() if tensor.is_floating_point())
    return [name.lstrip(".") for name in names if not LAYER.fullmatch(name.rpartition(".")[0])]


def _what(tensors: dict[str, Tensor], weights: dict[str, Tensor], needed: set[str]) -> str:
    """What a file holds instead of ESRGAN, in words."""
    known = next((name for layer, name in OTHERS.items() if layer in tensors), None)
    if known is None and needed <= weights.keys():
        return f"weights that ESRGAN does not have ({', '.join(_strange(weights)[:3])}) among its own"
    return f"a network of another architecture ({known or 'unknown'}), not ESRGAN"


def config_of(path: Path, **shape: Any) -> GeneratorConfig:
    """A config of what was found in ``path``, which an error names."""
    try:
        return GeneratorConfig(**shape)
    except EsrganError as error:
        raise EsrganError(f"{path} holds a network of a shape that is not supported: {error}") from error


def _infer(weights: dict[str, Tensor], path: Path) -> GeneratorConfig:
    first, last = weights["conv_first.weight"], weights["conv_last.weight"]
    growing = weights["body.0.rdb1.conv1.weight"]
    ups = [tensor for name, tensor in weights.items() if re.fullmatch(r"conv_up\d+\.weight", name)]
    if any(tensor.ndim != 4 or 0 in tensor.shape for tensor in (first, growing, last, *ups)):
        raise EsrganError(f"{path}: its weights are not those of convolutions; the file is damaged")
    channels, inputs = first.shape[:2]
    unshuffle = math.isqrt(inputs // 3)
    require_rgb(first, last, unshuffle, path)
    variant: Variant = "subpixel" if "prelu_up1.weight" in weights else "classic"
    inner = 2 ** len(ups)
    if variant == "subpixel" and len(ups) == 1:
        inner = math.isqrt(ups[0].shape[0] // channels)
    if inner % unshuffle:
        raise EsrganError(f"{path}: its network makes pictures smaller (x{inner}/{unshuffle}); that is not supported")
    return config_of(
        path,
        variant=variant,
        scale=inner // unshuffle,
        channels=channels,
        growth=growing.shape[0],
        blocks=len({name.split(".")[1] for name in weights if name.startswith("body.")}),
        unshuffle=unshuffle,
        plus="body.0.rdb1.conv1x1.weight" in weights,
    )


def in_rgb(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network for grey pictures as one for RGB: it reads the mean of the three and gives three times the same.

    Of grey pictures it makes what it made before; any other network stays as it is.
    """
    first, last = weights["conv_first.weight"], weights["conv_last.weight"]
    if first.ndim != 4 or last.ndim != 4 or first.shape[1] != 1 or last.shape[0] != 1:
        return weights
    wider = {"conv_first.weight": first.expand(-1, 3, -1, -1) / 3, "conv_last.weight": last.expand(3, -1, -1, -1)}
    if "conv_last.bias" in weights:
        wider["conv_last.bias"] = weights["conv_last.bias"].expand(3)
    return weights | {name: tensor.contiguous() for name, tensor in wider.items()}


def require_rgb(first: Tensor, last: Tensor, unshuffle: int, path: Path) -> None:
    """Raise where a network, by its first and its last convolution, does not take RGB and give RGB."""
    inputs, outputs = first.shape[1], last.shape[0]
    if inputs != 3 * unshuffle**2 or outputs != 3:
        raise EsrganError(
            f"{path} is no network for RGB or grey pictures: it takes {inputs} channels and gives {outputs}, which is"
            " not supported; choose an RGB model, which enlarges grey pictures and transparency too"
        )


def _one_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The generator where several networks lie side by side (``net_g.``, ``net_d.``), the average where it is there."""
    prefixes = [match[1] for match in map(ANCHOR.fullmatch, tensors) if match]
    if not prefixes or "" in prefixes:
        return tensors
    prefix = next((prefix for prefix in prefixes if "ema" in prefix.lower()), prefixes[0])
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _renamed(tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    dialect, places = BASICSR, _places(tensors)
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        for rule, pattern, ours in RENAMES:
            if re.fullmatch(pattern, layer):
                dialect, layer = rule, re.sub(pattern, ours, layer)
                break
        weights[f"{places.get(layer, layer)}.{kind}"] = tensor
    return dialect, weights


def _places(tensors: dict[str, Tensor]) -> dict[str, str]:
    """The old architecture's layers after the body: enlargements, ``conv_hr`` and ``conv_last`` in their order."""
    matches = (re.fullmatch(r"model\.([1-9]\d?)\.weight", name) for name in tensors)
    numbers = sorted(int(match[1]) for match in matches if match)
    names = [*(f"conv_up{i}" for i in range(1, len(numbers) - 1)), "conv_hr", "conv_last"]
    return {f"model.{number}": name for number, name in zip(numbers[::-1], names[::-1], strict=False)}
