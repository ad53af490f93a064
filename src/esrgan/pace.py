"""How fast a training goes and what holds it up, measured over its first steps."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from esrgan.memory import peak_bytes

WARM_UP, TIMED = 3, 20  # steps
DATA_BOUND = 0.2  # share of the time spent waiting for patches, above which more compute would not help much

T = TypeVar("T")


class Pace:
    """Times the first steps of a training, and within them the waiting for patches; later steps cost nothing.

    Args:
        warm_up: Steps that do not count.
        timed: Steps that do.
    """

    def __init__(self, warm_up: int = WARM_UP, timed: int = TIMED) -> None:
        self._warm_up, self._last = warm_up, warm_up + timed
        self._steps, self._start, self._ready = 0, 0.0, 0.0
        self._waited = self._worked = 0.0

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, while the time that they are waited for is counted."""
        self._start = time.perf_counter()
        for batch in batches:
            self._ready = time.perf_counter()
            yield batch
            self._start = time.perf_counter()

    def stepped(self, finite: torch.Tensor) -> bool:
        """Count a step, whose result this waits for; true once, when the last timed one is done."""
        if self._steps >= self._last:
            return False
        finite.item()
        self._steps += 1
        if self._steps > self._warm_up:
            self._waited += self._ready - self._start
            self._worked += time.perf_counter() - self._ready
        return self._steps == self._last

    @property
    def seconds(self) -> float:
        """Of a step, validation and saving apart."""
        return (self._waited + self._worked) / max(1, self._steps - self._warm_up)

    def sentence(self, device: torch.device, steps_left: int) -> str:
        """What was found, in plain words."""
        share = self._waited / max(1e-9, self._waited + self._worked)
        bound = "data" if share > DATA_BOUND else "compute"
        peak = peak_bytes(device)
        memory = f"; memory at its peak {peak / 2**30:.2f} GiB" if peak else ""
        return (
            f"{1 / self.seconds:.3g} steps/s, {bound}-bound ({share:.0%} of the time is spent waiting for patches)"
            f"{memory}; {duration(steps_left * self.seconds)} to the end, validation apart"
        )


class Clock:
    """Steps per second since the last question, without the time that validation takes."""

    def __init__(self, number: int) -> None:
        self.restart(number)

    def restart(self, number: int) -> None:
        self.number, self.start = number, time.perf_counter()

    def speed(self, number: int) -> float:
        speed = (number - self.number) / max(1e-9, time.perf_counter() - self.start)
        self.restart(number)
        return speed


def duration(seconds: float) -> str:
    """A time to come, in the unit that suits it."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} seconds"
