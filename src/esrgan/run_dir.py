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
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from esrgan import distributed
from esrgan.config import RunConfig, TrainConfig, differences, to_toml
from esrgan.devices import pick_device, pick_precision
from esrgan.errors import EsrganError
from esrgan.files import replacing, write_text
from esrgan.players import Average, Player

Row = dict[str, Any]
STATES = ("state.pt", "state-previous.pt")


@dataclass
class Progress:
    """How far a run is; part of its state. What is counted stays on the device until somebody asks."""

    step: int = 0
    best: float | None = None
    """Score of the best model so far; larger is better."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sums of what is logged, since the last line of the log."""
    count: Tensor | int = 0
    """Steps in ``sums``."""
    skipped: Tensor | int = 0
    """Steps left out because something was not finite, in all."""
    streak: Tensor | int = 0
    """The same, in a row, up to now."""
    returns: int = 0
    """How often the run went back to a saved state; each halved the learning rate."""
    due: bool = False
    """Whether the validation of this step is still to be done."""
    data: str | None = None
    """Hash of the training pictures."""

    def add(self, step: int, losses: dict[str, Tensor], finite: Tensor) -> None:
        """Take in the losses of ``step``, without waiting for the device."""
        self.step, self.count, self.skipped = step, self.count + finite, self.skipped + ~finite
        self.streak = (self.streak + 1) * ~finite
        for name, loss in losses.items():
            counted = torch.where(finite, loss, 0)
            self.sums[name] = self.sums[name] + counted if name in self.sums else counted

    def take(self) -> dict[str, float]:
        """The mean losses since this was last asked; none if no step counted."""
        count = int(self.count)
        means = {name: total.item() / count for name, total in self.sums.items()} if count else {}
        self.sums, self.count = {}, 0
        return means


