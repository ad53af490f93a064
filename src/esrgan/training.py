"""The loop of both stages."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from esrgan.config import RunConfig
from esrgan.data import Patches, to_unit
from esrgan.errors import EsrganError
from esrgan.objectives import Objective
from esrgan.players import Average, Player, rate
from esrgan.plots import draw_curves
from esrgan.run_dir import Progress, Row, RunDir

Validate = Callable[[int], tuple[dict[str, float | None], float]]
"""Step -> validation scores, and the one number by which the best model is chosen (larger is better)."""


class Step(NamedTuple):
    """One optimizer step that was taken."""

    number: int
    losses: dict[str, Tensor]
    """Each term of the loss, averaged over the accumulated batches; still on the device."""


def train_steps(
    objective: Objective,
    players: Iterable[Player],
    batches: Iterable[tuple[int, Tensor, Tensor]],
    *,
    accumulate: int = 1,
) -> Iterator[Step]:
    """Take one step for every (number, lr, hr) in ``batches``; each is split into ``accumulate`` equal parts.

    Gradients are averaged over the parts, so that 2 x 8 is 1 x 16 up to rounding where no term depends on the batch as
    a whole (the relativistic mean does).
    """
    for number, lr, hr in batches:
        sums: dict[str, Tensor] = {}
        for part in zip(lr.chunk(accumulate), hr.chunk(accumulate), strict=True):
            for turn in objective(*part):
                torch.stack(list(turn.losses.values())).sum().div(accumulate).backward()  # type: ignore[no-untyped-call]
                for name, loss in turn.losses.items():
                    sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach() / accumulate
        for player in players:
            player.step(number)
        yield Step(number, sums)


@dataclass(kw_only=True)
class Game:
    """All that takes part in a training."""

    players: dict[str, Player]
    """Who learns; the generator comes first."""
    average: Average | None
    """Average of the generator's weights, if one is kept."""
    objective: Objective
    patches: Patches
    validate: Validate | None
    save_models: Callable[[int, bool], None]
    """(step, is it the best so far) -> writes the model file."""


def fit(config: RunConfig, run: RunDir, game: Game) -> None:
    """Train from the run folder's state to the last step, logging, validating and saving on the way.

    SIGINT and SIGTERM save and stop after the step under way.
    """
    progress = run.restore(game.players, game.average, resume=config.resume)
    generator = game.players["generator"]
    device = generator.parameters[0].device
    raw = game.patches.ahead(progress.step + 1, config.steps, config.batch * config.accumulate)
    batches = ((step, to_unit(lr, device), to_unit(hr, device)) for step, lr, hr in raw)
    clock = _Clock(progress.step)
    with _bar() as bar, stopping() as stop:
        if progress.step:
            bar.console.print(run.note(progress.step, "resumed"))
        task = bar.add_task(run.path.name, total=config.steps, completed=progress.step, losses="")
        for step in train_steps(game.objective, game.players.values(), batches, accumulate=config.accumulate):
            number = step.number
            progress.add(number, step.losses)
            if game.average:
                game.average.update(number)
            bar.update(task, completed=number)
            end = number == config.steps
            if number % config.log_every == 0 or end:
                row = _log_row(progress, rate(generator.config, number, config.steps), clock.speed(number))
                bar.console.print(run.log(row), highlight=False)
                bar.update(task, losses=_brief(row["losses"]))
            if game.validate and (number % config.validate_every == 0 or end):
                _validate(run, progress, game, bar.console)
                clock.restart(number)
            if number % config.save_every == 0 or end or stop:
                game.save_models(number, False)
                run.save(progress, game.players, game.average)
            if stop:
                bar.console.print(run.note(number, f"stopped by {stop[0]}; the same command goes on from here"))
                return


def _validate(run: RunDir, progress: Progress, game: Game, console: Console) -> None:
    assert game.validate is not None
    scores, value = game.validate(progress.step)
    best = progress.best is None or value > progress.best
    if best:
        progress.best = value
        game.save_models(progress.step, True)
        run.save(progress, game.players, game.average, best=True)
    line = run.log({"step": progress.step, "validation": scores, "best": best})
    console.print(line, highlight=False)
    draw_curves(run.rows(), run.path / "curves.png", title=run.path.name)


def _log_row(progress: Progress, learning_rate: float, speed: float) -> Row:
    losses = progress.take()
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise EsrganError(
                f"the {name} loss is {loss} at step {progress.step}: it diverged. The last saved state is intact; "
                "try a smaller --optim.learning-rate or --optim.clip 1 in another --run-dir"
            )
    return {"step": progress.step, "losses": losses, "learning_rate": learning_rate, "steps_per_second": speed}


class _Clock:
    """Steps per second since the last question, without the time that validation takes."""

    def __init__(self, number: int) -> None:
        self.restart(number)

    def restart(self, number: int) -> None:
        self.number, self.start = number, time.perf_counter()

    def speed(self, number: int) -> float:
        speed = (number - self.number) / max(1e-9, time.perf_counter() - self.start)
        self.restart(number)
        return speed


@contextmanager
def stopping() -> Iterator[list[str]]:
    """A list that the first SIGINT or SIGTERM fills with its name; the second stops the program at once."""
    asked: list[str] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar() -> Bar:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[losses]}"), TimeRemainingColumn())
    return Bar(TextColumn("{task.description}"), *columns, console=Console(soft_wrap=True))


def _brief(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
