"""Files that appear whole or not at all."""

import hashlib
import os
import platform
import secrets
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from esrgan.errors import EsrganError, UsageError, of_system

WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds


def home(variable: str, inside: str, *, instead: str) -> Path:
    """The folder that ``variable`` names or, without it, ``inside`` of the user's home folder.

    Raises:
        EsrganError: There is neither; the message says to set ``instead``.
    """
    if named := os.environ.get(variable):
        return Path(named)
    try:
        return Path.home() / inside
    except RuntimeError as error:
        raise EsrganError(f"this user has no home folder; let {instead} name a folder instead") from error


@cache
def machine() -> str:
    """Eight letters that tell this machine, or container, from others that write to the same folders."""
    try:
        processes = str(Path("/proc/self/ns/pid").stat().st_ino)  # whose numbers are of one such space
    except OSError:
        processes = ""
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:8]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it becomes ``path``, on any failure it is removed.

    The temporary name says which process of which machine writes it, and keeps the suffix, for writers that choose the
    format by it. The parent folder is made.

    Raises:
        EsrganError: The file cannot be written; ``path`` is then as it was.
    """
    temporary = path.with_name(f".{os.getpid()}.{machine()}{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        move(temporary, path)
    except OSError as error:
        raise of_system(error, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the error above is the one to tell
            temporary.unlink(missing_ok=True)


def leftovers(folder: Path) -> Iterator[Path]:
    """What ``replacing`` left in a folder where processes were killed, or still writes there."""
    return folder.glob(f".[0-9]*.{16 * '?'}.part*")


def move(old: Path, new: Path) -> None:
    """Rename ``old`` to ``new``, which it replaces; on Windows once virus scanners and the like let go."""
    for wait in WAITS if sys.platform == "win32" else ():
        try:
            old.replace(new)
            return
        except PermissionError:
            time.sleep(wait)
    old.replace(new)


def key_of(path: Path | str) -> str:
    """What is equal of two paths that the file system takes for one: macOS' knows no case and no form of accents."""
    if sys.platform == "darwin":
        return unicodedata.normalize("NFC", str(path)).casefold()
    return os.path.normcase(path)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_other(out: Path, *inputs: Path) -> None:
    """Refuse to write to a file that is read.

    Raises:
        UsageError: ``out`` is one of ``inputs``.
    """
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise UsageError(f"{out} is read and would be overwritten; write to another file")


def with_weights(path: Path) -> tuple[Path, ...]:
    """A file, and what goes with it where its engine keeps network and weights in two."""
    pairs = {".param": ".bin", ".xml": ".bin", ".bin": ".param"}
    return path, *(path.with_suffix(other) for suffix, other in pairs.items() if suffix == path.suffix.lower())


def require_new(*outs: Path | None, overwrite: bool) -> None:
    """Refuse to write over what is there, unless that was asked for.

    Raises:
        UsageError: One of ``outs`` is a folder; or is there, without ``overwrite``.
    """
    for out in outs:
        if out and out.is_dir():
            raise UsageError(f"{out} is a folder; give a name for the file")
        if out and not overwrite and os.path.lexists(out):
            raise UsageError(f"{out} is there already; --overwrite replaces it")


def require_json(path: Path | None) -> None:
    """Refuse, before work is done for it, to write a report over a file of another kind.

    Raises:
        UsageError: The name does not end in .json, or is that of a folder.
    """
    if path and (path.is_dir() or path.suffix.lower() != ".json"):
        raise UsageError(
            f"{path} is {'a folder' if path.is_dir() else 'no .json file'}; give the report a name in .json"
        )
