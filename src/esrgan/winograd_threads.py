"""The threads that do the jobs of Winograd's convolutions."""

import _thread
import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from esrgan.winograd_job import POINTS, AnyJob, Array
from esrgan.winograd_kernel import code, give_way

SHARES = 8
"""Shares of a convolution for each thread: several, as some cores are slower than others."""
START = 10.0
"""Seconds in which a thread must have begun."""
EVERYBODY = 1 << 62
"""More than will ever have arrived."""


class Work(NamedTuple):
    """A job, and what its addresses point to, which must not go before it is done."""

    job: AnyJob
    holds: tuple[Any, ...]


class Threads:
    """As many threads as torch uses, or as many as the system gives; the caller is one of them. A context."""

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []
        self._scratch: list[list[Array]] = []
        try:
            while len(self._helpers) + 1 < torch.get_num_threads():
                self._helpers.append(_Helper())
        except RuntimeError:  # no more, or none at all as Python ends: fewer do as well
            pass
        except BaseException:
            self.close()
            raise
        self.count = 1 + len(self._helpers)
        self._scratch += [[np.empty(0, np.float32)] * 2 for _ in range(self.count)]

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the helpers go, each once it has done what it is doing."""
        while self._helpers:
            self._helpers.pop().stop()
        self.count = 0

    def run(self, *works: Work) -> None:
        """Do them, jobs of one kind, one after the other, each by all threads.

        What machine code works on must not go before it is through, even where whoever waits for it is interrupted:
        each thread holds all of it. After an interruption the others run on to their ends, unsynchronised, on what
        nobody will look at, and these threads take no more work.
        """
        jobs = [work.job._replace(share=work.job.share or self._share(work.job)) for work in works]
        words, taken, arrived = np.array(jobs, np.int64), np.zeros(len(jobs), np.int64), ctypes.c_int64()
        needed = [max(each.block * POINTS * (each.first_channels + each.second_channels) for each in jobs),
                  max(each.block * POINTS * each.outputs for each in jobs)]  # fmt: skip
        rooms = [self._room(i, needed) for i in range(self.count)]
        made = code(type(jobs[0]))
        held = made, works, words, taken, arrived, rooms
        shared = taken.ctypes.data, ctypes.addressof(arrived), give_way()
        first, *others = [
            partial(_part, held, made.run, words.ctypes.data, len(jobs), self.count, *own, *shared)
            for own in ([room.ctypes.data for room in some] for some in rooms)
        ]
        try:
            for helper, call in zip(self._helpers, others, strict=True):
                helper.start(call, arrived)
            first()
            failures = [failure for helper in self._helpers if (failure := helper.wait())]
        except BaseException:
            arrived.value = EVERYBODY
            self.close()
            raise
        if failures:
            self.close()
            raise failures[0]

    def _share(self, job: AnyJob) -> int:
        blocks = -(-job.squares // job.block)
        return max(1, blocks // (SHARES * self.count)) * job.block

    def _room(self, thread: int, needed: Sequence[int]) -> list[Array]:
        for i, size in enumerate(needed):
            if self._scratch[thread][i].size < size:
                self._scratch[thread][i] = np.empty(size, np.float32)
        return list(self._scratch[thread])


class _Helper:
    """A thread that does what it is told until it is stopped; it keeps no program from ending.

    ``threading`` and its pools wait for ever for a thread that dies of lack of memory as it begins.

    Raises:
        RuntimeError: There is none to be had.
    """

    def __init__(self) -> None:
        self._begin, self._end = _thread.allocate_lock(), _thread.allocate_lock()
        self._begin.acquire()
        self._end.acquire()
        self._call: Callable[[], None] | None = None
        self._failure: BaseException | None = None
        self._arrived, self._stopped = ctypes.c_int64(), False
        _thread.start_new_thread(self._work, ())
        try:
            if not self._end.acquire(timeout=START):
                raise RuntimeError("a thread does not begin")
        except BaseException:
            self.stop()
            raise

    def _work(self) -> None:
        self._end.release()  # it has begun
        while self._begin.acquire() and not self._stopped:
            try:
                cast(Callable[[], None], self._call)()
            except BaseException as failure:  # of lack of memory; what is done here needs none
                self._arrived.value = EVERYBODY
                self._failure = failure
            self._call = None
            self._end.release()

    def start(self, call: Callable[[], None], arrived: ctypes.c_int64) -> None:
        """Begin a call; if it fails, nobody shall wait for it in machine code."""
        self._call, self._arrived, self._failure = call, arrived, None
        self._begin.release()

    def wait(self) -> BaseException | None:
        """Until it is done; gives why it failed."""
        self._end.acquire()
        return self._failure

    def stop(self) -> None:
        """End, after the call under way."""
        self._stopped = True
        with suppress(RuntimeError):  # it has been told to begin and has not yet
            self._begin.release()


def _part(_held: object, machine: Callable[..., None], *words: int) -> None:
    """One thread's; what is held lives as long as the machine code works."""
    machine(*words)


_KEPT = dict[int, Threads]()
_LOCKS = [threading.Lock()]
"""One: kept threads do the works of one call at a time."""


def run(*works: Work) -> None:
    """Do them by threads that are kept."""
    wanted = torch.get_num_threads()
    with _LOCKS[0]:
        threads = _KEPT.get(wanted)
        if not threads or not threads.count:  # closed, as after an interruption
            for other in _KEPT.values():
                other.close()
            _KEPT.clear()
            threads = _KEPT[wanted] = Threads()
        threads.run(*works)


def _forget() -> None:
    """In a forked process: it has none of its parent's threads, and nobody who would open a lock."""
    _KEPT.clear()
    _LOCKS[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
