"""What a model file is, for people: its network, where it comes from, what it costs on this machine."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from esrgan.config import GeneratorConfig
from esrgan.errors import printable
from esrgan.generator import Generator
from esrgan.model_file import DOUBT, build, read_model
from esrgan.upscaler import Upscaler

SAMPLE = 64
"""Side of the LR picture that the speed is measured with."""


def describe(path: Path, *, speed: bool = True, full: bool = False) -> dict[str, str]:
    """Names and values, in the order to print them.

    Args:
        path: A model file of any dialect.
        speed: Measure the time per megapixel, too; some seconds.
        full: Tell all of the model that this one was begun from, not a line.
    """
    model = read_model(path)
    generator = build(model, path)
    config, about = model.header.config, dict(model.header.provenance)
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    facts = {
        "file": str(path),
        "dialect": model.dialect,
        "stored": model.storage,
        "network": network(config),
        "scale": f"x{config.scale}" + f" ({DOUBT})" * model.may_be_x3,
        "parameters": f"{parameters:,}",
        "work": f"{megaflops(config):,.1f} MFLOP per pixel of the input",
    }
    if speed:
        facts["speed"] = _speed(generator)
    facts["licence"] = str(about.pop("licence", "not stated in the file; ask where you have it from"))
    about = {f"{name} (says the file)" if name in facts else name: value for name, value in about.items()}
    if not full:
        about |= _in_short(about)
    return {printable(name): printable(value) for name, value in (facts | dict(_flat(about))).items()}


def network(config: GeneratorConfig) -> str:
    """The network's shape in one line."""
    kind = "ESRGAN+" if config.plus else f"ESRGAN, {config.variant}"
    unshuffle = f", pixel-unshuffle {config.unshuffle}" if config.unshuffle > 1 else ""
    return f"{kind}: {config.blocks} blocks, {config.channels} channels, growth {config.growth}{unshuffle}"


def megaflops(config: GeneratorConfig) -> float:
    """Millions of floating-point operations (two to a multiply-add) per LR pixel."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Generator(config, start="paper")(torch.empty(1, 3, SAMPLE, SAMPLE))
    return float(counter.get_total_flops()) / SAMPLE**2 / 1e6


def _speed(generator: Generator) -> str:
    upscaler = Upscaler(generator)
    upscaler.steady()
    upscaler(torch.rand(1, 3, 16, 16))  # the first call prepares
    start = time.perf_counter()
    upscaler(torch.rand(1, 3, SAMPLE, SAMPLE))
    seconds = time.perf_counter() - start
    megapixels = (SAMPLE * generator.scale) ** 2 / 1e6
    return f"{seconds / megapixels:.2g} s per megapixel of the result ({upscaler.about})"


def _in_short(about: dict[str, Any]) -> dict[str, Any]:
    """In a line each: what models this one was made from, and its scores."""
    short: dict[str, Any] = {}
    if isinstance(init := about.get("init"), dict):
        short["init"] = f"{_origin(init)} (--full tells all of it)"
    models = about.get("models")
    if isinstance(models, list) and all(isinstance(each, dict) for each in models):
        short["models"] = f"{'; '.join(_share(each) for each in models)} (--full tells all of them)"
    scores = about.get("scores")
    if isinstance(scores, dict) and isinstance(sets := scores.get("datasets"), list):
        short["scores"] = scores | {"datasets": "; ".join(_scored(each) for each in sets)}
    return short


def _share(model: dict[str, Any]) -> str:
    share, about = model.get("share"), model.get("provenance")
    part = f"{share:.0%} of " if isinstance(share, float) else ""
    return part + _origin({"name": model.get("name")} | (about if isinstance(about, dict) else {}))


def _scored(dataset: Any) -> str:
    if not isinstance(dataset, dict):
        return str(dataset)
    shown = {name: dataset[name] for name in ("name", "psnr_y", "ssim_y", "lpips") if name in dataset} or dataset
    return " ".join(f"{name} {value:.4g}" if isinstance(value, float) else str(value) for name, value in shown.items())


def _origin(about: dict[str, Any]) -> str:
    step = f"step {about['step']}" if "step" in about else None
    return ", ".join(str(part) for part in (about.get("name"), about.get("stage"), step) if part) or "a model"


def _flat(about: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in about.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
