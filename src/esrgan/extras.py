"""Packages that are not always there."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from esrgan.errors import EsrganError, first_line


class ExtraError(EsrganError):
    """A package that is not there, or that cannot be imported."""


def how_to_install(extra: str) -> str:
    """What a message says of a missing extra."""
    return f"in the checkout of esrgan, pip install '.[{extra}]' or uv sync --extra {extra}"


def import_extra(module: str, extra: str) -> Any:
    """Import ``module``, which the extra called ``extra`` installs.

    Raises:
        ExtraError: It is not installed, and the message says how to install it; or it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if find_spec(package):
            broken = f"this needs {module}, which is installed but cannot be imported ({first_line(error)})"
            raise ExtraError(f"{broken}; install it anew, or remove {package}") from error
        raise ExtraError(f"this needs {module}, which is not installed: {how_to_install(extra)}") from error


def import_ncnn() -> Any:
    """Import ncnn; on macOS it has an OpenMP of its own, which beside torch's would end the program."""
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    return import_extra("ncnn", "ncnn")
