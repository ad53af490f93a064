"""A run folder: everything that one training leaves behind, and all that it needs to go on after any interruption.

config.toml          the options in force
log.jsonl, log.txt   the same lines for programs and for people
curves.png           losses, learning rate and validation over the steps
samples/             validation crops: bicubic, SR, HR
latest.safetensors, best.safetensors   model files
state.pt, state-previous.pt, state-best.pt   for resuming
lock, lock.txt       held while a process works on the run; its number
"""

import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from esrgan import distributed
from esrgan.config import Config
from esrgan.config_file import differences, flattened, plain, saved_stage, to_toml
from esrgan.devices import pick_device, pick_precision
from esrgan.errors import EsrganError
from esrgan.files import leftovers, write_text
from esrgan.players import EMA, Player
from esrgan.run_log import Row, RunLog, as_text
from esrgan.run_state import Progress, read_state, write_state

STATES = ("state.pt", "state-previous.pt")
BEST = "state-best.pt"
ALL_STATES = (*STATES, BEST)
MODELS = ("latest.safetensors", "best.safetensors")
OURS = (*ALL_STATES, *MODELS, "lock", "lock.txt")  # what a folder has only from a training


class RunDir:
    """One run folder, held by one process at a time; use ``opened``.

    Where several processes share a run, only the first reads and writes; in the others nothing here has an effect.

    Attributes:
        config: The options in force, with the precision settled.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.path = config, config.run_dir
        self.first = distributed.rank() == 0
        self.samples = self.path / "samples"
        self.latest, self.best = (self.path / name for name in MODELS)
        self._log = RunLog(self.path)
        self._goes_on = False

    @classmethod
    @contextmanager
    def opened(cls, config: Config) -> Iterator["RunDir"]:
        """The run folder of ``config``, made or gone on with, locked until the end of the block.

        Raises:
            EsrganError: It belongs to another stage or other options, is in use, damaged, or cannot be written.
        """
        run = cls(config)
        if not run.first:
            first: Config = distributed.shared(config)
            run.config = replace(config, precision=first.precision)
            _check_alike(first, run.config)
            yield run
            return
        _refuse_strange(run.path)
        with _held(run.path):
            run.config = run._settled(config)
            for folder in (run.path, run.samples):
                for left in leftovers(folder):  # nobody else writes here
                    left.unlink()
            if not run._goes_on:
                run._clear()
                run.keep_config()
            _check_alike(distributed.shared(run.config), run.config)
            yield run

    @classmethod
    def looked_at(cls, config: Config) -> tuple[Config, int]:
        """What ``opened`` would go on with, and from which step, without changing anything.

        Raises:
            EsrganError: As ``opened``, for the folder's content.
        """
        run = cls(config)
        _refuse_strange(run.path)
        config, rows = run._settled(config), run.rows()
        return config, rows[-1]["step"] if rows else 0

    def keep_config(self) -> None:
        """Write down the options in force; of a run that goes on, once it is known that it can."""
        if self.first:
            write_text(self.path / "config.toml", to_toml(replace(self.config, resume="last")))

    def _settled(self, config: Config) -> Config:
        """``config`` with the precision that the run began with; refuses a folder that is not this run's."""
        saved = self._saved_config()
        self._goes_on = bool(saved)
        precision = saved.get("precision", "auto")
        config = settled(replace(config, precision=precision) if config.precision == "auto" else config)
        if not saved:
            return config
        if (stage := saved_stage(saved)) != config.stage:
            verb = {"psnr": "pretrain", "gan": "train"}[stage]
            raise EsrganError(f"{self.path} holds a run of `esrgan {verb}`; use another --run-dir")
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
        if not self._has_begun():
            return {}
        if not file.is_file():
            raise EsrganError(
                f"{self.path} is half of a run folder: its config.toml is missing; put it back or use another --run-dir"
            )
        try:
            return {"precision": "auto"} | flattened(tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EsrganError(f"{file} is damaged ({error}); mend it, or use another --run-dir") from error

    def _has_begun(self) -> bool:
        """Whether a step was taken."""
        if self._log.has_losses():
            return True
        states = [path for name in ALL_STATES if (path := self.path / name).is_file()]
        if not states:
            return any((self.path / name).exists() for name in MODELS)
        return any((state := read_state(path)) is None or state["progress"]["step"] for path in states)

    def _clear(self) -> None:
        """Remove what a run wrote that failed before its first step."""
        self._log.remove()
        for name in (*ALL_STATES, *MODELS):
            (self.path / name).unlink(missing_ok=True)

    def save(self, progress: Progress, players: dict[str, Player], ema: EMA | None, *, best: bool = False) -> None:
        """Store the state, atomically and with a checksum; the one before it is kept."""
        if not self.first:
            return
        state = {
            "progress": vars(progress),
            "players": {name: player.state_dict() for name, player in players.items()},
            "average": ema.net.state_dict() if ema else None,
        }
        if best:
            write_state(self.path / BEST, state)
        else:
            write_state(self.path / STATES[0], state, previous=self.path / STATES[1])

    def restore(
        self, players: dict[str, Player], ema: EMA | None, *, resume: Literal["last", "best"] = "last"
    ) -> Progress:
        """Set ``players`` and ``ema`` to the saved state; step 0 where there is none.

        Raises:
            EsrganError: States were there and none can be read.
        """
        state = distributed.shared(self._newest([BEST] if resume == "best" else STATES))
        if state is None:
            return Progress()
        for name, player in players.items():
            player.load_state_dict(state["players"][name])
        if ema:
            ema.net.load_state_dict(state["average"])
        progress = Progress(**state["progress"])
        for player in players.values():
            player.slowdown = 0.5**progress.returns
        return progress

    def _newest(self, names: Sequence[str]) -> dict[str, Any] | None:
        """The first of these states that can be read."""
        if not self.first:
            return None
        damaged = []
        for path in (self.path / name for name in names):
            if not path.is_file():
                continue
            state = read_state(path)
            if state is None:
                damaged.append(path.name)
                continue
            if damaged:
                broken = self.path / damaged[0]
                broken.replace(broken.with_suffix(".damaged"))  # or the next state would push it over the good one
                print(self.note(state["progress"]["step"], f"{damaged[0]} is damaged; going on from the one before it"))
            return state
        if damaged or BEST in names or self._goes_on:
            what = f"{' and '.join(damaged)} damaged" if damaged else f"there is no {names[0]}"
            raise EsrganError(
                f"{self.path} cannot be resumed: {what}. Put a good copy there, try --resume "
                f"{'last' if BEST in names else 'best'}, or start anew in another --run-dir"
            )
        return None

    def cut_log(self, progress: Progress) -> None:
        """Drop what was logged after ``progress``; once it is known that the run goes on from there."""
        if self.first:
            self._log.cut(progress.step, due=progress.due)

    def log(self, row: Row) -> str:
        """Append a row to the log; gives the line that people read."""
        row = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **row}
        if self.first:
            self._log.append(row)
        return as_text(row)

    def note(self, step: int, text: str) -> str:
        """Log a sentence."""
        return self.log({"step": step, "note": text})

    def rows(self) -> list[Row]:
        """The log; a half-written last line is left out."""
        return self._log.rows()


