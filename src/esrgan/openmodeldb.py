"""The metadata of a model as OpenModelDB's data base keeps it: one JSON file per model."""

import datetime
import json
from pathlib import Path
from typing import Any

from esrgan.files import write_text
from esrgan.model_file import read_model, sha256


def write_openmodeldb(model: Path, out: Path, *, about: dict[str, Any]) -> None:
    """Write the JSON for the model file ``model``; what ``about`` does not say is left empty, for its author."""
    write_text(out, json.dumps(openmodeldb(model, about), indent=4, ensure_ascii=False) + "\n")


def openmodeldb(model: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The fields that OpenModelDB requires, and of the others those that ``about``, a header's provenance, tells."""
    config = read_model(model).header.config
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
        "author": about.get("author", ""),
        "license": about.get("licence"),
        "tags": [],
        "description": str(about.get("description", "")).strip(),
        "date": str(about.get("date", datetime.datetime.now(tz=datetime.UTC).date()))[:10],
        "architecture": "esrgan+" if config.plus else "esrgan",
        "size": [f"{config.channels}nf", f"{config.blocks}nb"],
        "scale": config.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [resource],
        "images": [],
    }
    recipe = {"steps": "trainingIterations", "batch": "trainingBatchSize", "patch": "trainingHRSize"}
    known = about.get("recipe", {})
    return entry | {theirs: known[ours] for ours, theirs in recipe.items() if ours in known}
