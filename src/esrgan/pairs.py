"""Benchmark pictures: pairs of LR and HR, found in the folder layouts that datasets come in."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.images import find_images, read_rgb
from esrgan.metrics import SSIM_WINDOW
from esrgan.picture_reader import open_picture
from esrgan.resize import make_lr, quantise

SMALLEST = 32  # pixels of HR height and width, below which LPIPS and the grid have no meaning
HR_FOLDERS = ("hr", "gt", "gtmod12", "original")


class NoPartnerError(EsrganError):
    """An HR picture without its LR picture."""


class Pair(NamedTuple):
    """A benchmark picture: LR (3, h, w) and HR (3, scale * h, scale * w) in [0, 1]; ``grey``: HR is a grey file."""

    name: str
    lr: Tensor
    hr: Tensor
    grey: bool


class PairFiles(NamedTuple):
    """Where a pair is read from; without ``lr`` it is made from ``hr``."""

    hr: Path
    lr: Path | None


def find_pairs(folder: Path, scale: int) -> list[PairFiles]:
    """The pairs of a dataset, by name.

    Args:
        folder: With ``HR``, ``xN/HR`` or ``HR/xN`` (HR also called GT, GTmod12, or NAME_HR), perhaps beside a folder of
            LR pictures (see ``_lr_folder``), which may lie in ``xN`` in it; or a plain folder, file or ``.txt`` list of
            HR pictures, or of both kinds, called ``NAME_HR`` and ``NAME_LR``. Upper and lower case are alike, and LR
            names may end in ``xN``.
        scale: N, the enlargement.

    Raises:
        NoPartnerError: An HR picture without its LR picture.
        EsrganError: No pictures, an LR folder of another name, or a name that two pictures have.
    """
    roots = [root for root in (_inside(folder, f"x{scale}"), folder) if root]
    for root in roots:
        hr = _hr_folder(root)
        if hr:
            hr_images = _own_images(_inside(hr, f"x{scale}") or hr, f"no pictures in {hr}")
            lr = _lr_folder(root, hr, scale)
            if lr is None:
                _refuse_unknown_lr(root, hr, hr_images[0], scale)
                return _matched(hr_images, None, scale)
            lr = _inside(lr, f"x{scale}") or lr
            return _matched(hr_images, _own_images(lr, f"no LR pictures for x{scale} in {lr}"), scale)
    images = _own_images(folder, f"no pictures in {folder}, nor in a folder HR or x{scale}/HR in it")
    named = {kind: [path for path in images if re.search(f"[_-]{kind}$", path.stem.lower())] for kind in ("hr", "lr")}
    if all(named.values()):  # a_HR.png beside a_LR.png, and perhaps beside other methods' results
        return _matched(named["hr"], named["lr"], scale)
    return [PairFiles(path, None) for path in images]


def _hr_folder(root: Path) -> Path | None:
    """The folder of HR pictures in ``root``: of a customary name or, as DIV2K's, the one that ends in ``_HR``."""
    if found := _inside(root, *HR_FOLDERS):
        return found
    ending = [path for path in _folders(root) if path.name.lower().endswith("_hr")]
    if len(ending) > 1:
        raise EsrganError(
            f"{root} has {' and '.join(path.name for path in ending)}; make a folder for each, or give one"
        )
    return ending[0] if ending else None


def _lr_folder(root: Path, hr: Path, scale: int) -> Path | None:
    """LR, LQ, LR_bicubic, LR_xN, LR_bicubic_xN or LRbicxN, after the beginning of HR's name; or the same in ``xN``."""
    beginning = hr.name.lower().removesuffix("hr") if hr.name.lower().endswith("_hr") else ""
    endings = ("lr", "lq", "lr_bicubic", f"lr_x{scale}", f"lr_bicubic_x{scale}", f"lrbicx{scale}")
    names = [beginning + ending for ending in endings]
    inner = _inside(root, f"x{scale}")
    return _inside(root, *names) or (inner and _inside(inner, *names))


