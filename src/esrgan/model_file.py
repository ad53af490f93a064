"""Model files: weights, the config that rebuilds the network, and where both come from, in one ``.safetensors``."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError
from esrgan.files import replacing
from esrgan.generator import Generator


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a model file says of itself."""

    config: GeneratorConfig
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, licences, recipe, steps, seed, commit, scores and their protocol; as much as is known."""


def save_model(
    generator: Generator,
    path: Path,
    *,
    provenance: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write ``generator`` to ``path`` atomically, in fp32 or, with ``half``, fp16."""
    dtype = torch.float16 if half else torch.float32
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in generator.state_dict().items()}
    metadata = {"format": "esrgan", "config": json.dumps(asdict(generator.config))}
    if provenance:
        metadata["provenance"] = json.dumps(provenance, ensure_ascii=False)
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata)


def read_header(path: Path) -> Header:
    """Read a model file's config and provenance without its weights."""
    with _opened(path) as file:
        return _header(file.metadata() or {}, path)


def load_model(path: Path | str, *, device: torch.device | str = "cpu") -> Generator:
    """Rebuild the network of a model file, ready to run: fp32, in evaluation mode.

    Raises:
        EsrganError: No such file, not a model file, or weights that do not fit its config or are not finite.
    """
    path = Path(path)
    with _opened(path) as file:
        header = _header(file.metadata() or {}, path)
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
    with torch.device("meta"):
        generator = Generator(header.config, start="paper")
    fill(generator, weights, path)
    return generator.to(device).eval()


def fill(generator: Generator, weights: dict[str, Tensor], path: Path) -> None:
    """Put ``weights`` into ``generator``, which may be on the meta device; name what does not fit."""
    expected = generator.state_dict()
    for name in expected.keys() | weights.keys():
        if name not in weights:
            raise EsrganError(f"{path}: the weight {name} is missing; the file is damaged or of another network")
        if name not in expected or weights[name].shape != expected[name].shape:
            raise EsrganError(f"{path}: the weight {name} does not fit the network that the file describes")
        if not math.isfinite(weights[name].abs().sum().item()):
            raise EsrganError(f"{path}: the weight {name} has values that are not finite; the model is broken")
    generator.load_state_dict(weights, assign=True)
    generator.requires_grad_(True)


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise EsrganError(f"there is no model file {path}; `esrgan models` lists the models at hand")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise EsrganError(f"{path} is not a safetensors model file ({error})") from error


def _header(metadata: dict[str, str], path: Path) -> Header:
    try:
        config = GeneratorConfig(**json.loads(metadata["config"]))
        return Header(config=config, provenance=json.loads(metadata.get("provenance", "{}")))
    except (KeyError, TypeError, ValueError) as error:
        raise EsrganError(
            f"{path} has no esrgan config in its header: it was not written by esrgan ({error})"
        ) from error
