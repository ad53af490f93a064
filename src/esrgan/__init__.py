"""ESRGAN: enlarge pictures with trained networks, and train your own.

The public names are imported on first use, so that ``import esrgan`` costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "EsrganError": "errors",
    "Generator": "generator",
    "GeneratorConfig": "config",
    "load_model": "model_file",
    "read_header": "model_file",
    "save_model": "model_file",
    "resize": "resize",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - the names above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'esrgan' has no attribute {name!r}")
    return getattr(import_module(f"esrgan.{_HOME[name]}"), name)
