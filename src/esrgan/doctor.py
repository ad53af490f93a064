"""A doctor for training data: what is wrong with it, in plain words, before days are spent on it.

Pictures are looked at one by one; only small thumbnails of them are kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from esrgan.data import Bytes, PhotoStore
from esrgan.errors import EsrganError
from esrgan.images import find_images, read_bytes8
from esrgan.lr_kernels import looks_like
from esrgan.pairs import find_pairs, read_pair

FEW = 100  # pictures; fewer make a network that only knows these
FEW_PATCHES = 2_000  # patches side by side, all pictures together
FLAT = 2.0  # standard deviation, of 255, below which a patch holds nothing to learn from
SIDE = 16  # of thumbnails
TWINS = 0.985  # correlation of thumbnails above which two pictures are taken for one
SOFT = 0.03  # contrast at one pixel over that at four, below which a picture was enlarged or blurred
BLOCKY = 1.6  # steps at multiples of 8 pixels over those elsewhere
NAMED = 5  # pictures named in a line
MOST = 1_000  # pictures that are looked at before a run
PAIRS = 12  # pairs whose LR is looked at closely


class Finding(NamedTuple):
    """One thing the doctor saw."""

    text: str
    harm: bool
    """Whether something is wrong; else it is only worth knowing."""

    def __str__(self) -> str:
        return f"{'problem' if self.harm else 'note'}: {self.text}"


@dataclass
class Census:
    """What is known of a set of pictures after a look at each."""

    names: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    """Pictures of one colour."""
    bordered: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)
    blocky: list[str] = field(default_factory=list)
    grey: list[str] = field(default_factory=list)
    patches: int = 0
    flat_patches: int = 0
    thumbnails: list[NDArray[np.float32]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Pixels of each picture."""

    def look(self, name: str, hr: Bytes, patch: int) -> None:
        """Take in one picture, (rows, columns, 3)."""
        rows, columns = hr.shape[:2]
        self.names.append(name)
        self.sizes.append(rows * columns)
        grey = hr.astype(np.float32).mean(axis=2)
        self.thumbnails.append(_thumbnail(grey))
        if min(rows, columns) < patch:
            self.small.append(f"{name} ({columns} x {rows})")
        patches = _blocks(grey, min(patch, rows, columns))
        deviations = patches.std(axis=(1, 2))
        self.patches += len(patches)
        self.flat_patches += int((deviations < FLAT).sum())
        if grey.std() < FLAT:
            self.flat.append(name)
            return
        if _border(grey) >= 8:
            self.bordered.append(name)
        if _sharpness(grey) < SOFT:
            self.soft.append(name)
        if _blockiness(grey) > BLOCKY:
            self.blocky.append(name)
        if np.ptp(hr.astype(np.int16), axis=2).max() <= 2:
            self.grey.append(name)


def examine(images: Sequence[Path], *, val: Sequence[Path] = (), scale: int = 4, patch: int = 128) -> list[Finding]:
    """What is worth saying about training pictures (folders, files, lists) and validation data, the worst first.

    A folder of pairs (HR and LR, as ``esrgan test`` takes them) is also looked at as pairs.
    """
    paired = [folder for folder in (*images, *val) if folder.is_dir() and _is_paired(folder, scale)]
    training = _census(find_images(images), patch)
    findings = [*_of_training(training, patch)]
    if val:
        validation = _census(find_images(val), patch=32)
        findings += _of_validation(training, validation)
    for folder in paired:
        findings += of_pairs(folder, scale)
    return sorted(findings, key=lambda finding: not finding.harm)


