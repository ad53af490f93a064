"""The record of an output folder: what made each file, so that the same command again continues."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from esrgan.errors import name_of
from esrgan.files import key_of

RECORD = ".esrgan-upscale.jsonl"
"""Name of the record's file."""
_STDIN = "standard input "


class Record:
    """What made the files of an output folder: one line of JSON each, added just before the file appears.

    A source is a file, or the content of a picture that came through standard input.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out / RECORD
        self._entries: dict[str, list[dict[str, Any]]] = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                try:
                    entry = json.loads(line)
                    self._entries.setdefault(key_of(entry["output"]), []).append(entry)
                except (ValueError, KeyError, TypeError):  # cut short when the machine stopped
                    continue

    def is_done(self, source: Path | bytes, target: Path, key: str) -> bool:
        """Whether the target is there, whole, from this very input, by the same model and options.

        An input of the same size and time in another place is this one, moved, where the other one is gone.
        """
        last, other = self._last(target), self._other(source, target)
        try:
            return (
                last.get("key") == key
                and last.get("size") == target.stat().st_size
                and last.get("input") == _at(source)
                and not (other and Path(other).exists())
            )
        except OSError:
            return False

    def other_source(self, source: Path | bytes, target: Path) -> str | None:
        """In words, another picture that the target was made from; a source that was not noted is another one."""
        other = self._other(source, target)
        if not other:
            return None
        if not Path(other).is_absolute():
            return "another picture, from standard input" if other.startswith(_STDIN) else "another picture"
        return name_of(Path(other)) + ("" if Path(other).exists() else ", which is gone")

    def is_ours(self, target: Path) -> bool:
        """Whether the file there was made by this program, and is as it left it."""
        return any(entry.get("time") in (None, target.stat().st_mtime_ns) for entry in self._of_its_size(target))

    def is_result(self, target: Path) -> bool:
        """Whether the file there was made by this program, as far as its size tells: copies have times of their own."""
        return bool(self._of_its_size(target))

    def add(self, source: dict[str, Any], target: Path, key: str, written: Path) -> None:
        """Note that ``written``, complete, is about to become ``target``; made from what ``of`` said before it was."""
        self._append(target, written, {**source, "key": key})

    @staticmethod
    def of(source: Path | bytes) -> dict[str, Any]:
        """What is noted of a source."""
        return {"input": _at(source), "source": _origin(source)}

    def add_alone(self, target: Path, written: Path) -> None:
        """Note that ``written`` is, or is about to become, ``target``, and ours, though of no file."""
        self._append(target, written, {})

    def _append(self, target: Path, written: Path, made: dict[str, Any]) -> None:
        status = written.stat()
        entry = {"output": self._name(target), "size": status.st_size, "time": status.st_mtime_ns, **made}
        self._entries.setdefault(key_of(entry["output"]), []).append(entry)
        with self._path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n" * (not _ends_a_line(self._path)) + json.dumps(entry) + "\n")

    def _of_its_size(self, target: Path) -> list[dict[str, Any]]:
        """What is noted of a file of this size; nothing where there is none, be it a link to nowhere."""
        try:
            size = target.stat().st_size
        except OSError:
            return []
        return [entry for entry in self._entries.get(key_of(self._name(target)), []) if entry.get("size") == size]

    def _other(self, source: Path | bytes, target: Path) -> str | None:
        last, own = self._last(target), _origin(source)
        other = last.get("source", "unknown") if last else own
        return other if other != own and Path(other).resolve() != Path(own).resolve() else None

    def _last(self, target: Path) -> dict[str, Any]:
        return self._entries.get(key_of(self._name(target)), [{}])[-1]

    def _name(self, target: Path) -> str:
        return target.relative_to(self._out).as_posix()


def _origin(source: Path | bytes) -> str:
    return str(source.resolve()) if isinstance(source, Path) else f"{_STDIN}{_at(source)}"


def _at(source: Path | bytes) -> list[int] | str:
    """What a changed one is noticed by: size and time of a file, a hash of content."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    status = source.stat()
    return [status.st_size, status.st_mtime_ns]


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
