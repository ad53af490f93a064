"""Model files for other programs: the same weights under BasicSR's or the old architecture's names."""

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError, UsageError
from esrgan.files import replacing, require_other
from esrgan.generator import Generator
from esrgan.model_file import (
    DOUBT,
    ModelFile,
    build,
    load_model,
    model_bytes,
    ordered,
    provenance_of,
    read_model,
    stored_weights,
)
from esrgan.parity import Parity, compare, require

Dialect = Literal["esrgan", "basicsr", "old"]
THEIRS = {"author": "author", "licence": "license", "description": "description"}
"""What of our header other programs' safetensors can say, and how they call it."""
READ_GROWTH = 32
"""The only growth that spandrel, and with it chaiNNer and ComfyUI, reads."""


@dataclass(frozen=True)
class Converted:
    """What became of a model file."""

    dialect: Dialect
    scale: int
    parity: list[Parity]
    provenance: dict[str, Any]
    """What the source says of itself, also where the new file has no place for it."""
    notes: list[str]
    """What the reader should know."""


def convert(
    source: Path | str,
    out: Path | str,
    *,
    dialect: Dialect | None = None,
    half: bool = False,
    scale: int | None = None,
    about: dict[str, str] | None = None,
) -> Converted:
    """Write the model file ``source``, of any dialect, to ``out``, and prove that it is the same network.

    Args:
        source: A model file that ``load_model`` reads.
        out: A ``.safetensors`` or ``.pth`` file.
        dialect: esrgan (ours, only ``.safetensors``), basicsr (Real-ESRGAN's names, read by nearly all programs), old
            (the 2018 names). None = esrgan for ``.safetensors``, basicsr for ``.pth``.
        half: Store fp16.
        scale: Of the network, where the file cannot tell: the weights of x3 have the shapes of those of x2.
        about: What the new file is to say instead of the source: author, licence, description, or more.

    Raises:
        UsageError: A suffix that the dialect does not have, or ``out`` is ``source``.
        EsrganError: Another scale than the weights have, a network that the dialect cannot hold, or bad files.
    """
    source, out = Path(source), Path(out)
    if out.suffix not in (".safetensors", ".pth"):
        raise UsageError(f"{out} must end in .safetensors or .pth; `esrgan export` writes other formats")
    dialect = dialect or ("esrgan" if out.suffix == ".safetensors" else "basicsr")
    if dialect == "esrgan" and out.suffix != ".safetensors":
        raise UsageError(f"{out}: our own dialect is a .safetensors file; leave --to out, or use --to basicsr")
    require_other(out, source)
    model = read_model(source)
    generator, provenance = build_scaled(model, source, scale), provenance_of(model, source) | (about or {})
    notes = [f"taken for x2, {DOUBT}"] if model.may_be_x3 and scale is None else []
    if dialect == "esrgan":
        content = model_bytes(generator, provenance, half=half)
    else:
        _require_readable(generator.config, dialect)
        if generator.config.growth < READ_GROWTH:
            grown = f"from {generator.config.growth} to {READ_GROWTH}"
            notes.append(f"growth was padded {grown}, which other programs expect")
        content = _content(widened(generator), dialect, out.suffix, half=half, provenance=provenance)
    with replacing(out) as temporary:
        temporary.write_bytes(content)
        parity = compare(generator, load_model(temporary))
        require(parity, half=half, what=out)
    return Converted(dialect, generator.scale, parity, provenance, notes)


def build_scaled(model: ModelFile, source: Path, scale: int | None) -> Generator:
    """The network of what was read from ``source``; of what may be x2 or x3, that of ``scale``.

    Raises:
        EsrganError: As ``load_model``; or the file is of another scale.
    """
    found = model.header.config.scale
    if scale not in (None, found):
        if not (model.may_be_x3 and scale == 3):
            raise EsrganError(f"{source} holds an x{found} network, not x{scale}; leave --scale out")
        model = model._replace(header=replace(model.header, config=replace(model.header.config, scale=3)))
    return build(model, source)


def widened(generator: Generator) -> Generator:
    """The same function with more feature maps in the dense blocks: the new ones are 0 and count for nothing."""
    config = generator.config
    if config.growth >= READ_GROWTH:
        return generator
    wide = Generator(replace(config, growth=READ_GROWTH), start="paper").eval()
    weights = {name: _padded(name, tensor, config) for name, tensor in generator.state_dict().items()}
    wide.load_state_dict(weights)
    return wide


def _padded(name: str, tensor: Tensor, config: GeneratorConfig) -> Tensor:
    match = re.fullmatch(r"body\.\d+\.rdb\d\.conv(\d)(x1)?\.(weight|bias)", name)
    if not match:
        return tensor
    place, extra = int(match[1]), READ_GROWTH - config.growth
    if match[3] == "weight":
        parts = torch.split(tensor, [config.channels] + [config.growth] * (place - 1), dim=1)
        tensor = torch.cat([parts[0], *(F.pad(part, (0, 0, 0, 0, 0, extra)) for part in parts[1:])], dim=1)
    return tensor if place == 5 else F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, extra))


def _require_readable(config: GeneratorConfig, dialect: Dialect) -> None:
    if config.variant == "subpixel":
        raise EsrganError("no other program has the sub-pixel network; keep the .safetensors, or use `esrgan export`")
    if config.scale == 3:
        raise EsrganError("other programs take an x3 network for x2; keep the .safetensors, or use `esrgan export`")
    if config.growth > READ_GROWTH:
        raise EsrganError(f"other programs read growth {READ_GROWTH} only; keep the .safetensors, or `esrgan export`")
    if config.plus and dialect != "old":
        raise EsrganError("other programs read ESRGAN+ only as the old architecture; add --to old")


def _content(generator: Generator, dialect: Dialect, suffix: str, *, half: bool, provenance: dict[str, Any]) -> bytes:
    """The file of another dialect than ours."""
    weights = stored_weights(generator, half=half)
    if dialect == "old":
        weights = {old_name(name, generator.config): tensor for name, tensor in weights.items()}
    if suffix == ".safetensors":
        about = {theirs: provenance[ours] for ours, theirs in THEIRS.items() if isinstance(provenance.get(ours), str)}
        return ordered(save(weights, {"format": "pt", **about}))
    content = io.BytesIO()
    torch.save({"params_ema": weights} if dialect == "basicsr" else weights, content)
    return content.getvalue()


def old_name(name: str, config: GeneratorConfig) -> str:
    """The name in the old architecture of one of our weights."""
    layer, _, kind = name.rpartition(".")
    ups = len(config.factors)
    places = {"conv_first": "0", "conv_body": f"1.sub.{config.blocks}"}
    places |= {f"conv_up{i}": f"{3 * i}" for i in range(1, ups + 1)}
    places |= {"conv_hr": f"{3 * ups + 2}", "conv_last": f"{3 * ups + 4}"}
    if layer in places:
        return f"model.{places[layer]}.{kind}"
    _, block, dense, conv = layer.split(".")
    return f"model.1.sub.{block}.{dense.upper()}.{conv}{'' if conv == 'conv1x1' else '.0'}.{kind}"
