"""The one exception that this package raises on purpose, and what sets a wrong command apart from the rest."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EsrganError(Exception):
    """Something the caller can put right; the message names it and says how.

    The command line prints it as one line and exits with 1.
    """


class UsageError(EsrganError):
    """Options that mean nothing, or that contradict each other or the inputs; nothing was begun.

    The command line prints it as one line and exits with 2.
    """


class DiskFullError(EsrganError):
    """A disk that became full while a file was being written; what else goes there will fail, too."""


def of_system(error: OSError, message: str) -> EsrganError:
    """What to raise where the system said ``error``."""
    return DiskFullError(message) if error.errno == errno.ENOSPC else EsrganError(message)


def is_unread(error: OSError) -> bool:
    """Whether that is what the system says of a pipe whose reader went away."""
    windows = sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None
    return windows or isinstance(error, BrokenPipeError)


@contextmanager
def until_unread() -> Iterator[None]:
    """Ends without an error where a pipe's reader goes away."""
    try:
        yield
    except OSError as error:
        if not is_unread(error):
            raise


def printable(text: str) -> str:
    """``text`` in one line, without what a terminal would obey: names and headers come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_of(source: Path | bytes) -> str:
    """What to call a picture in a message of one line, whatever its file is named."""
    return printable(str(source)) if isinstance(source, Path) else "the picture"


def told(error: object, source: Path) -> str:
    """What to say of a failure: it begins with the name of the picture."""
    text, name = str(error), name_of(source)
    return text if text.startswith(name) else f"{name}: {text}"


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
