"""The one exception that this package raises on purpose."""


class EsrganError(Exception):
    """Something the caller can put right; the message names it and says how.

    The command line prints it as one line and exits with 1.
    """
