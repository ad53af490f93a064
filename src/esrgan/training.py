"""The loop of both stages."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

from esrgan import distributed
from esrgan.config import Config, TrainConfig
from esrgan.errors import EsrganError
from esrgan.pace import Clock, Pace
from esrgan.plots import draw_curves
from esrgan.run_dir import RunDir
from esrgan.run_log import Row
from esrgan.run_state import Progress
from esrgan.steps import train_steps
from esrgan.stopping import stopping
from esrgan.track import balance, bicubic, verdict
from esrgan.training_setup import Setup

CHECK_EVERY = 10  # steps; asking the device more often would make it wait
STREAK = 5  # steps in a row that are not finite, up to the one looked at: the run goes back to its last good state
RETURNS = 3  # how often it does that before it gives up


@contextmanager
def _reassuring() -> Iterator[None]:
    """Add to an error of writing that nothing is lost."""
    try:
        yield
    except EsrganError as error:
        if isinstance(error.__cause__, OSError):
            raise EsrganError(f"{error}; what was saved before is intact: the same command goes on from it") from error
        raise


@_reassuring()
def fit(config: Config, run: RunDir, setup: Setup) -> None:
    """Train from the run folder's state to the last step, logging, validating and saving on the way.

    SIGINT and SIGTERM save and stop after the step under way.

    Raises:
        EsrganError: The states are damaged, the disk is full, another process died, or the training diverged.
        KeyboardInterrupt: It was stopped, and everything is saved; or it was told so twice.
    """
    progress = run.restore(setup.players, setup.ema, resume=config.resume)
    if progress.step > config.steps:
        raise EsrganError(f"{run.path} is at step {progress.step} already, past --steps {config.steps}; give more")
    _check_same(progress, run, setup)
    run.keep_config()
    run.cut_log(progress)
    starts = not progress.step and progress.best is None
    if starts and setup.init and (setup.score == "lpips" or "discriminator" not in setup.players):
        progress.due = True  # what the model can do that it begins from; not where GANs lose PSNR
    with _bar(run.first) as bar, stopping() as stop:
        session = _Session(config, run, setup, progress, bar, stop)
        if 0 < progress.step < config.steps:
            session.say({"step": progress.step, "note": session.resumed()})
        if not progress.step or config.resume == "best":
            run.save(progress, setup.players, setup.ema)
        while session.lap():
            pass


def _check_same(progress: Progress, run: RunDir, setup: Setup) -> None:
    """Refuse to go on with other pictures, or from another model, than the run began with."""
    val = distributed.shared(setup.val)
    digest = setup.patches.store.digest
    for mine, what in ((digest, "pictures in --images"), (setup.init, "models in --init")):
        if distributed.anyone(mine != distributed.shared(mine)):
            raise EsrganError(f"the processes of this run have different {what}; bring the same ones everywhere")
    for before, now, what in (
        (progress.data, digest, "other pictures than those now in --images"),
        (progress.init, setup.init, "another model to begin from than the one now in --init"),
        (progress.val, val, "other pictures to be validated on than those now in --val"),
    ):
        if before and now and before != now:
            raise EsrganError(
                f"{run.path} was trained with {what}; bring the same back, or go on in another --run-dir with --init"
                f" {run.latest}"
            )
    progress.data, progress.init, progress.val = digest, setup.init, val


class _Session:
    """One process's work on a run."""

    def __init__(
        self, config: Config, run: RunDir, setup: Setup, progress: Progress, bar: Bar, stop: list[str]
    ) -> None:
        self.config, self.run, self.setup, self.progress, self.bar, self.stop = config, run, setup, progress, bar, stop
        self.clock = Clock(progress.step)
        self.pace = Pace()
        self.task = bar.add_task(run.path.name, total=config.steps, completed=progress.step, losses="")

    def lap(self) -> bool:
        """Train to the last step; true if it first went back to the last good state and has to try again."""
        config, setup, progress = self.config, self.setup, self.progress
        due = progress.due
        if due and self.validate():
            return True
        self._save_if(asked=self._asked(), wanted=due and not progress.due)
        batches = self.pace.watch(setup.batches(config, progress.step + 1))
        for step in train_steps(setup.objective, setup.players.values(), batches, accumulate=config.accumulate):
            number, end = step.number, step.number == config.steps
            progress.add(number, step.losses, step.finite)
            if setup.ema:
                setup.ema.update(number, step.finite)
            if self.pace.stepped(step.finite):
                self.tell_pace()
            self.bar.update(self.task, completed=number)
            save = number % config.save_every == 0
            if (save or end or number % CHECK_EVERY == 0) and (streak := int(progress.streak)) >= STREAK:
                self.go_back(f"the losses or gradients of the last {streak} steps up to {number} were not finite")
                return True
            if number % config.log_every == 0 or end:
                self.log()
            progress.due = number % config.validate_every == 0 or end
            if progress.due and self.validate():
                return True
            asked = self._asked()
            self._save_if(asked=asked, wanted=end or (save and not int(progress.streak)))
        return False

    def _asked(self) -> bool:
        """Whether any process was told to stop."""
        return distributed.anyone(bool(self.stop))

    def _save_if(self, *, asked: bool, wanted: bool = False) -> None:
        """Save if that is wanted; save and leave if it was asked."""
        number = self.progress.step
        if asked or wanted:
            if self.run.first and number:
                self.setup.save_models(number, False)
            self.run.save(self.progress, self.setup.players, self.setup.ema)
        if asked:
            signals = self.stop[0] if self.stop else "a signal to another process"
            self.say({"step": number, "note": f"stopped by {signals}; the same command goes on from here"})
            raise KeyboardInterrupt

    def say(self, row: Row) -> None:
        """Write a line to the log and to the terminal."""
        line = self.run.log(row)
        if self.run.first:
            self.bar.console.print(line, highlight=False, markup=False)
            self.setup.watch(row)

    def resumed(self) -> str:
        """What to say first of a run that goes on; a longer one may take the learning rate back up."""
        logged = [row for row in self.run.rows() if "learning_rate" in row]
        if not logged:
            return "resumed"
        before, now = logged[-1]["learning_rate"], self.setup.players["generator"].rate(logged[-1]["step"])
        if now <= 1.001 * before:
            return "resumed"
        return f"resumed; with {self.config.steps} steps the learning rate is {now:.3g} here, not {before:.3g}"

    def tell_pace(self) -> None:
        """Print, once in a session, how fast it goes; the log does not keep it, as it is about this machine today."""
        if self.run.first:
            device = self.setup.players["generator"].device
            line = self.pace.sentence(device, self.config.steps - self.progress.step)
            self.bar.console.print(line, highlight=False, markup=False)

    def log(self) -> None:
        """A line of losses, learning rate and speed."""
        progress, number = self.progress, self.progress.step
        losses = progress.take()
        row: Row = {"step": number, "losses": losses, "learning_rate": self.setup.players["generator"].rate(number),
                    "steps_per_second": self.clock.speed(number)}  # fmt: skip
        if skipped := int(progress.skipped):
            row["skipped"] = skipped
        if "discriminator" in losses:
            row["verdict"] = balance(losses["discriminator"])
        self.say(row)
        self.bar.update(self.task, losses=_brief(losses))

    def validate(self) -> bool:
        """Score the model, keep it if it is the best; true if its pictures are not finite and the run went back.

        Left to be done later if a stop comes in between.
        """
        run, progress, setup = self.run, self.progress, self.setup
        if setup.bicubic and bicubic(run.rows()).get(setup.score) is None:
            self.say({"step": progress.step, "bicubic": setup.bicubic()})
        found = setup.validate(progress.step, lambda: bool(self.stop)) if setup.validate else None
        if distributed.anyone(found is not None and not math.isfinite(found.value)):
            self.go_back(f"the pictures of step {progress.step} are not finite")
            return True
        progress.due = setup.validate is not None and found is None
        if found is None:
            if run.first and not setup.validate:
                self.draw()
            return False
        if progress.score not in (None, setup.score):
            self.say({"step": progress.step, "note": f"the best model is now chosen by {setup.score}, from here on"})
            progress.best = None
        progress.score = setup.score
        best = progress.best is None or found.value > progress.best
        if best:
            progress.best = found.value
            setup.save_models(progress.step, True)
            run.save(progress, setup.players, setup.ema, best=True)
        row: Row = {"step": progress.step, "validation": found.scores, "best": best}
        row["verdict"] = verdict([*run.rows(), row], setup.references, name=setup.score)
        if isinstance(self.config, TrainConfig) and (found.scores["psnr_y"] or 0.0) < self.config.psnr_floor:
            row["verdict"] += f"; below --psnr-floor {self.config.psnr_floor:g}"
        self.say(row)
        self.draw()
        self.clock.restart(progress.step)
        return False

    def draw(self) -> None:
        """Draw the curves anew."""
        run = self.run
        try:
            draw_curves(run.rows(), run.path / "curves.png", title=run.path.name, references=self.setup.references)
        except (EsrganError, OSError) as error:  # a viewer may hold it, or Matplotlib find no folder for its cache
            run.note(self.progress.step, str(error))

    def go_back(self, trouble: str) -> None:
        """Return to the last saved state with half the learning rate, or give up."""
        progress, setup = self.progress, self.setup
        if progress.returns >= RETURNS:
            end = (
                f"{trouble}, after {RETURNS} returns to an earlier state: the training diverges. The last saved state "
                "is intact; in another --run-dir, try --optim.clip 1, --precision fp32, a smaller --optim.learning-rate"
            )
            self.run.note(progress.step, end)
            raise EsrganError(end)
        returns, before = progress.returns + 1, progress
        self.progress = self.run.restore(setup.players, setup.ema)
        self.run.cut_log(self.progress)
        self.progress.returns, self.progress.streak, self.progress.skipped = returns, 0, before.skipped
        self.progress.best, self.progress.score = before.best, before.score  # its model is kept
        for player in setup.players.values():
            player.slowdown = 0.5**returns
        self.run.save(self.progress, setup.players, setup.ema)
        self.clock.restart(self.progress.step)
        self.say({"step": self.progress.step, "note": f"{trouble}; back to step {self.progress.step} with the learning "
                  f"rate halved (return {returns} of {RETURNS})"})  # fmt: skip


def _bar(shown: bool) -> Bar:
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # of the line; what does not fit is cut
    return Bar(
        *(TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn()),
        TextColumn("{task.fields[losses]}", table_column=rest),
        console=Console(soft_wrap=True),
        expand=True,
        disable=not shown,
    )


def _brief(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
