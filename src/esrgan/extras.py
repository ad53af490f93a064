"""Packages that are not always there."""

import os
import sys
from importlib import import_module
from typing import Any

from esrgan.errors import EsrganError


def how_to_install(extra: str) -> str:
    """What a message says of a missing extra."""
    return f"in the checkout of esrgan, pip install '.[{extra}]' or uv sync --extra {extra}"


def import_extra(module: str, extra: str) -> Any:
    """Import ``module``, which the extra called ``extra`` installs.

    Raises:
        EsrganError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise EsrganError(f"this needs {module}, which is not installed: {how_to_install(extra)}") from error


def import_ncnn() -> Any:
    """Import ncnn; on macOS it has an OpenMP of its own, which beside torch's would end the program."""
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    return import_extra("ncnn", "ncnn")
