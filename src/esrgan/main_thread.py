"""Work that other threads ask the main one to do."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from esrgan.errors import EsrganError
from esrgan.memory import is_out_of_memory

T = TypeVar("T")

POLL = 0.2
"""Seconds between two looks for Ctrl-C."""


class MainThread:
    """Does, in the thread that serves it, what other threads ask for, one thing after the other.

    Ctrl-C reaches Python's main thread alone: a network that runs there stops between two layers, and with ``close``
    those that wait for it stop too.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._waiting: set[Future[Any]] = set()
        self._closed = False

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, done in the other thread; raises what that raises, or ``CancelledError``."""
        answer: Future[T] = Future()
        self._waiting.add(answer)
        self._asked.put((work, answer))
        if self._closed:
            answer.cancel()
        try:
            return answer.result()
        finally:
            self._waiting.discard(answer)

    def serve(self, until: Future[Any]) -> None:
        """Do what is asked until ``until`` is done."""
        until.add_done_callback(lambda _: self._asked.put(None))
        while asked := self._next():
            work, answer = asked
            try:
                answer.set_result(work())
            except (EsrganError, RuntimeError, MemoryError) as error:
                # a failed network's frames would keep its memory, which smaller tiles need
                answer.set_exception(error.with_traceback(None) if is_out_of_memory(error) else error)

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        while True:
            try:
                return self._asked.get(timeout=POLL)
            except Empty:  # Windows tells of Ctrl-C only between two waits
                continue

    def close(self) -> None:
        """Let everyone go who waits or will."""
        self._closed = True
        for answer in list(self._waiting):
            answer.cancel()
