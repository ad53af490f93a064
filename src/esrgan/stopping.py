"""Ctrl-C and SIGTERM while training: the first asks to save and stop, the second stops at once."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from esrgan import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 1.0  # seconds in which several processes hear one Ctrl-C twice: from the terminal and from torchrun
PATIENCE = 1.0  # seconds that Python has to answer the second signal
SHOW_CURSOR = b"\x1b[?25h"  # the progress bar hides it


@contextmanager
def stopping() -> Iterator[list[str]]:
    """A list that the first SIGINT or SIGTERM fills with its name; the second raises ``KeyboardInterrupt``.

    Python answers signals between two operations, and one of them may be a backward pass of many seconds. So a thread
    listens too, and ends the program where the second signal finds no answer (but for a Python prompt).
    """
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():  # Python answers signals in the main thread alone
        yield asked
        return
    echo = ECHO if distributed.size() > 1 else 0.0
    since, answered = 0.0, threading.Event()

    def answer(number: int, _: FrameType | None) -> None:
        nonlocal since
        if not asked:
            asked.append(signal.Signals(number).name)
            since = time.monotonic()
        elif time.monotonic() - since >= echo:
            answered.set()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, answer) for number in SIGNALS}
    try:
        with _watched(answered, echo):
            yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watched(answered: threading.Event, echo: float) -> Iterator[None]:
    """Within it a thread ends the program if a second signal is not answered."""
    if hasattr(sys, "ps1"):
        yield
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ear, answered, echo), daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        answered.set()
        mouth.close()
        watcher.join()
        ear.close()


def _watch(ear: socket.socket, answered: threading.Event, echo: float) -> None:
    """End the program ``PATIENCE`` after the second signal that ``ear`` hears, unless Python has ``answered`` it."""
    first: float | None = None
    while number := ear.recv(1):
        if number[0] not in SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
        elif time.monotonic() - first >= echo:
            if not answered.wait(PATIENCE):
                os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"\nesrgan: stopped at once\n")
                os._exit(130)
            return