def settled(config: Config) -> Config:
    """``config`` with precision auto replaced by what it means here."""
    if config.precision != "auto":
        return config
    dtype = pick_precision("auto", pick_device(config.device), training=True)
    return replace(config, precision="bf16" if dtype == torch.bfloat16 else "fp32")


def _check_alike(first: Config, own: Config) -> None:
    """Refuse processes that were started with other options than the first."""
    changed = differences(plain(first), own)
    for name in ("steps", "batch", "accumulate", "validate_every", "save_every"):  # free, but the same in all
        before, now = getattr(first, name), getattr(own, name)
        if before != now:
            changed.append(f"{name}: {before} before, {now} now")
    if distributed.anyone(bool(changed)):
        which = f" (first and here: {'; '.join(dict.fromkeys(changed))})" if changed else ""
        raise EsrganError(f"the processes of this run have different options{which}; give all of them the same")


def _refuse_strange(folder: Path) -> None:
    """Refuse a folder with files of somebody else where a run has its own."""
    if any((folder / name).exists() for name in OURS):
        return
    for name in ("config.toml", "log.jsonl", "log.txt", "curves.png", "samples"):
        if (folder / name).exists():
            raise EsrganError(f"{folder / name} was there before and is not of a training; use another --run-dir")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make the run folder and lock it for this process, or say who has it."""
    holder = folder / "lock.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / "lock").acquire(blocking=False)
    except Timeout as error:
        number = holder.read_text().strip() if holder.is_file() else ""
        raise EsrganError(
            f"{folder} is in use by another process (number {number or 'unknown'}); wait for it, or use another "
            "--run-dir"
        ) from error
    except OSError as error:
        raise EsrganError(
            f"cannot write to the run folder {folder} ({error.strerror}); use another --run-dir"
        ) from error
    with held:
        with suppress(OSError):  # on a full disk only the number is missing; what matters will say so
            holder.write_text(str(os.getpid()))
        yield
