"""The metadata of a model as OpenModelDB's data base keeps it: one JSON file per model."""

import datetime
import json
from pathlib import Path
from typing import Any

from esrgan.files import write_text
from esrgan.model_file import read_header, sha256

NUMBERS = (("recipe", "steps", "trainingIterations"), ("recipe", "batch", "trainingBatchSize"),
           ("recipe", "patch", "trainingHRSize"), ("data", "pictures", "datasetSize"))  # fmt: skip
"""Where our header has them, and how OpenModelDB calls them."""


def write_openmodeldb(model: Path, out: Path, *, about: dict[str, Any]) -> None:
    """Write the JSON for the model file ``model``; what ``about`` does not say is left empty, for its author."""
    write_text(out, json.dumps(openmodeldb(model, about), indent=4, ensure_ascii=False) + "\n")


def openmodeldb(model: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The fields that OpenModelDB requires, and of the others those that ``about``, a header's provenance, tells."""
    config = read_header(model).config
    kind = "safetensors" if model.suffix == ".safetensors" else "pth"
    resource = {
        "platform": "pytorch",
        "type": kind,
        "size": model.stat().st_size,
        "sha256": sha256(model),
        "urls": [],
    }
    entry = {
        "name": model.stem,
        "author": _text(about, "author"),
        "license": _text(about, "licence") or None,
        "tags": [],
        "description": _text(about, "description"),
        "date": (_text(about, "date") or datetime.datetime.now(tz=datetime.UTC).date().isoformat())[:10],
        "architecture": "esrgan+" if config.plus else "esrgan",
        "size": [f"{config.channels}nf", f"{config.blocks}nb"],
        "scale": config.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [resource],
        "images": [],
    }
    return entry | {name: about[part][ours] for part, ours, name in NUMBERS if _has_number(about.get(part), ours)}


def _text(about: dict[str, Any], name: str) -> str:
    """What a header, in which anything may stand, says in words."""
    value = about.get(name)
    return value.strip() if isinstance(value, str) else ""


def _has_number(part: Any, name: str) -> bool:
    return isinstance(part, dict) and type(part.get(name)) is int
