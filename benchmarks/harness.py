"""Timing several ways of doing one thing, in turns, so that a machine's moods fall on all of them."""

import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec

import torch
from rich.console import Console
from rich.table import Table

from esrgan.devices import bf16_is_fast
from esrgan.memory import keep_buffers

Given = ParamSpec("Given")
_GLIBC_USUAL = {-1: 64 << 20, -3: 32 << 20, -4: 65536}
"""What glibc comes to by itself in a program of large buffers: trims from here on, maps from here on, maps at most."""


@dataclass(frozen=True)
class Timing:
    """One way of doing a thing."""

    name: str
    seconds: float
    """Median."""
    ratio: float
    """Median over the rounds of the first way's time over this one's: above 1 = faster than the first."""
    note: str = ""


def take_turns(
    ways: Mapping[str, Callable[[], object]], *, rounds: int = 5, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Run every way once to warm up, then all of them in turn, ``rounds`` times; the first is what ratios refer to."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    first = seconds[next(iter(ways))]
    return [
        Timing(name, statistics.median(times), statistics.median(a / b for a, b in zip(first, times, strict=True)))
        for name, times in seconds.items()
    ]


def as_commands_do(way: Callable[Given, object]) -> Callable[Given, object]:
    """``way`` with freed buffers kept, as esrgan's commands keep them, and not when the others have their turns."""

    def run(*args: Given.args, **kwargs: Given.kwargs) -> object:
        kept = keep_buffers()
        try:
            return way(*args, **kwargs)
        finally:
            if kept:
                libc = ctypes.CDLL(None)
                for what, usual in _GLIBC_USUAL.items():
                    libc.mallopt(what, usual)
                libc.malloc_trim(0)

    return run


def pick_clock(*, processor: bool) -> Callable[[], float]:
    """Wall time; or processor time, and from now on one thread, for a machine where other programs run."""
    if not processor:
        return time.perf_counter
    torch.set_num_threads(1)
    return time.process_time


def show(title: str, timings: list[Timing]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("way", "seconds", "times the first", ""):
        table.add_column(column, justify="left" if column in ("way", "") else "right")
    for timing in timings:
        table.add_row(timing.name, f"{timing.seconds:.3f}", f"{timing.ratio:.2f}", timing.note)
    Console().print(table)


def save(results: Mapping[str, list[Timing]], path: Path | None) -> None:
    """Write all tables and what machine they come from as JSON."""
    if path is None:
        return
    machine = {
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": bf16_is_fast(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }
    tables = {title: [asdict(timing) for timing in timings] for title, timings in results.items()}
    path.write_text(json.dumps({"machine": machine, "results": tables}, indent=1), encoding="utf-8")