def _refuse_unknown_lr(root: Path, hr: Path, first: Path, scale: int) -> None:
    """Raise where a folder beside ``hr`` is called LR-something, or has the picture ``first`` in its LR size."""
    for folder in (path for path in _folders(root) if path != hr):
        like = [path for path in find_images([folder]) if path.stem.lower().startswith(first.stem.lower())]
        if folder.name.lower().startswith(("lr", "lq")) or any(_is_lr_of(first, path, scale) for path in like):
            raise EsrganError(
                f"{folder} may hold the LR pictures, but its name is not known; call it LR, or give the"
                " HR folder itself, whose LR pictures are then made"
            )


def _is_lr_of(hr: Path, path: Path, scale: int) -> bool:
    """Whether ``path`` has the size of the LR picture of ``hr``; of what cannot be read it is said later."""
    try:
        large, small = open_picture(hr), open_picture(path)
    except EsrganError:
        return False
    return scale > 1 and (small.width, small.height) == (large.width // scale, large.height // scale)


def read_pair(files: PairFiles, scale: int) -> Pair:
    """Read a pair; HR is cropped at the right and bottom to ``scale`` times LR, or, without LR, to a multiple of it.

    Raises:
        EsrganError: A file cannot be read, is too small to be measured, or the two do not fit.
    """
    hr = read_rgb(files.hr)
    rows, columns = hr.shape[-2] // scale, hr.shape[-1] // scale
    smallest = max(SMALLEST, 2 * scale + SSIM_WINDOW)  # of which scores leave out a border of ``scale``
    if scale * min(rows, columns) < smallest:
        raise EsrganError(f"{files.hr} is smaller than the {smallest} pixels that can be measured")
    hr = hr[:, : scale * rows, : scale * columns]
    lr = read_rgb(files.lr) if files.lr else make_lr(quantise(hr), scale)
    if lr.shape != (3, rows, columns):
        raise EsrganError(
            f"{files.lr} has {lr.shape[2]} x {lr.shape[1]} pixels; {columns} x {rows} fit {files.hr} at x{scale}"
        )
    return Pair(files.hr.stem, lr, hr, grey=open_picture(files.hr).image.bands < 3)


def each_pair(folder: Path, scale: int, *, skipped: list[str] | None = None) -> Iterator[Pair]:
    """Every pair of a dataset (see ``find_pairs``), read one after the other.

    Args:
        folder: The dataset.
        scale: HR over LR size.
        skipped: Takes a line for every pair that cannot be used, which is then left out.

    Raises:
        EsrganError: No pair can be used, or, without ``skipped``, one of them cannot.
    """
    usable = False
    for files in find_pairs(folder, scale):
        try:
            pair = read_pair(files, scale)
        except EsrganError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
        else:
            usable = True
            yield pair
    if not usable:
        raise EsrganError(f"none of the pictures in {folder} can be used" + (f": {skipped[-1]}" if skipped else ""))


def _inside(folder: Path, *names: str) -> Path | None:
    """The first folder in ``folder`` with one of these names, upper or lower case."""
    found = {path.name.lower(): path for path in _folders(folder)}
    return next((found[name] for name in names if name in found), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _own_images(folder: Path, none: str) -> list[Path]:
    """The pictures of a file or list, or those that lie in a folder itself; ``none`` is said where it has none."""
    paths = find_images([folder])
    if folder.is_dir() and not (paths := [path for path in paths if path.parent == folder]):
        raise EsrganError(none)
    return paths


def _matched(hr: Iterable[Path], lr: Iterable[Path] | None, scale: int) -> list[PairFiles]:
    if lr is None:
        return [PairFiles(path, None) for path in hr]
    _by_stem(hr)
    by_stem = _by_stem(lr)
    return [PairFiles(path, _partner(path, by_stem, scale)) for path in hr]


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(path.stem.lower(), path)) != path:
            raise EsrganError(f"{other} and {path.name} have one name, so that partners cannot be told; take one away")
    return found


def _partner(hr: Path, lr: dict[str, Path], scale: int) -> Path:
    stem = hr.stem.lower()
    bare = re.sub(r"[_-]hr$", "", stem)
    for name in (stem, *(bare + tail for tail in ("", f"x{scale}", f"_x{scale}", f"-x{scale}", "_lr", "-lr"))):
        if name in lr:
            return lr[name]
    raise NoPartnerError(f"{hr} has no LR picture of the same name (x{scale} at its end allowed)")
