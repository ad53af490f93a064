"""From inputs to outputs: which pictures there are, where each result goes, and what of it is already done."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from esrgan.enlarge_file import Enlargement
from esrgan.errors import EsrganError, UsageError, name_of, told
from esrgan.files import key_of, leftovers, machine
from esrgan.images import read_list, spelt_out, spread, walk
from esrgan.picture_formats import FORMATS, Format, fit_format, suffix_for
from esrgan.picture_reader import open_picture
from esrgan.record import Record

LONGEST_NAME = 255 - len("_compare")  # bytes: 255 on every usual file system, and room for a comparison's name
DAY = 86_400  # seconds
UNWRITABLE = frozenset(
    f".{end}" for end in ("bmp", "jxl", "jp2", "jpx", "ppm", "pgm", "pnm", "psd", "tga", "exr", "hdr", "svg", "pdf")
)
"""What a picture's name may end in, and a folder's will not."""
STDIO = Path("-")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to enlarge."""

    source: Path
    """A file, or ``-`` for standard input."""
    target: Path
    """A file, or ``-`` for standard output."""
    form: Format
    notes: tuple[str, ...] = ()
    """What the result cannot keep, or what of the file is not enlarged."""


@dataclass(kw_only=True)
class Outcome:
    """What became of one input."""

    input: str
    status: str
    """done, skipped or failed."""
    output: str | None = None
    message: str | None = None
    """Why it failed."""
    notes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height of the result."""
    seconds: float | None = None


@dataclass(kw_only=True)
class Plan:
    """All there is to do."""

    jobs: list[Job] = field(default_factory=list)
    failures: list[Outcome] = field(default_factory=list)
    """Inputs that cannot even be begun."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Where results go."""

    out: Path
    pattern: str = "{stem}_x{scale}"
    form: Format | None = None
    """Write all in this one; none = as each picture was."""
    how: Enlargement
    network_scale: int
    limit_pixels: int
    stdin: bytes = b""
    """What came through standard input, if anything did."""

    def __post_init__(self) -> None:
        try:
            *_, name = (self.pattern.format(stem="a", scale="4", suffix=suffix) for suffix in ("", "png"))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            allowed = "{stem}, {scale} and {suffix}"
            raise UsageError(f"the name {self.pattern!r} may hold {allowed}, nothing else") from error
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise UsageError(f"the name {self.pattern!r} is no file name; folders are mirrored by themselves")
        if self.out.suffix.lower() in UNWRITABLE and not self.out.exists():
            raise UsageError(
                f"{self.out}: {self.out.suffix[1:].upper()} cannot be written; end its name in .png or .jpg"
            )
        if self.form and self.single and self.out != STDIO and self.out.suffix.lower() not in self.form.suffixes:
            raise UsageError(f"{self.out} is no name for {self.form.name.upper()}; leave --format out, or change one")

    @property
    def single(self) -> bool:
        """Whether ``out`` is a file to write, not a folder."""
        suffixes = {suffix for form in FORMATS.values() for suffix in form.suffixes}
        return self.out == STDIO or (self.out.suffix.lower() in suffixes and not self.out.is_dir())

    @property
    def root(self) -> Path:
        """The folder that results go into or below."""
        return self.out.parent if self.single else self.out

    def content(self, source: Path) -> Path | bytes:
        """What ``open_picture`` opens for ``source``."""
        return self.stdin if source == STDIO else source

    def name(self, source: Path, form: Format, height: int, width: int) -> str:
        """The file name of the result; of a very long one the end of the stem is replaced by a hash."""
        parts = {"scale": self.how.label(height, width, self.network_scale), "suffix": source.suffix[1:]}
        suffix = suffix_for(form, [source.suffix])
        name = self.pattern.format(stem=source.stem, **parts) + suffix
        if len(os.fsencode(name)) <= LONGEST_NAME:
            return name
        mark = hashlib.sha256(os.fsencode(source.name)).hexdigest()[:8]
        stem = source.stem
        while len(os.fsencode(name)) > LONGEST_NAME and stem:
            stem = stem[:-1]
            name = self.pattern.format(stem=f"{stem}~{mark}", **parts) + suffix
        return name


