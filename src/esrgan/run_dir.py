"""A run folder: everything that one training leaves behind, and all that it needs to go on after any interruption.

config.toml          the options in force
log.jsonl, log.txt   the same lines for programs and for people
curves.png           losses, learning rate and validation over the steps
samples/             validation crops: bicubic, SR, HR
latest.safetensors, best.safetensors   model files
state.pt, state-previous.pt, state-best.pt   for resuming
"""

import hashlib
import io
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from esrgan.config import RunConfig, TrainConfig, differences, to_toml
from esrgan.errors import EsrganError
from esrgan.files import replacing, write_text
from esrgan.players import Average, Player

Row = dict[str, Any]


@dataclass
class Progress:
    """How far a run is; part of its state."""

    step: int = 0
    best: float | None = None
    """Score of the best model so far; larger is better."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sums of what is logged, since the last line of the log."""
    count: int = 0
    """Steps in ``sums``."""

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take in the losses of ``step``, without waiting for the device."""
        self.step, self.count = step, self.count + 1
        self.sums = {name: self.sums[name] + loss if name in self.sums else loss for name, loss in losses.items()}

    def take(self) -> dict[str, float]:
        """The mean losses since this was last asked."""
        means = {name: total.item() / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class RunDir:
    """One run folder, held by one process at a time; use ``opened``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = path / "samples"
        self.latest, self.best = path / "latest.safetensors", path / "best.safetensors"
        self._log = path / "log.jsonl"

    @classmethod
    @contextmanager
    def opened(cls, config: RunConfig) -> Iterator["RunDir"]:
        """The run folder of ``config``, made or gone on with, locked until the end of the block.

        Raises:
            EsrganError: It belongs to another stage or other options, is in use, or cannot be written.
        """
        run = cls(config.run_dir)
        try:
            run.samples.mkdir(parents=True, exist_ok=True)
            lock = (run.path / "lock").open("w")
        except OSError as error:
            raise EsrganError(f"cannot write to the run folder {run.path} ({error.strerror}); use --run-dir") from error
        with lock:
            _hold(lock, run.path)
            run._check(config)
            write_text(run.path / "config.toml", to_toml(config))
            yield run

    def _check(self, config: RunConfig) -> None:
        file = self.path / "config.toml"
        if not file.is_file():
            return
        try:
            saved = flattened(tomllib.loads(file.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EsrganError(f"{file} is damaged ({error}); mend it, or use another --run-dir") from error
        if ("psnr_floor" in saved) != isinstance(config, TrainConfig):
            stage = "train" if "psnr_floor" in saved else "pretrain"
            raise EsrganError(f"{self.path} holds a run of `esrgan {stage}`; use another --run-dir")
        if changed := differences(saved, config):
            raise EsrganError(
                f"{self.path} holds a run with other options ({'; '.join(changed)}); "
                "give the same ones to resume it, or another --run-dir to start anew"
            )

    def save(
        self, progress: Progress, players: dict[str, Player], average: Average | None, *, best: bool = False
    ) -> None:
        """Store the state, atomically and with a checksum; the one before it is kept."""
        state = {
            "progress": vars(progress),
            "players": {name: player.state_dict() for name, player in players.items()},
            "average": average.net.state_dict() if average else None,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self.path / ("state-best.pt" if best else "state.pt")
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(buffer.getbuffer()).digest() + buffer.getbuffer())
            if path.exists() and not best:
                path.replace(path.with_name("state-previous.pt"))

    def restore(self, players: dict[str, Player], average: Average | None, *, resume: str = "last") -> Progress:
        """Set ``players`` and ``average`` to the saved state, cut the log off after it; step 0 where there is none."""
        names = ["state-best.pt"] if resume == "best" else ["state.pt", "state-previous.pt"]
        for path in (self.path / name for name in names):
            state = self._read(path)
            if state is None:
                continue
            for name, player in players.items():
                player.load_state_dict(state["players"][name])
            if average:
                average.net.load_state_dict(state["average"])
            progress = Progress(**state["progress"])
            self._cut(progress.step)
            return progress
        if resume == "best":
            raise EsrganError(f"{self.path} has no best state to resume from; leave --resume out")
        self._cut(0)
        return Progress()

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            self.note(0, f"{path.name} is damaged; trying the state before it")
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        return state

    def log(self, row: Row) -> str:
        """Append a row to the log; gives the line that people read."""
        row = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **row}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        line = as_text(row)
        with self._log.with_suffix(".txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line

    def note(self, step: int, text: str) -> str:
        """Log a sentence."""
        return self.log({"step": step, "note": text})

    def rows(self) -> list[Row]:
        """The log; a half-written last line is left out."""
        rows = []
        for line in self._log.read_text(encoding="utf-8").splitlines() if self._log.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def _cut(self, step: int) -> None:
        """Drop what was logged after ``step``: the resumed run will do it again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        write_text(self._log, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(self._log.with_suffix(".txt"), "".join(as_text(row) + "\n" for row in rows))


def as_text(row: Row) -> str:
    """A log row as a line for people."""
    head = f"{row['time'][:19].replace('T', ' ')}  step {row['step']:>7}"
    if "note" in row:
        return f"{head}  {row['note']}"
    if "validation" in row:
        return f"{head}  validation  {_numbers(row['validation'])}{'  (best so far)' if row.get('best') else ''}"
    speed = f"learning rate {row['learning_rate']:.3g}  {row['steps_per_second']:.3g} steps/s"
    return f"{head}  {_numbers(row['losses'])}  {speed}"


def flattened(table: dict[str, Any]) -> dict[str, Any]:
    """A parsed config.toml under the dotted names of ``config.plain``."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _numbers(values: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)


def _hold(lock: TextIO, path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where nothing guards against two runs in one folder
    except ImportError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise EsrganError(f"{path} is in use by another process; wait for it, or use another --run-dir") from error