class RunDir:
    """One run folder, held by one process at a time; use ``opened``.

    Where several processes share a run, only the first reads and writes; in the others nothing here has an effect.

    Attributes:
        config: The options in force, with the precision settled.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.path = config, config.run_dir
        self.first = distributed.rank() == 0
        self.samples = self.path / "samples"
        self.latest, self.best = self.path / "latest.safetensors", self.path / "best.safetensors"
        self._log = self.path / "log.jsonl"

    @classmethod
    @contextmanager
    def opened(cls, config: RunConfig) -> Iterator["RunDir"]:
        """The run folder of ``config``, made or gone on with, locked until the end of the block.

        Raises:
            EsrganError: It belongs to another stage or other options, is in use, damaged, or cannot be written.
        """
        run = cls(config)
        if not run.first:
            run.config = replace(config, precision=distributed.shared(config.precision))
            yield run
            return
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            lock = (run.path / "lock").open("a+b", buffering=0)
        except OSError as error:
            raise EsrganError(f"cannot write to the run folder {run.path} ({error.strerror}); use --run-dir") from error
        with lock:
            _hold(lock, run.path)
            run.config = run._settled(config)
            for left in (*run.path.glob(".*.part*"), *run.samples.glob(".*.part*")):  # by a process that was killed
                left.unlink()
            write_text(run.path / "config.toml", to_toml(run.config))
            distributed.shared(run.config.precision)
            yield run

    def _settled(self, config: RunConfig) -> RunConfig:
        """``config`` with the precision that the run began with; refuses a folder that is not this run's."""
        saved = self._saved_config()
        precision = saved.get("precision", "auto")
        config = settled(replace(config, precision=precision) if config.precision == "auto" else config)
        if not saved:
            return config
        if ("psnr_floor" in saved) != isinstance(config, TrainConfig):
            stage = "train" if "psnr_floor" in saved else "pretrain"
            raise EsrganError(f"{self.path} holds a run of `esrgan {stage}`; use another --run-dir")
        if changed := differences(
            {**saved, "precision": config.precision if precision == "auto" else precision}, config
        ):
            raise EsrganError(
                f"{self.path} holds a run with other options ({'; '.join(changed)}); give the same ones to resume it, "
                "or another --run-dir to start anew, from this run's model with --init if you like"
            )
        return config

    def _saved_config(self) -> dict[str, Any]:
        """The options that the folder's run began with, by dotted names; empty in a new folder."""
        file = self.path / "config.toml"
        kept = (*STATES, "state-best.pt", self.latest.name, self.best.name)
        if not any((self.path / name).exists() for name in kept) and not any("losses" in row for row in self.rows()):
            for log in (self._log, self._log.with_suffix(".txt")):  # of a run that failed before its first step
                log.unlink(missing_ok=True)
            return {}
        if not file.is_file():
            raise EsrganError(
                f"{self.path} is half of a run folder: its config.toml is missing; put it back or use another --run-dir"
            )
        try:
            return {"precision": "auto"} | flattened(tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EsrganError(f"{file} is damaged ({error}); mend it, or use another --run-dir") from error

    def save(
        self, progress: Progress, players: dict[str, Player], average: Average | None, *, best: bool = False
    ) -> None:
        """Store the state, atomically and with a checksum; the one before it is kept."""
        if not self.first:
            return
        state = {
            "progress": vars(progress),
            "players": {name: player.state_dict() for name, player in players.items()},
            "average": average.net.state_dict() if average else None,
        }
        buffer = io.BytesIO()
        torch.save(canonical(state), buffer)
        path = self.path / ("state-best.pt" if best else STATES[0])
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
            if path.exists() and not best:
                path.replace(self.path / STATES[1])

    def restore(
        self, players: dict[str, Player], average: Average | None, *, resume: Literal["last", "best"] = "last"
    ) -> Progress:
        """Set ``players`` and ``average`` to the saved state, cut the log off after it; step 0 where there is none.

        Raises:
            EsrganError: States were there and none can be read.
        """
        state = distributed.shared(self._newest(["state-best.pt"] if resume == "best" else STATES))
        if state is None:
            return Progress()
        for name, player in players.items():
            player.load_state_dict(state["players"][name])
        if average:
            average.net.load_state_dict(state["average"])
        progress = Progress(**state["progress"])
        for player in players.values():
            player.slowdown = 0.5**progress.returns
        return progress

    def _newest(self, names: Sequence[str]) -> dict[str, Any] | None:
        """The first of these states that can be read; the log is then cut off after it."""
        if not self.first:
            return None
        damaged = []
        for path in (self.path / name for name in names):
            if not path.is_file():
                continue
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                damaged.append(path.name)
                continue
            state: dict[str, Any] = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            self._cut(state["progress"]["step"], due=state["progress"].get("due", False))
            if damaged:
                broken = self.path / damaged[0]
                broken.replace(broken.with_suffix(".damaged"))  # or the next state would push it over the good one
                print(self.note(state["progress"]["step"], f"{damaged[0]} is damaged; going on from the one before it"))
            return state
        if damaged or "state-best.pt" in names or any("losses" in row for row in self.rows()):
            what = f"{' and '.join(damaged)} damaged" if damaged else f"there is no {names[0]}"
            raise EsrganError(
                f"{self.path} cannot be resumed: {what}. Put a good copy there, try --resume "
                f"{'last' if 'state-best.pt' in names else 'best'}, or start anew in another --run-dir"
            )
        self._cut(0)
        return None

    def log(self, row: Row) -> str:
        """Append a row to the log; gives the line that people read."""
        row = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **row}
        if self.first:
            _append(self._log, json.dumps(row))
            _append(self._log.with_suffix(".txt"), as_text(row))
        return as_text(row)

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

    def _cut(self, step: int, *, due: bool = False) -> None:
        """Drop what was logged after ``step``, with its validation if that is still due: it will all be done again."""
        rows = [
            row for row in self.rows() if row["step"] < step or (row["step"] == step and not (due and "best" in row))
        ]
        write_text(self._log, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(self._log.with_suffix(".txt"), "".join(as_text(row) + "\n" for row in rows))


def settled(config: RunConfig) -> RunConfig:
    """``config`` with precision auto replaced by what it means here."""
    if config.precision != "auto":
        return config
    dtype = pick_precision("auto", pick_device(config.device), training=True)
    return replace(config, precision="bf16" if dtype == torch.bfloat16 else "fp32")


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())  # a state never is on the disk before the lines that led to it
    except OSError as error:
        raise EsrganError(f"cannot write {path}: {error.strerror or error}") from error


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


def canonical(value: Any) -> Any:
    """``value`` with plain dicts and lists, equal strings one object, and tensors of their own on the CPU.

    Pickle writes an object it has met before as a reference; after this, equal states become equal bytes.
    """
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([canonical(item) for item in value])
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return sys.intern(value) if isinstance(value, str) else value


def flattened(table: dict[str, Any]) -> dict[str, Any]:
    """A parsed config.toml under the dotted names of ``config.plain``."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _numbers(values: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)


def _hold(lock: BinaryIO, path: Path) -> None:
    """Lock the run folder for this process, or say who has it."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where nothing guards against two runs in one folder
    except ImportError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        who = lock.read().decode().strip() or "unknown"
        raise EsrganError(
            f"{path} is in use by another process (number {who}); wait for it, or use another --run-dir"
        ) from error
    with suppress(OSError):  # on a full disk only the number is missing; what matters will say so
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
