"""Configs as TOML files, and what may differ between them when a run resumes."""

import os
import re
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from esrgan.config import Config, PretrainConfig, Stage, TrainConfig

MACHINE = frozenset({"run_dir", "cache", "device", "engine", "lpips", "vgg", "resume", "tensorboard"})
"""Options that say where a run happens, not what it does."""
FREE = MACHINE | {"steps", "log_every", "validate_every", "save_every"}
"""Options in which a resumed run may differ."""
GAN_ONLY = {field.name for field in fields(TrainConfig)} - {field.name for field in fields(PretrainConfig)}
PSNR_ONLY = {field.name for field in fields(PretrainConfig)} - {field.name for field in fields(TrainConfig)}


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """One line for every option in which ``config`` is another run than ``saved``; what may change is left out.

    Pictures and models count as the same under the same name, wherever they lie: a run may move to another machine.
    An option that ``saved`` is too old to have counts as its default.
    """
    required = {f.name: getattr(config, f.name) for f in fields(config) if f.default is MISSING}
    defaults, now = plain(type(config)(**required)), plain(config)
    before = defaults | saved
    if config.stage == "psnr":  # where only their product counts, to rounding
        for options in (before, now):
            options["batch x accumulate"] = options.pop("batch") * options.pop("accumulate")
    return [
        f"{name}: {before.get(name, 'none')} before, {now.get(name, 'none')} now"
        for name in sorted(before.keys() | now.keys())
        if name not in FREE and _place_free(before.get(name)) != _place_free(now.get(name))
    ]


def saved_stage(saved: dict[str, Any]) -> Stage:
    """Which stage's options these are."""
    return "gan" if any(name.split(".")[0] in GAN_ONLY for name in saved) else "psnr"


def _place_free(value: Any) -> Any:
    """Paths by their last part."""
    if isinstance(value, str):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return [_place_free(item) for item in value] if isinstance(value, list) else value


def plain(config: Config) -> dict[str, Any]:
    """The config as plain values under dotted names, paths absolute; options that are none are left out."""
    return {name: _plain(value) for name, value in flattened(asdict(config)).items() if value is not None}


def to_toml(config: Config) -> str:
    """The config as a TOML file that ``--config`` reads."""
    values, tables = plain(config), [name for name, value in asdict(config).items() if isinstance(value, dict)]
    lines = [f"{name} = {toml_value(value)}" for name, value in values.items() if "." not in name]
    for table in tables:
        lines += ["", f"[{table}]"]
        lines += [f"{k.split('.', 1)[1]} = {toml_value(v)}" for k, v in values.items() if k.startswith(f"{table}.")]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return os.path.abspath(value)  # noqa: PTH100 - unlike absolute(), takes ".." out
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        quoted = "".join(f"\\u{ord(c):04X}" if ord(c) < 32 or c == "\x7f" else c for c in value.replace("\\", "\\\\"))
        return '"' + quoted.replace('"', '\\"') + '"'
    return repr(value)


def flattened(table: dict[str, Any]) -> dict[str, Any]:
    """A parsed config.toml under the dotted names of ``plain``."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
