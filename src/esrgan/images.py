"""Picture files to tensors and back, and finding them: what training, benchmarks and scripts need."""

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esrgan.errors import EsrganError, name_of
from esrgan.files import replacing
from esrgan.picture_reader import SUFFIXES, Picture, explained, open_picture, reason
from esrgan.picture_vips import pyvips


def read_rgb(path: Path) -> Tensor:
    """Read a picture as RGB in [0, 1], (3, H, W) float32, as a viewer would show it.

    Upright by its EXIF orientation; grey in three equal channels; palettes expanded; CMYK and Lab through their profile
    to sRGB; values of other RGB profiles as encoded; 16 bits in full; transparency over white; the first frame.

    Raises:
        EsrganError: Not a readable, undamaged picture.
    """
    return to_rgb(open_picture(path), name_of(path))


def to_rgb(picture: Picture, name: str = "the picture") -> Tensor:
    """The pixels of an opened picture, as of ``read_rgb``."""
    with explained(name):
        rgb = _flat_rgb(picture).numpy()
    largest = 65535 if rgb.dtype == np.uint16 else 255
    return torch.from_numpy(rgb.astype(np.float32) / largest).permute(2, 0, 1).contiguous()


def read_bytes8(path: Path) -> Tensor:
    """Read a picture as ``read_rgb`` does, rounded to 8 bits: (H, W, 3) uint8."""
    picture = open_picture(path)
    with explained(name_of(path)):
        rgb = _flat_rgb(picture)
        if rgb.format == "ushort":
            rgb = (rgb / 257).rint().cast("uchar")
        return torch.from_numpy(rgb.numpy().copy())


def _flat_rgb(picture: Picture) -> pyvips.Image:
    image = picture.image.crop(0, 0, picture.width, picture.height)
    if picture.alpha:
        image = image.flatten(background=65535 if picture.bits == 16 else 255)
    return image if image.bands == 3 else image.bandjoin([image, image])


def write_rgb(image: Tensor, path: Path) -> None:
    """Write (3, H, W) RGB in [0, 1] to ``path`` with 8 bits, rounded, atomically; the suffix names the format.

    Raises:
        EsrganError: Values that are not finite, a suffix that cannot be written, or a disk that cannot take it.
    """
    if not torch.isfinite(image).all():
        raise EsrganError(f"{path}: not written, because the picture has values that are not finite")
    levels = (image.detach().float().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    picture = pyvips.Image.new_from_array(levels.permute(1, 2, 0).contiguous().numpy(), interpretation="srgb")
    options = {"Q": 95, "subsample_mode": "off"} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    try:
        content = picture.write_to_buffer(path.suffix.lower(), **options)
    except pyvips.Error as error:
        raise EsrganError(f"cannot write {path}: {reason(error)}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def find_images(paths: Sequence[Path], *, within: tuple[Path, ...] = ()) -> list[Path]:
    """The picture files that ``paths`` name, in that order and each folder's sorted, each once.

    Args:
        paths: Files, folders (searched recursively by suffix; hidden ones and run folders of trainings left out) and
            ``.txt`` lists of such paths, one a line, relative to the list's own folder; lines that start with ``#`` do
            not count.
        within: The lists that led to these paths.

    Raises:
        EsrganError: A path that is not there, a folder that cannot be read, or no picture at all.
    """
    found: dict[Path, Path] = {}
    for path in spread(paths):
        if path.suffix.lower() == ".txt" and path.is_file():
            pictures = find_images(read_list(path, within), within=(*within, path.resolve()))
        elif path.is_dir():
            inside = walk(path, on_error=_raise, runs=False)
            pictures = sorted(inside, key=lambda picture: picture.parts)  # upper case first on Windows, too
        elif path.exists():
            pictures = [path]
        else:
            where = f", which {within[-1]} lists" if within else ""
            raise EsrganError(f"there is no picture or folder {path}{where}")
        for picture in pictures:
            found.setdefault(spelt_out(picture), picture)
    if not found:
        raise EsrganError(f"no pictures in {', '.join(map(str, paths)) or 'an empty list'}")
    return list(found.values())


def spread(paths: Iterable[Path]) -> Iterator[Path]:
    """``paths``, on Windows with what wildcards stand for: no shell does that there."""
    for path in paths:
        if sys.platform == "win32" and glob.has_magic(str(path)) and not os.path.lexists(path):
            yield from map(Path, sorted(glob.glob(str(path))) or [str(path)])  # noqa: PTH207 - absolute ones too
        else:
            yield path


def spelt_out(path: Path) -> Path:
    """The one spelling of a file's name: in its folder's real place; a link to another file stays a file of its own."""
    return _real(path.parent) / path.name


@lru_cache(1024)
def _real(folder: Path) -> Path:
    return folder.resolve()


def read_list(path: Path, within: Sequence[Path] = ()) -> list[Path]:
    """The paths that a text file lists, one a line, relative to its folder; ``within``: the lists that led to it."""
    if path.resolve() in within:
        raise EsrganError(f"the list {path} names itself, or a list that leads back to it; take that line out")
    try:
        content = path.read_bytes()
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Windows PowerShell writes
        lines = content.decode("utf-16" if utf16 else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EsrganError(f"cannot read the list {path}: {error}") from error
    return [path.parent / line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def walk(
    folder: Path, *, on_error: Callable[[OSError], object], leave_out: Path | None = None, runs: bool = True
) -> Iterator[Path]:
    """Every picture file below ``folder`` by its suffix, folders in order; a folder reached twice by links, once.

    Args:
        folder: Where to start.
        on_error: Called with the error of a folder that cannot be read.
        leave_out: A folder, resolved, not to go into.
        runs: Whether to go into run folders of trainings, which hold samples and curves.
    """
    seen: set[tuple[int, int] | Path] = set()
    for place, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        status, real = Path(place).stat(), Path(place).resolve()
        mark = (status.st_dev, status.st_ino) if status.st_ino else real  # some network drives number no files
        known = mark in seen or real == leave_out
        if known or (not runs and all((Path(place) / name).is_file() for name in ("config.toml", "lock.txt"))):
            folders.clear()
            continue
        seen.add(mark)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def _raise(error: OSError) -> None:
    raise EsrganError(f"cannot read the folder {error.filename}: {error.strerror}") from error
