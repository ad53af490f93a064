"""Opening picture files with libvips: only the safe loaders, damaged files refused, every picture as it is shown.

The only modules that know libvips are those named ``picture_...``, ``images`` and ``compare``.
"""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from esrgan.containers import sniff
from esrgan.errors import EsrganError, name_of
from esrgan.picture_bmp import load_bmp
from esrgan.picture_colours import shown, unlab
from esrgan.picture_facts import look
from esrgan.picture_heic import load_heic
from esrgan.picture_resolution import stated_in_exif, stated_in_png, turned_too
from esrgan.picture_vips import pyvips

LIMIT_PIXELS = 300_000_000
"""More than this in a header is taken for a decompression bomb; 16384 x 16384 is below it."""

SUFFIXES = frozenset(
    f".{end}" for end in ("png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "tif", "tiff", "gif", "bmp", "dib")
) | frozenset(f".{end}" for end in ("avif", "heic", "heif", "jxl", "jp2", "j2k", "jpf", "jpx"))
"""What a file in a folder must end in, upper or lower case, to be taken for a picture."""

_LOADER = {"png": "png", "jpeg": "jpeg", "webp": "webp", "tiff": "tiff", "gif": "gif", "avif": "heif"}
_BY_OTHERS = {"bmp", "heic"}
_PAGED = frozenset({"gif", "webp", "tiff"})


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An opened picture, its pixels not yet decoded."""

    image: pyvips.Image
    """Grey or RGB, with or without alpha, 8 or 16 bits, upright; the frames of an animation stacked."""
    format: str
    """The file's own: png, jpeg, webp, tiff, gif, bmp, avif or heic."""
    frames: int
    """1 unless it is animated or has several pages of one size."""
    depth: int = 8
    """Bits that the file keeps of each band."""
    lossless: bool = False
    """Whether it is a WebP without loss."""
    texts: bytes = b""
    """Chunks of text of a PNG."""
    notes: tuple[str, ...] = ()
    """What of the file is not in ``image``, in words."""
    content: bytes | None = None
    """What ``image`` is decoded from, where that is memory; libvips does not hold on to it by itself."""

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.image.width)

    @property
    def height(self) -> int:
        """Of one frame, in pixels."""
        return int(self.image.height) // self.frames

    @property
    def alpha(self) -> bool:
        """Whether the last band is opacity."""
        return self.image.bands in (2, 4)

    @property
    def bits(self) -> int:
        """8 or 16 in each band."""
        return 16 if self.image.format == "ushort" else 8


class RowReader:
    """Reads rows from the top, remembering the last ones, so that a sequential decoder is never asked back."""

    def __init__(self, picture: Picture, name: str) -> None:
        self._picture = picture  # which holds the bytes that libvips decodes from
        self._region = pyvips.Region.new(picture.image)
        self._name = name
        self._held = np.empty((0, picture.width, picture.image.bands), np.uint16 if picture.bits == 16 else np.uint8)
        self._first = 0  # the row that ``_held`` begins with

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``, counted over all frames, as (rows, W, bands); ``start`` must never go down.

        Raises:
            EsrganError: The file is damaged there.
        """
        self._held, self._first = self._held[start - self._first :], start
        missing = stop - start - len(self._held)
        if missing > 0:
            with explained(self._name):
                data = self._region.fetch(0, stop - missing, self._held.shape[1], missing)
            new = np.frombuffer(data, self._held.dtype).reshape(missing, *self._held.shape[1:])
            self._held = np.concatenate((self._held, new))
        return self._held[: stop - start]


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn libvips' and the system's errors into one line about the picture called ``name``."""
    try:
        yield
    except pyvips.Error as error:
        raise EsrganError(f"{name}: damaged or not readable ({reason(error)})") from error
    except OSError as error:
        raise EsrganError(f"{name}: cannot be read ({error.strerror or error})") from error


