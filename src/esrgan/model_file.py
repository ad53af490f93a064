"""Model files: weights, the config that rebuilds the network, and where both come from, in one ``.safetensors``.

What others wrote is read too, by its content: see ``foreign`` (names), ``weight_file`` (containers), ``ncnn_files``.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError, UsageError, first_line
from esrgan.files import replacing, with_weights
from esrgan.foreign import config_of, recognise
from esrgan.generator import Generator
from esrgan.ncnn_files import is_param, precision, read_ncnn
from esrgan.weight_file import read_weights

FOREIGN = {"author": "author", "license": "licence", "licence": "licence", "description": "description"}
"""What the header of another program's file may say, and how ours calls it."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".param")
"""Of model files; of ncnn's pairs, the .param."""

DOUBT = "or x3, which weights alone do not tell: `esrgan convert --scale 2`, or 3, settles it"
"""What to say of a model that may be x3."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a model file says of itself."""

    config: GeneratorConfig
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, licences, recipe, steps, seed, commit, scores and their protocol; as much as is known."""


class ModelFile(NamedTuple):
    """Everything in a model file."""

    header: Header
    """Of other people's files: what the weights' shapes tell."""
    weights: dict[str, Tensor]
    """Under our names, in fp32."""
    dialect: str
    """Whose names the file uses: esrgan, BasicSR, …"""
    storage: str
    """How the weights are stored, for people: "pth, float32"."""

    @property
    def may_be_x3(self) -> bool:
        """Whether it is taken for x2 only because nothing in the file tells: x3 has weights of the same shapes."""
        config = self.header.config
        told = self.dialect in ("esrgan", "ncnn") or config.variant == "subpixel"
        return not told and (config.scale, config.unshuffle) == (2, 1)


def save_model(
    generator: Generator,
    path: Path | str,
    *,
    provenance: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write ``generator`` to ``path`` atomically, in fp32 or, with ``half``, fp16.

    Args:
        generator: The network.
        path: Of the new file; ends in ``.safetensors``.
        provenance: What the header says of its origin: anything that JSON can hold.
        half: Store the weights in fp16.

    Raises:
        EsrganError: The file cannot be written.
        UsageError: Another suffix: programs choose by it how to read a model.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise UsageError(f"{path} must end in .safetensors; `esrgan convert` makes a .pth of it")
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(model_bytes(generator, provenance or {}, half=half))


def model_bytes(generator: Generator, provenance: dict[str, Any], *, half: bool) -> bytes:
    """The content of the file that ``save_model`` writes."""
    metadata = {"format": "esrgan", "config": json.dumps(asdict(generator.config))}
    if provenance:
        metadata["provenance"] = json.dumps(provenance, ensure_ascii=False)
    return ordered(save(stored_weights(generator, half=half), metadata))


def stored_weights(generator: Generator, *, half: bool) -> dict[str, Tensor]:
    """The network's weights as files hold them: on the CPU, in fp32 or fp16."""
    dtype = torch.float16 if half else torch.float32
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in generator.state_dict().items()}


def ordered(content: bytes) -> bytes:
    """A safetensors file with its metadata in order: the library shuffles it, and equal models shall be equal files."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_header(path: Path | str) -> Header:
    """What a model file says of itself; of our own files without reading the weights.

    Args:
        path: A model file of any dialect.

    Returns:
        Its ``config`` and ``provenance``.

    Raises:
        EsrganError: As ``load_model``.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}
    return _header(metadata, path) if is_ours(metadata) else read_model(path).header


def load_model(path: Path | str, *, device: torch.device | str = "cpu") -> Generator:
    """Rebuild the network of a model file of any dialect, ready to run: fp32, in evaluation mode.

    Args:
        path: The file.
        device: Where the weights go.

    Raises:
        EsrganError: No such file, not a model file, of another architecture, or weights that do not fit together.
    """
    return build(read_model(Path(path)), Path(path)).to(device)


def build(model: ModelFile, path: Path) -> Generator:
    """The network of what was read from ``path``, ready to run.

    Raises:
        EsrganError: Weights that do not fit together, or are not finite.
    """
    with torch.device("meta"):
        generator = Generator(model.header.config, start="paper")
    fill(generator, model.weights, path)
    return generator.eval()


def read_model(path: Path) -> ModelFile:
    """Everything in a model file: ours, BasicSR's, the old architecture's, ncnn's; see ``foreign``."""
    if path.suffix == ".bin" and path.with_suffix(".param").is_file():
        path = path.with_suffix(".param")
    if path.is_file() and is_param(path):
        found = read_ncnn(path)
        return ModelFile(Header(config=found.config), found.weights, found.dialect, f"ncnn, {precision(path)}")
    tensors, metadata, kind = read_weights(path)
    found = recognise(tensors, path)
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    about = {ours: metadata[theirs] for theirs, ours in FOREIGN.items() if metadata.get(theirs)}
    header = Header(config=found.config, provenance=about)
    if is_ours(metadata):
        header = _header(metadata, path)
        if replace(found.config, scale=header.config.scale) != header.config:
            raise EsrganError(f"{path}: its header describes {header.config}, its weights are of {found.config}")
    weights = {name: tensor.float() for name, tensor in found.weights.items() if tensor.is_floating_point()}
    return ModelFile(header, weights, "esrgan" if is_ours(metadata) else found.dialect, f"{kind}, {' '.join(kinds)}")


def fill(generator: Generator, weights: dict[str, Tensor], path: Path) -> None:
    """Put ``weights`` into ``generator``, which may be on the meta device; name what does not fit."""
    expected = generator.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise EsrganError(f"{path}: the weight {name} is missing; the file is damaged or of another network")
        if name not in expected or weights[name].shape != expected[name].shape:
            raise EsrganError(f"{path}: the weight {name} does not fit the network that the file describes")
        if not math.isfinite(weights[name].abs().sum().item()):
            raise EsrganError(f"{path}: the weight {name} has values that are not finite; the model is broken")
    generator.load_state_dict(weights, assign=True)
    generator.requires_grad_(True)


def is_ours(metadata: dict[str, str]) -> bool:
    """Whether a safetensors header is one that ``save_model`` wrote."""
    return metadata.get("format") == "esrgan" and "config" in metadata


def _header(metadata: dict[str, str], path: Path) -> Header:
    try:
        config = config_of(path, **json.loads(metadata["config"]))
        provenance = json.loads(metadata.get("provenance", "{}"))
        if not isinstance(provenance, dict):
            raise TypeError(f"its provenance is {provenance!r:.40}")
        return Header(config=config, provenance=provenance)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise EsrganError(f"{path} has a damaged esrgan header ({first_line(error)}); download it again") from error


def provenance_of(model: ModelFile, source: Path) -> dict[str, Any]:
    """What ``source``, read as ``model``, says of itself; of others' files also which one it was."""
    if model.dialect == "esrgan":
        return model.header.provenance
    origin = {"file": source.name, "dialect": model.dialect, "sha256": sha256(source)}
    return model.header.provenance | {"converted_from": origin}


def sha256(model: Path) -> str:
    """The file's SHA-256 in hexadecimal digits; of ncnn's two files that of .param and .bin, one after the other."""
    digest = hashlib.sha256()
    for file in sorted(with_weights(model), reverse=True):
        if file == model or file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def fingerprint(model: Path) -> str:
    """What tells one model file from another."""
    return sha256(model)[:16]
