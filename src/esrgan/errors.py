"""The one exception that this package raises on purpose, and what sets a wrong command apart from the rest."""


class EsrganError(Exception):
    """Something the caller can put right; the message names it and says how.

    The command line prints it as one line and exits with 1.
    """


class UsageError(EsrganError):
    """Options that mean nothing, or that contradict each other or the inputs; nothing was begun.

    The command line prints it as one line and exits with 2.
    """


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
