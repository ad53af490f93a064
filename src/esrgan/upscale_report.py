"""A plan of `esrgan upscale` carried out on the command line: progress, what is said, the report, the exit code."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from esrgan.errors import name_of
from esrgan.files import write_text
from esrgan.folders import Job, Outcome, Plan
from esrgan.upscale_run import Runner


def carry_out(runner: Runner, todo: Plan, *, report: Path | None, verbose: bool) -> int:
    """Do a plan, with a progress bar on a terminal and a line for each picture; gives the exit code.

    Args:
        runner: Does it.
        todo: The plan.
        report: JSON file of what became of every picture.
        verbose: Say how long each took, too.
    """
    outcomes = list(todo.failures)
    for outcome in outcomes:
        _say(outcome, verbose=verbose)
    interrupted = _do(runner, todo, outcomes, verbose=verbose)
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in ("done", "skipped", "failed")}
    if report:
        _write_report(report, runner, counts, outcomes)
    if len(outcomes) != 1 or interrupted:
        print(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "0 done", file=sys.stderr)
    if interrupted:
        print("esrgan: interrupted; nothing is half-way, and the same command again goes on", file=sys.stderr)
        return 130
    return 1 if counts["failed"] else 0


def _do(runner: Runner, todo: Plan, outcomes: list[Outcome], *, verbose: bool) -> bool:
    """Do it, each outcome told and added to ``outcomes`` as it comes; gives whether Ctrl-C came before the end."""
    with _progress(len(todo.jobs)) as (on_rows, on_end):
        try:
            with closing(runner.run(todo.jobs, on_rows)) as coming:
                for outcome in coming:
                    on_end()
                    outcomes.append(outcome)
                    _say(outcome, verbose=verbose)
            return False
        except KeyboardInterrupt:
            pass
    known = set(map(id, outcomes))
    for outcome in runner.ended:  # behind one that was not
        if id(outcome) not in known:
            outcomes.append(outcome)
            _say(outcome, verbose=verbose)
    return True


def _say(outcome: Outcome, *, verbose: bool) -> None:
    if outcome.status == "failed":
        print(f"esrgan: {outcome.message}", file=sys.stderr)
        return
    source = name_of(Path(outcome.input))
    for note in outcome.notes:
        print(f"{source}: {note}", file=sys.stderr)
    if outcome.status == "skipped":
        print(f"{source}: done before", file=sys.stderr)
    elif outcome.size and outcome.output != "-":
        seconds = f", {outcome.seconds:.2f} s" if verbose else ""
        target = name_of(Path(outcome.output or ""))
        print(f"{source} -> {target} ({outcome.size[0]} x {outcome.size[1]}{seconds})")


@contextmanager
def _progress(pictures: int) -> Iterator[tuple[Callable[[Job, int, int], object], Callable[[], object]]]:
    """A bar on a terminal, nothing elsewhere; told how far a picture is, and that one is done with."""
    if not sys.stderr.isatty():
        yield lambda job, done, total: None, lambda: None  # noqa: ARG005
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, soft_wrap=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        every = bar.add_task("pictures", total=pictures)
        one = bar.add_task("", total=1)

        def on_rows(job: Job, done: int, total: int) -> None:
            bar.update(one, description=name_of(Path(job.source.name))[:40], completed=done, total=total)

        yield on_rows, lambda: bar.advance(every)


def is_report(path: Path) -> bool:
    """Whether a file is a report of an earlier call, or empty, so that another may take its place."""
    try:
        found = json.loads(path.read_text(encoding="utf-8") or '{"settings": 0, "pictures": 0}')
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= {"settings", "pictures"}


def _write_report(path: Path, runner: Runner, counts: dict[str, int], outcomes: list[Outcome]) -> None:
    pictures = [asdict(outcome) for outcome in outcomes]
    settings = (runner.elsewhere or runner.upscaler).about
    write_text(path, json.dumps(counts | {"settings": settings, "pictures": pictures}, indent=1) + "\n")
