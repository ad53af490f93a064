"""Doing a plan: every picture enlarged, checked and put in its place, or its failure told; nothing half-way."""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from esrgan.compare import comparison_path, has_comparison, write_comparison
from esrgan.enlarge_file import write_enlarged
from esrgan.errors import DiskFullError, EsrganError, is_unread, name_of, of_system, told
from esrgan.files import replacing
from esrgan.folders import STDIO, Job, Naming, Outcome
from esrgan.main_thread import MainThread
from esrgan.memory import is_out_of_memory
from esrgan.picture_reader import open_picture
from esrgan.record import Record
from esrgan.upscaler import Upscaler

FAILURES = (EsrganError, MemoryError, RuntimeError, OSError)
"""What may concern one picture alone."""

OnRows = Callable[[Job, int, int], object]


class Elsewhere(Protocol):
    """Other processes that enlarge pictures, as many at a time as its length."""

    about: str

    def __len__(self) -> int: ...

    def enlarge(self, job: Job, result: Path) -> tuple[int, int]:
        """Do the job into the file ``result``; gives its width and height, or raises ``EsrganError``."""

    def close(self) -> None:
        """End them, whatever they do."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Enlarges the pictures of a plan."""

    upscaler: Upscaler
    naming: Naming
    record: Record
    key: str
    """Of the model and the options, for ``record``."""
    overwrite: bool = False
    """Redo what is done, and replace files that are not ours."""
    compare: bool = False
    """Also write a picture of the bicubic enlargement beside this one."""
    elsewhere: "Elsewhere | None" = None
    """Who enlarges in this process's place."""
    ended: list[Outcome] = field(default_factory=list)
    """What became of jobs so far, as they ended: where ``run`` was stopped, also of some that it had not come to."""
    _recording: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, jobs: list[Job], on_rows: OnRows) -> Generator[Outcome, None, None]:
        """Do the jobs; yields what became of each, in their order.

        The network runs in this thread, for one picture at a time, while others are read and written. Whoever stops
        before the end closes it, which waits for what is being written.

        Args:
            jobs: In this order.
            on_rows: Told how far a picture is: the job, rows written, rows in all; by several threads.
        """
        main, full = MainThread(), threading.Event()
        runner = replace(self, upscaler=self.upscaler.through(main.run))
        at_once = len(self.elsewhere) if self.elsewhere else _at_once(self.upscaler.device)
        with ThreadPoolExecutor(at_once) as pool:
            coming = [pool.submit(runner.outcome, job, on_rows, full) for job in jobs]
            try:
                for outcome in coming:
                    main.serve(until=outcome)
                    yield outcome.result()
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                main.close()
                if self.elsewhere:
                    self.elsewhere.close()

    def outcome(self, job: Job, on_rows: OnRows, full: threading.Event) -> Outcome:
        """Do one job, unless the disk was found full; tells the others if it is."""
        outcome = Outcome(input=str(job.source), output=str(job.target), status="done", notes=job.notes)
        start = time.perf_counter()
        try:
            if self._is_done(job):
                outcome.status = "skipped"
                if self.compare and not has_comparison(job.target):
                    self._write_comparison(job)
            elif full.is_set():
                raise EsrganError(f"{name_of(job.source)}: not begun, because the disk is full")
            else:
                outcome.size = self._do(job, on_rows)
        except FAILURES as error:
            if self._stopped.is_set():  # which it may be for
                raise
            failure = as_ours(error, self.upscaler.tile)
            outcome.status, outcome.message = "failed", told(failure, job.source)
            if isinstance(failure, DiskFullError):
                full.set()
        outcome.seconds = round(time.perf_counter() - start, 3)
        self.ended.append(outcome)
        return outcome

    def _is_done(self, job: Job) -> bool:
        if job.target == STDIO or self.overwrite or not os.path.lexists(job.target):
            return False
        content = self.naming.content(job.source)
        if self.record.is_done(content, job.target, self.key):
            return True
        if not self.record.is_ours(job.target):
            raise EsrganError(f"{name_of(job.target)} exists and was not made by this command; --overwrite replaces it")
        if other := self.record.other_source(content, job.target):
            raise EsrganError(
                f"{name_of(job.target)} was made from {other}; use another --out or --name, or --overwrite"
            )
        return False

    def _do(self, job: Job, on_rows: OnRows) -> tuple[int, int]:
        if job.target == STDIO:
            with tempfile.TemporaryFile() as file:  # so that a failure writes nothing
                size = self._enlarge(job, file.fileno(), on_rows)
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            return size
        source = self.record.of(self.naming.content(job.source))  # as it is now, however it may change meanwhile
        with replacing(job.target) as temporary:
            if self.elsewhere:
                size = self.elsewhere.enlarge(job, temporary)
            else:
                with temporary.open("w+b") as file:
                    size = self._enlarge(job, file.fileno(), on_rows)
            with self._recording:
                self.record.add(source, job.target, self.key, temporary)
        if self.compare:
            self._write_comparison(job)
        return size

    def _write_comparison(self, job: Job) -> None:
        path = comparison_path(job.target)
        if os.path.lexists(path) and not (self.overwrite or self.record.is_ours(path)):
            raise EsrganError(f"{name_of(path)} exists and was not made by this command; --overwrite replaces it")
        write_comparison(self.naming.content(job.source), job.target, limit_pixels=self.naming.limit_pixels)
        with self._recording:
            self.record.add_alone(path, path)

    def _enlarge(self, job: Job, descriptor: int, on_rows: OnRows) -> tuple[int, int]:
        content = self.naming.content(job.source)
        return enlarge(self.upscaler, self.naming, job, content, descriptor, lambda *rows: on_rows(job, *rows))


def enlarge(
    upscaler: Upscaler,
    naming: Naming,
    job: Job,
    content: Path | bytes,
    descriptor: int,
    on_rows: Callable[[int, int], object] | None = None,
) -> tuple[int, int]:
    """Enlarge ``content``, the picture of ``job``, into an open, empty file; gives the result's width and height."""
    picture = open_picture(content, limit_pixels=naming.limit_pixels)
    write_enlarged(
        upscaler, picture, descriptor, name=name_of(job.source), form=job.form, how=naming.how, on_rows=on_rows
    )
    height, width = naming.how.size(picture.height, picture.width, upscaler.scale)
    return width, height


def as_ours(error: Exception, tile: int) -> EsrganError:
    """What to say of a failure that concerns one picture, with tiles of this size; raises any other."""
    if isinstance(error, EsrganError):
        return error
    if isinstance(error, OSError) and not is_unread(error):
        name = f": {name_of(Path(error.filename))}" if error.filename else ""
        return of_system(error, f"{error.strerror or error}{name}")
    if not is_out_of_memory(error):
        raise error
    return EsrganError(f"out of memory; use a smaller --tile (now {tile})")


def _at_once(device: torch.device) -> int:
    """Pictures in work at a time: one that is computed, the others read or written, which outlasts a GPU's work."""
    if device.type != "cuda":
        return 2
    return max(2, min(8, os.cpu_count() or 1, torch.cuda.mem_get_info(device)[0] >> 30))
