"""A doctor for training data: what is wrong with it, in plain words, before days are spent on it.

Pictures are looked at one by one; small thumbnails of them are kept and, with ``val``, their strongest details.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import NamedTuple

from esrgan.census import Census, Look, look, twins
from esrgan.cuts import catalogue, find_cuts
from esrgan.errors import EsrganError
from esrgan.flaws import brightness
from esrgan.images import find_images, read_bytes8
from esrgan.in_threads import in_threads
from esrgan.lr_kernels import Way, looks_like
from esrgan.pairs import NoPartnerError, PairFiles, find_pairs, read_pair
from esrgan.photo_store import PhotoStore

FEW = 100  # pictures; fewer make a network that only knows these
FEW_PATCHES = 2_000  # patches side by side, all pictures together
NAMED = 5  # pictures named in a line
MOST = 1 << 30  # bytes of decoded pictures that are looked at before a run
PAIRS = 12  # LR pictures of one kind that settle it; of more than four times as many pairs a sample is looked at


class Finding(NamedTuple):
    """One thing the doctor saw."""

    text: str
    harm: bool
    """Whether something is wrong; else it is only worth knowing."""

    def __str__(self) -> str:
        return f"{'problem' if self.harm else 'note'}: {self.text}"


def examine(images: Sequence[Path], *, val: Sequence[Path] = (), scale: int = 4, patch: int = 128) -> list[Finding]:
    """What is worth saying about training pictures (folders, files, lists) and validation data, the worst first.

    A folder of pairs (HR and LR, as ``esrgan test`` takes them) is also looked at as pairs; of its pictures HR counts.
    """
    paired, wrong = _folders_of_pairs((*images, *val), scale)
    lr = {files.lr for pairs in paired.values() for files in pairs}
    training = _census([path for path in find_images(images) if path not in lr], patch, cuts=bool(val))
    findings = [*_of_training(training, patch), *_of_validation(training, _validated(val, paired, scale)), *wrong]
    for folder, pairs in paired.items():
        findings += _of_pairs(folder, pairs, scale)
        if folder in images:
            findings.append(
                Finding(f"a run with --images {folder} would train on its LR pictures too; give its HR folder", False)
            )
    return sorted(findings, key=lambda finding: not finding.harm)


def examine_store(store: PhotoStore, *, val: Sequence[Path] = (), patch: int = 128) -> list[Finding]:
    """The same of decoded training pictures, before a run; of very many, a part spread over all is looked at."""
    training, every = Census(left_out=list(store.skipped)), 1 + store.bytes // MOST
    chosen = range(0, len(store), every)
    looks = in_threads(lambda i: look(store.picture(i)[1], patch, cuts=bool(val)), chosen)
    for i, seen in zip(chosen, looks, strict=True):
        training.take(store.names[i], seen)
    paired, wrong = _folders_of_pairs(val, store.scale)
    validated = _validated(val, paired, store.scale)
    findings = [*_of_training(training, patch, every), *_of_validation(training, validated), *wrong]
    if every > 1:
        text = f"one in {every} training pictures was looked at; `esrgan data check` looks at all"
        findings.append(Finding(text, harm=False))
    for folder, pairs in paired.items():
        findings += _of_pairs(folder, pairs, store.scale)
    return sorted(findings, key=lambda finding: not finding.harm)


def _folders_of_pairs(places: Sequence[Path], scale: int) -> tuple[dict[Path, list[PairFiles]], list[Finding]]:
    """Those of ``places`` that are folders of HR and LR pictures, with their pairs; none where partners are missing.

    And what is said of these.
    """
    paired: dict[Path, list[PairFiles]] = {}
    wrong = []
    for folder in (place for place in places if place.is_dir() and place not in paired):
        try:
            pairs = find_pairs(folder, scale)
        except NoPartnerError as error:
            paired[folder] = []
            wrong.append(Finding(str(error), harm=True))
        except EsrganError:  # of training pictures, which may lie deeper; of --val it is raised later
            continue
        else:
            if any(files.lr for files in pairs):
                paired[folder] = pairs
    return paired, wrong


def _validated(val: Sequence[Path], paired: dict[Path, list[PairFiles]], scale: int) -> list[Path]:
    """What a run with these in --val is validated on; unlike training pictures, not searched for in subfolders."""
    return [files.hr for place in val for files in (paired[place] if place in paired else find_pairs(place, scale))]


def _census(paths: Sequence[Path], patch: int, *, cuts: bool = False) -> Census:
    def read_and_look(path: Path) -> Look | str:
        try:
            return look(read_bytes8(path).numpy(), patch, cuts=cuts)
        except EsrganError as error:
            return str(error)

    census = Census()
    for path, found in zip(paths, in_threads(read_and_look, paths), strict=True):
        if isinstance(found, str):
            census.broken.append(found)
        else:
            census.take(str(path), found)
    return census


def _of_training(seen: Census, patch: int, every: int = 1) -> Iterator[Finding]:
    """What is wrong with the pictures seen, which are one in ``every``."""
    if not seen.names:
        yield Finding(f"none of {_count(seen.broken, 'file')} can be read: {_some(seen.broken)}", harm=True)
        return
    usable = every * (len(seen.names) - len(seen.small))
    if usable < FEW:
        count = _count(usable, "picture")
        yield Finding(f"only {count} can be used; with fewer than {FEW} the network learns them by heart", harm=True)
    elif every * seen.patches < FEW_PATCHES:
        count = _count(every * seen.patches, "patch", "patches")
        yield Finding(f"all pictures together make only {count} of {patch} pixels; collect more", harm=True)
    share = seen.flat_patches / max(1, seen.patches)
    if share > 0.2:
        yield Finding(f"{share:.0%} of the patches are black or of one colour; steps spent on them teach nothing", True)
    pictures = "picture", "pictures"
    yield from _lists(
        (seen.broken, ("file", "files"), "unreadable and left out", True),
        (seen.left_out, ("file", "files"), "unreadable or too small, and left out", True),
        (seen.small, pictures, f"smaller than the patch of {patch} pixels and left out", True),
        (seen.flat, pictures, "black or of one colour", True),
        (seen.bordered, pictures, "with a black or white frame; cut it off", True),
        (seen.soft, pictures, "without fine detail, as if enlarged or blurred; the network would learn to blur", True),
        (seen.blocky, pictures, "with JPEG's 8-pixel blocks; the network would learn to draw them", True),
        (seen.grey if len(seen.grey) < len(seen.names) else [], pictures, "in grey among coloured ones", False),
    )
    alike = twins(seen, seen, same=True)
    smaller = [pair for pair in alike if _apart(pair, seen)]
    others = [pair for pair in alike if not _apart(pair, seen)]
    yield from _lists(
        (_named(smaller, seen, seen), pictures, "in two sizes, as if LR pictures lay among the HR ones", True),
        (_named(others, seen, seen), pictures, "there twice or nearly so", len(others) > 0.05 * len(seen.names)),
    )


def _of_validation(training: Census, paths: Sequence[Path]) -> Iterator[Finding]:
    if not paths:
        return
    seen = _census(paths, patch=32)
    alike = twins(seen, training, same=False)
    pictures = "validation picture", "validation pictures"
    yield from _lists(
        (seen.broken, ("validation file", "validation files"), "unreadable", True),
        (seen.flat, pictures, "black or of one colour", True),
        (_named(alike, seen, training), pictures,
         "also among the training pictures, the same or nearly so; scores on them say nothing", True),
        (list(_cuts(training, paths, {seen.names[i] for i, _ in alike})), pictures,
         "showing part of a training picture, or the other way round; scores on them say nothing", True),
    )  # fmt: skip


def _cuts(training: Census, paths: Sequence[Path], known: set[str]) -> Iterator[str]:
    """The validation pictures that are cuts of training pictures, or have training pictures cut from them."""
    if not training.details:
        return
    known_details = catalogue(training.details)

    def found_in(path: Path) -> int | None:
        try:
            return find_cuts(brightness(read_bytes8(path).numpy()), known_details)
        except EsrganError:  # told already
            return None

    others = [path for path in paths if str(path) not in known]
    for path, i in zip(others, in_threads(found_in, others), strict=True):
        if i is not None:
            yield f"{path} in {training.names[i]}"


def _of_pairs(folder: Path, pairs: list[PairFiles], scale: int) -> Iterator[Finding]:
    """What is wrong with the HR and LR pictures of a folder."""
    unfit: list[str] = []
    told: dict[str, Way] = {}
    for files in pairs[:: max(1, len(pairs) // PAIRS)] if len(pairs) > 4 * PAIRS else pairs:
        try:
            pair = read_pair(files, scale)
        except EsrganError as error:
            unfit.append(str(error))
            continue
        if len(told) < PAIRS and files.lr and (other := looks_like(pair.lr, pair.hr, scale)):
            told[files.lr.name] = other
    yield from _lists((unfit, ("pair", "pairs"), "of pictures that do not fit together", True))
    for words in sorted({way.words for way in told.values()}):
        ways = {name: way for name, way in told.items() if way.words == words}
        ours = f"{max(way.ours for way in ways.values()):.0f} dB like ours"
        fits = [way.fit for way in ways.values() if way.fit is not None]
        measured = f"{min(fits):.0f} dB like that, {ours}" if fits else ours
        yield Finding(f"in {folder}, {_count(ways, 'LR picture')} not made by MATLAB's bicubic as this package makes "
                      f"them, but {words} ({measured}): {_some(list(ways))}", harm=True)  # fmt: skip


def _lists(*entries: tuple[list[str], tuple[str, str], str, bool]) -> Iterator[Finding]:
    """A finding for each list with something in it: (what is in it, one of it and many, what is said of it, harm)."""
    for names, nouns, text, harm in entries:
        if names:
            yield Finding(f"{_count(names, *nouns)} {text}: {_some(names)}", harm)


def _count(things: Sized | int, one: str, many: str | None = None) -> str:
    n = things if isinstance(things, int) else len(things)
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _named(alike: Iterable[tuple[int, int]], ones: Census, others: Census) -> list[str]:
    return [f"{ones.names[i]} = {others.names[j]}" for i, j in alike]


def _apart(twin: tuple[int, int], seen: Census) -> bool:
    small, large = sorted(seen.sizes[i] for i in twin)
    return large > 2 * small
