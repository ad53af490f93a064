"""The log of a run, twice: the same lines for programs (JSON) and for people."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esrgan.errors import EsrganError
from esrgan.files import write_text

Row = dict[str, Any]


class RunLog:
    """``log.jsonl`` and ``log.txt`` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[Path, Callable[[Row], str]] = {folder / "log.jsonl": json.dumps, folder / "log.txt": as_text}

    def append(self, row: Row) -> None:
        """Add a line; it is on the disk when this returns."""
        for path, form in self.files.items():
            _append(path, form(row))

    def rows(self) -> list[Row]:
        """What it holds; a half-written last line is left out."""
        path, rows = next(iter(self.files)), []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def has_losses(self) -> bool:
        """Whether a step was ever logged."""
        return any("losses" in row for row in self.rows())

    def cut(self, step: int, *, due: bool = False) -> None:
        """Drop what was logged after ``step``, with its validation if that is still due: it will all be done again."""
        rows = [
            row for row in self.rows() if row["step"] < step or (row["step"] == step and not (due and "best" in row))
        ]
        for path, form in self.files.items():
            write_text(path, "".join(form(row) + "\n" for row in rows))

    def remove(self) -> None:
        """Delete both files."""
        for path in self.files:
            path.unlink(missing_ok=True)


def as_text(row: Row) -> str:
    """A log row as a line for people."""
    head = f"{row['time'][:19].replace('T', ' ')}  step {row['step']:>7}"
    if "note" in row:
        return f"{head}  {row['note']}"
    if "bicubic" in row:
        return f"{head}  bicubic     {_numbers(row['bicubic'])}"
    if "validation" in row:
        shown = {name: row["validation"].get(name) for name in ("psnr_y", "ssim_y", "lpips")}
        scores = f"{_numbers(shown)}{'  (best so far)' if row.get('best') else ''}"
        return f"{head}  validation  {scores}" + (f"  | {row['verdict']}" if row.get("verdict") else "")
    skipped = f"  {row['skipped']} steps left out so far" if row.get("skipped") else ""
    speed = f"learning rate {row['learning_rate']:.3g}  {row['steps_per_second']:.3g} steps/s{skipped}"
    verdict = f"  | {row['verdict']}" if row.get("verdict") else ""
    return f"{head}  {_numbers(row['losses']) or 'no finite loss'}  {speed}{verdict}"


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())  # a state never is on the disk before the lines that led to it
    except OSError as error:
        raise EsrganError(f"cannot write {path}: {error.strerror or error}") from error


def _numbers(values: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