def reason(error: pyvips.Error) -> str:
    """The last line that libvips wrote about an error; the first ones name what gave up because of it."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def open_picture(source: Path | bytes, *, limit_pixels: int = LIMIT_PIXELS) -> Picture:
    """Open a picture file, or the bytes of one, as it is shown: upright, in grey or RGB.

    An RGB or grey ICC profile stays, values as encoded; CMYK, Lab and other spaces become sRGB through their profile.

    Args:
        source: Path of a regular file, or its content.
        limit_pixels: Refuse a picture whose header promises more, all frames together.

    Raises:
        EsrganError: Not there, not a file, not a picture, too large, of a kind that is not supported, or damaged.
            Damage further on shows when the rows are read.
    """
    name = name_of(source)
    with explained(name):
        kind = _kind(source, name)
        with _file(source) as file:
            facts = look(file, kind, name)
        source = facts.patched or source
        image, notes = _load_all(source, kind, limit_pixels)
        frames = image.height // image.get_page_height()
        if image.width * image.height > limit_pixels:
            raise EsrganError(
                f"{name}: {image.width} x {image.height} pixels are more than the limit of {limit_pixels}, as in a"
                " decompression bomb; raise --limit-pixels if the picture is meant to be so large"
            )
        side = int(image.get("orientation")) if frames == 1 and image.get_typeof("orientation") else 1
        if side != 1 or image.format in ("float", "double"):  # whose range is looked at first
            image = _load(source, kind, {"access": "random"} | ({"n": -1} if frames > 1 else {}))
        depth = int(image.get("bits-per-sample")) if image.get_typeof("bits-per-sample") else 8
        if facts.masks and (colours := image.bands - facts.masks) in (1, 3, 4):
            image = image[:colours]
        image = turned_too(shown(unlab(image) if facts.lab else image, frames, name), side)
        if kind == "png":
            image = stated_in_png(image, facts.density)
        elif kind in ("webp", "avif", "heic"):
            image = stated_in_exif(image)
        if facts.exif:
            image.set_type(pyvips.GValue.blob_type, "exif-data", facts.exif)
        return Picture(
            image=image, format=kind, frames=frames, depth=depth, lossless=facts.lossless, texts=facts.texts,
            notes=facts.notes + notes, content=source if isinstance(source, bytes) else None,
        )  # fmt: skip


def _kind(source: Path | bytes, name: str) -> str:
    """The format of a file that is one, and that libvips can read."""
    if isinstance(source, Path):
        mode = source.stat().st_mode  # before it is opened: a FIFO would wait for a writer
        if not stat.S_ISREG(mode):
            what = "folder" if stat.S_ISDIR(mode) else "device, pipe or socket"
            raise EsrganError(f"{name}: not a file but a {what}")
    with _file(source) as file:
        head = file.read(32)
    kind = sniff(head)
    if not head:
        raise EsrganError(f"{name}: an empty file")
    if kind is None:
        raise EsrganError(f"{name}: not a picture of a known format (PNG, JPEG, WebP, TIFF, GIF, BMP, AVIF, HEIC)")
    if kind not in _BY_OTHERS | _LOADER.keys():
        raise EsrganError(f"{name}: {kind.upper()} files are not read; convert it to PNG, JPEG or TIFF first")
    if kind in _LOADER and not pyvips.type_find("VipsOperation", f"{_LOADER[kind]}load_source"):
        raise EsrganError(f"{name}: the libvips on this machine cannot read {kind.upper()} files")
    return kind


def _file(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _load_all(source: Path | bytes, kind: str, limit_pixels: int) -> tuple[pyvips.Image, tuple[str, ...]]:
    """The picture with its frames stacked, and what is left out."""
    if kind == "bmp":
        return load_bmp(source, name_of(source), limit_pixels=limit_pixels), ()
    if kind == "heic":
        return load_heic(source, name_of(source), limit_pixels=limit_pixels)
    image = _load(source, kind, {})
    pages = int(image.get("n-pages")) if image.get_typeof("n-pages") else 1
    if pages == 1:
        return image, ()
    if kind not in _PAGED:
        return image, (f"only the first of {pages} pictures in the file",)
    try:
        return _load(source, kind, {"n": -1}), ()
    except pyvips.Error:
        if kind != "tiff":
            raise
        return image, (f"only the first of {pages} pages, as they differ in size, kind or orientation",)


def _load(source: Path | bytes, kind: str, options: dict[str, Any]) -> pyvips.Image:
    if isinstance(source, bytes):
        stream = pyvips.Source.new_from_memory(source)
    else:  # by descriptor, as libvips knows names in UTF-8 only
        with source.open("rb") as file:
            stream = pyvips.Source.new_from_descriptor(file.fileno())  # which duplicates it
    fail_on = "error" if kind == "tiff" else "warning"  # of a TIFF it warns of tags that do no harm
    options = {"access": "sequential", "fail_on": fail_on} | options
    return pyvips.Operation.call(f"{_LOADER[kind]}load_source", stream, **options)
