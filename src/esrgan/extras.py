"""Packages that are not always there."""

from importlib import import_module
from typing import Any

from esrgan.errors import EsrganError


def import_extra(module: str, extra: str) -> Any:
    """Import ``module``, which the extra called ``extra`` installs.

    Raises:
        EsrganError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise EsrganError(f"this needs {module}, which is not installed: pip install 'esrgan[{extra}]'") from error