def plan(inputs: Sequence[Path], naming: Naming) -> Plan:
    """Find the pictures among ``inputs`` (files, folders, ``.txt`` lists) and settle where each result goes.

    Inputs that are not there, pictures that cannot be opened and folders that cannot be read are failures of their own;
    the rest goes on.

    Raises:
        EsrganError: No picture at all.
        UsageError: Results that would overwrite each other or an input.
    """
    made = Plan()
    found: dict[tuple[Path, Path], Path] = {}
    for source, folder in _pictures(inputs, naming.root, made.failures):
        found.setdefault((spelt_out(source), folder), source)
    if not found and not made.failures:
        raise EsrganError(f"no pictures in {', '.join(map(name_of, inputs))}")
    if naming.single and len(found) > 1:
        raise UsageError(f"{len(found)} pictures cannot all be written to {naming.out}; let --out name a folder")
    for (_, folder), source in found.items():
        try:
            made.jobs.append(_job(source, folder, naming))
        except EsrganError as error:
            made.failures.append(Outcome(input=str(source), status="failed", message=told(error, source)))
    made.jobs = _without_results(made.jobs, naming.root)
    _refuse_collisions(made.jobs)
    return made


def _without_results(jobs: list[Job], root: Path) -> list[Job]:
    """The jobs whose source is no earlier result of another one: with ``*.png`` the second time names these too."""
    targets = {key_of(job.target.resolve()): job.target for job in jobs if job.target != STDIO}
    record = Record(root)
    same = ((job, targets.get(key_of(job.source.resolve())) if job.source != STDIO else None) for job in jobs)
    return [job for job, target in same if not (target and record.is_result(target))]


def _pictures(
    inputs: Sequence[Path], out: Path, failures: list[Outcome], within: tuple[Path, ...] = ()
) -> Iterable[tuple[Path, Path]]:
    """Each picture, and the folder to mirror it in, relative to the output; ``within``: the lists that name these."""
    record = cache(Record)

    def unreadable(error: OSError) -> None:
        message = f"{name_of(Path(error.filename))}: the folder cannot be read ({error.strerror})"
        failures.append(Outcome(input=str(error.filename), status="failed", message=message))

    for path in spread(inputs):
        if path.suffix.lower() == ".txt" and path.is_file():
            yield from _pictures(read_list(path, within), out, failures, (*within, path.resolve()))
        elif path.is_dir():
            same = out.resolve() == path.resolve()
            for source in walk(path, on_error=unreadable, leave_out=None if same else out.resolve()):
                if not _is_result(source, path, record, same=same):
                    yield source, source.parent.relative_to(path)
        elif path == STDIO or os.path.lexists(path):
            yield path, Path()
        else:
            where = f", which {name_of(within[-1])} lists" if within else ""
            message = f"{name_of(path)}: there is no picture or folder of this name{where}"
            failures.append(Outcome(input=str(path), status="failed", message=message))


def _is_result(source: Path, root: Path, record: Callable[[Path], Record], *, same: bool) -> bool:
    """Whether an earlier run wrote it to a folder below ``root``, or to ``root`` if that is the output's (``same``)."""
    inner = source.parent.relative_to(root)
    folders = [root / part for part in (inner, *inner.parents) if same or part != Path()]
    return any(record(folder).is_result(source) for folder in folders)


def _job(source: Path, folder: Path, naming: Naming) -> Job:
    picture = open_picture(naming.content(source), limit_pixels=naming.limit_pixels)
    size = naming.how.size(picture.height, picture.width, naming.network_scale)
    wanted = naming.form
    if naming.single and wanted is None and naming.out != STDIO:
        wanted = next(form for form in FORMATS.values() if naming.out.suffix.lower() in form.suffixes)
    form, notes = fit_format(picture, size, wanted)
    named = Path("stdin") if source == STDIO else source
    target = naming.out / folder / naming.name(named, form, picture.height, picture.width)
    return Job(source=source, target=naming.out if naming.single else target, form=form, notes=picture.notes + notes)


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    targets: dict[str, Path] = {}
    for job in jobs:
        other = targets.setdefault(key_of(job.target), job.source)
        if other != job.source:
            raise UsageError(
                f"{name_of(other)} and {name_of(job.source)} would both become {name_of(job.target)};"
                " use --name '{stem}_{suffix}_x{scale}', or run them apart with different --out"
            )
    sources = {key_of(job.source.resolve()) for job in jobs}
    for job in jobs:
        if job.target != STDIO and key_of(job.target.resolve()) in sources:
            raise UsageError(f"{name_of(job.target)} is an input and would be overwritten; use another --out or --name")


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete the temporary files of runs that were killed: of a process of this machine that is gone, or a day old."""
    for folder in folders:
        for path in leftovers(folder) if folder.is_dir() else ():
            _, number, mark, *_ = path.name.split(".")
            with suppress(OSError):  # another process was faster
                gone = mark.startswith(machine()) and number.isdigit() and not _runs(int(number))
                if gone or time.time() - path.stat().st_mtime > DAY:
                    path.unlink()


def _runs(process: int) -> bool:
    """Whether a process of this number runs; on Windows, where asking would interrupt it, taken for granted."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()
