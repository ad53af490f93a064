"""One picture file to a larger one, everything about it kept except its size."""

import errno
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import get_args

import numpy as np

from esrgan.enlarge import Pixels, Rows, Transparency, enlarged
from esrgan.errors import EsrganError, UsageError
from esrgan.picture_formats import Format
from esrgan.picture_reader import Picture, RowReader
from esrgan.picture_writer import write_rows
from esrgan.upscaler import Upscaler

LARGEST = 1 << 31  # pixels of a side, that no format and no library counts
PACKED = 0.1  # of its raw size that a picture is expected to take on the disk


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """How much larger a picture becomes, and how."""

    scale: float | None = None
    """Times the picture's size; none = the network's own scale."""
    width: int | None = None
    """Of the result, in pixels; alone, the height follows."""
    height: int | None = None
    """Of the result, in pixels; alone, the width follows."""
    megapixels: float | None = None
    """Of the result, in millions."""
    transparency: Transparency = "network"
    """How alpha is enlarged."""

    def __post_init__(self) -> None:
        given = [self.scale is not None, self.width is not None or self.height is not None, self.megapixels is not None]
        if sum(given) > 1:
            raise UsageError("give one of scale, width and height, or megapixels, not several")
        for name in ("scale", "width", "height", "megapixels"):
            value = getattr(self, name)
            if value is None:
                continue
            whole = name in ("width", "height")
            fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
            if not fits or not 0 < value < (LARGEST if whole else math.inf):
                below = f", below {LARGEST}" * whole
                raise UsageError(f"{name} is {value!r}; it must be a {'whole ' * whole}number above 0{below}")
        if self.transparency not in get_args(Transparency):
            raise UsageError(f"transparency is {self.transparency!r}; it must be network or bicubic")

    def label(self, height: int, width: int, network_scale: int) -> str:
        """What a file name says of the enlargement, such as 4 or 1.5: another one for every size of the result.

        That is the factor, with as many digits as tell its size from others, or columns x rows where it is stretched.
        """
        if self.scale:
            return f"{self.scale:.12g}"
        size = self.size(height, width, network_scale)
        factor = size[1] / width
        for digits in range(max(3, len(str(int(factor)))), 17):
            label = f"{factor:.{digits}g}"
            if Enlargement(scale=float(label)).size(height, width, network_scale) == size:
                return label
        return f"{size[1]}x{size[0]}"

    def size(self, height: int, width: int, network_scale: int) -> tuple[int, int]:
        """Rows and columns of the result for a picture of ``height`` x ``width``.

        Raises:
            UsageError: A side longer than any picture's.
        """
        factor = self.scale or network_scale
        if self.width:
            factor = self.width / width
        elif self.height:
            factor = self.height / height
        elif self.megapixels:
            factor = math.sqrt(self.megapixels * 1e6 / (height * width))
        sides = self.height or height * factor, self.width or width * factor
        if not max(sides) < LARGEST:
            size = f"{sides[0]:.4g} x {sides[1]:.4g}"
            raise UsageError(f"the result would have {size} pixels, more than any picture; ask for a smaller one")
        return max(1, round(sides[0])), max(1, round(sides[1]))


def write_enlarged(
    upscaler: Upscaler,
    picture: Picture,
    descriptor: int,
    *,
    name: str,
    form: Format,
    how: Enlargement,
    on_rows: Callable[[int, int], object] | None = None,
) -> None:
    """Enlarge an opened picture into an open, empty file.

    Args:
        upscaler: The network.
        picture: From ``open_picture``.
        descriptor: Open for reading and writing.
        name: The picture's, for messages.
        form: Format to write.
        how: How large.
        on_rows: Told after every band: rows written, rows in all.

    Raises:
        EsrganError: A damaged picture, a result that cannot be right, a disk that is full.
    """
    size = how.size(picture.height, picture.width, upscaler.scale)
    _check_room(descriptor, size[0] * size[1] * picture.frames * picture.image.bands * picture.bits // 8)
    reader = RowReader(picture, name)

    def rows() -> Iterator[Rows]:
        done = 0
        for frame in range(picture.frames):
            for band in enlarged(upscaler, _frame(reader, picture, frame), size=size, transparency=how.transparency):
                done += len(band)
                yield band
                del band  # before the next one is made
                if on_rows:
                    on_rows(done, size[0] * picture.frames)

    write_rows(rows(), descriptor, form=form, size=size, like=picture)


def _frame(reader: RowReader, picture: Picture, number: int) -> Pixels:
    top = number * picture.height
    return Pixels(
        height=picture.height,
        width=picture.width,
        bands=picture.image.bands,
        dtype=np.uint16 if picture.bits == 16 else np.uint8,
        read=lambda start, stop: reader.read(top + start, top + stop),
    )


def _check_room(descriptor: int, raw_bytes: int) -> None:
    if not hasattr(os, "fstatvfs"):  # Windows tells it of paths alone
        return
    disk = os.fstatvfs(descriptor)
    free = disk.f_bavail * disk.f_frsize
    if not disk.f_blocks:  # a file system that tells nothing of its size
        return
    if raw_bytes * PACKED > free:
        nameless = os.fstat(descriptor).st_nlink == 0  # as files in the temporary folder are
        elsewhere = "let TMPDIR name a folder on another disk" if nameless else "choose another --out"
        raise EsrganError(
            f"the result has {raw_bytes / 1e9:.1f} GB of pixels and its disk {free / 1e9:.1f} GB free:"
            f" {os.strerror(errno.ENOSPC)}; free some or {elsewhere}"
        )
