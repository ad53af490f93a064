"""The one exception that this package raises on purpose, and what sets a wrong command apart from the rest."""

import errno


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


def printable(text: str) -> str:
    """``text`` in one line, without what a terminal would obey: names and headers come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