def examine_store(store: PhotoStore, *, val: Sequence[Path] = (), patch: int = 128) -> list[Finding]:
    """The same of decoded training pictures, before a run; of very many, a part spread over all is looked at."""
    training = Census(broken=list(store.skipped))
    for i in range(0, len(store), max(1, len(store) // MOST)):
        training.look(store.names[i], store.picture(i)[1], patch)
    findings = [*_of_training(training, patch)]
    if val:
        findings += _of_validation(training, _census(find_images(val), patch=32))
    for folder in (folder for folder in val if folder.is_dir() and _is_paired(folder, store.scale)):
        findings += of_pairs(folder, store.scale)
    return sorted(findings, key=lambda finding: not finding.harm)


def _census(paths: Sequence[Path], patch: int) -> Census:
    census = Census()

    def read(path: Path) -> Bytes | str:
        try:
            return read_bytes8(path).numpy()
        except EsrganError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(paths), 8):
            for path, found in zip(paths[start:], pool.map(read, paths[start : start + 8]), strict=False):
                if isinstance(found, str):
                    census.broken.append(found)
                else:
                    census.look(str(path), found, patch)
    return census


def _of_training(seen: Census, patch: int) -> Iterator[Finding]:
    if not seen.names:
        yield Finding(f"none of the {len(seen.broken)} files can be read: {_some(seen.broken)}", harm=True)
        return
    usable = len(seen.names) - len(seen.small)
    if usable < FEW:
        yield Finding(
            f"only {usable} pictures can be used; with fewer than {FEW} the network learns them by heart", True
        )
    elif seen.patches < FEW_PATCHES:
        yield Finding(f"all pictures together make only {seen.patches} patches of {patch} pixels; collect more", True)
    share = seen.flat_patches / max(1, seen.patches)
    if share > 0.2:
        yield Finding(f"{share:.0%} of the patches are black or of one colour; steps spent on them teach nothing", True)
    yield from _lists(
        (seen.broken, "{n} files cannot be read and are left out", True),
        (seen.small, f"{{n}} pictures are smaller than the patch of {patch} pixels and are left out", True),
        (seen.flat, "{n} pictures are black or of one colour", True),
        (seen.bordered, "{n} pictures have a black or white frame; cut it off", True),
        (
            seen.soft,
            "{n} pictures have no fine detail, as if enlarged or blurred; the network would learn to blur",
            True,
        ),
        (seen.blocky, "{n} pictures show JPEG's 8-pixel blocks; the network would learn to draw them", True),
        (seen.grey if len(seen.grey) < len(seen.names) else [], "{n} pictures are grey", False),
    )
    twins = _twins(seen, seen, same=True)
    smaller = [pair for pair in twins if _apart(pair, seen)]
    if smaller:
        yield Finding(f"{len(smaller)} pictures are there in two sizes, as if LR pictures lay among the HR ones: "
                      f"{_some(_named(smaller, seen, seen))}", True)  # fmt: skip
    if len(twins) > len(smaller):
        others = [pair for pair in twins if not _apart(pair, seen)]
        yield Finding(f"{len(others)} pictures are there twice or nearly so: {_some(_named(others, seen, seen))}",
                      harm=len(others) > 0.05 * len(seen.names))  # fmt: skip


def _of_validation(training: Census, validation: Census) -> Iterator[Finding]:
    yield from _lists(
        (validation.broken, "{n} validation files cannot be read", True),
        (validation.flat, "{n} validation pictures are black or of one colour", True),
    )
    twins = _twins(validation, training, same=False)
    if twins:
        yield Finding(f"{len(twins)} validation pictures are also among the training pictures, the same or nearly so; "
                      f"scores on them say nothing: {_some(_named(twins, validation, training))}", True)  # fmt: skip


def of_pairs(folder: Path, scale: int) -> Iterator[Finding]:
    """What is wrong with a folder of HR and LR pictures."""
    try:
        pairs = find_pairs(folder, scale)
    except EsrganError as error:
        yield Finding(str(error), harm=True)
        return
    unfit: list[str] = []
    told: dict[str, str] = {}
    for files in pairs[:: max(1, len(pairs) // PAIRS)] if len(pairs) > 4 * PAIRS else pairs:
        try:
            pair = read_pair(files, scale)
        except EsrganError as error:
            unfit.append(str(error))
            continue
        if len(told) < PAIRS and files.lr and (other := looks_like(pair.lr, pair.hr, scale)):
            told[files.lr.name] = other
    if unfit:
        yield Finding(f"{len(unfit)} pairs do not fit together: {_some(unfit)}", harm=True)
    for kind in sorted(set(told.values())):
        names = [name for name, other in told.items() if other == kind]
        yield Finding(f"in {folder}, {len(names)} LR pictures were not made by MATLAB's bicubic as this package makes "
                      f"them, but {kind}: {_some(names)}", harm=True)  # fmt: skip


def _lists(*entries: tuple[list[str], str, bool]) -> Iterator[Finding]:
    for names, text, harm in entries:
        if names:
            yield Finding(f"{text.format(n=len(names))}: {_some(names)}", harm)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _named(twins: Iterable[tuple[int, int]], ones: Census, others: Census) -> list[str]:
    return [f"{ones.names[i]} = {others.names[j]}" for i, j in twins]


def _apart(twin: tuple[int, int], seen: Census) -> bool:
    small, large = sorted(seen.sizes[i] for i in twin)
    return large > 2 * small


def _is_paired(folder: Path, scale: int) -> bool:
    try:
        return any(files.lr for files in find_pairs(folder, scale))
    except EsrganError as error:
        return "LR picture" in str(error)


def _blocks(grey: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The squares side by side that fit into a picture, (count, side, side)."""
    rows, columns = (length // side for length in grey.shape)
    squares = grey[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return squares.swapaxes(1, 2).reshape(-1, side, side)


def _thumbnail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIDE x SIDE means, their own mean and size taken out."""
    rows, columns = grey.shape
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(grey)[None], SIDE)[0].numpy()
    centred = small - small.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > FLAT * SIDE and min(rows, columns) > 1 else np.zeros_like(centred)


def _twins(ones: Census, others: Census, *, same: bool) -> list[tuple[int, int]]:
    """(i, j) of pictures that look alike, mirrored and turned ones too; each i once."""
    if not ones.thumbnails or not others.thumbnails:
        return []
    table = np.stack(others.thumbnails).reshape(len(others.thumbnails), -1)
    found = []
    for i, thumbnail in enumerate(ones.thumbnails):
        turns = [np.rot90(t, k) for t in (thumbnail, thumbnail.T) for k in range(4)]
        likeness = (table @ np.stack(turns).reshape(8, -1).T).max(axis=1)
        if same:
            likeness[i:] = 0
        j = int(likeness.argmax())
        if likeness[j] > TWINS:
            found.append((i, j))
    return found


def _border(grey: NDArray[np.float32]) -> int:
    """Rows or columns of black or white along the widest of the four edges."""
    widest = 0
    for view in (grey, grey[::-1], grey.T, grey.T[::-1]):
        plain = (view.std(axis=1) < 1.0) & ((view.mean(axis=1) < 8) | (view.mean(axis=1) > 247))
        widest = max(widest, int(np.argmin(plain)) if not plain.all() else len(plain))
    return widest


def _sharpness(grey: NDArray[np.float32]) -> float:
    """Second differences between neighbours over those at a distance of four: small where detail is missing."""
    inner = grey[: grey.shape[0], : grey.shape[1]]
    if min(inner.shape) < 12:
        return 1.0
    near = np.abs(inner[:, 2:] - 2 * inner[:, 1:-1] + inner[:, :-2]).mean()
    far = np.abs(inner[:, 8:] - 2 * inner[:, 4:-4] + inner[:, :-8]).mean()
    return float(near / max(far, 1e-6))


def _blockiness(grey: NDArray[np.float32]) -> float:
    """Steps across the edges of 8-pixel blocks over the steps inside them."""
    steps = [np.abs(np.diff(view, axis=1)).mean(axis=0) for view in (grey, grey.T)]
    at_edges = [step[7::8].mean() for step in steps if len(step) > 32]
    inside = [np.delete(step, np.s_[7::8]).mean() for step in steps if len(step) > 32]
    return float(sum(at_edges) / max(sum(inside), 1e-6)) if at_edges else 1.0
