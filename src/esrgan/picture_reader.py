"""Opening picture files with libvips: only the safe loaders, damaged files refused, every picture as it is shown.

The only modules that know libvips are this one, ``picture_writer`` and ``images``.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyvips

from esrgan.errors import EsrganError

LIMIT_PIXELS = 300_000_000
"""More than this in a header is taken for a decompression bomb; 16384 x 16384 is below it."""

SUFFIXES = frozenset(
    f".{end}" for end in ("png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "tif", "tiff", "gif")
) | frozenset(f".{end}" for end in ("avif", "heic", "heif", "jxl", "jp2", "j2k", "jpf", "jpx"))
"""What a file in a folder must end in, upper or lower case, to be taken for a picture."""

pyvips.cache_set_max(0)  # every picture is read once
pyvips.concurrency_set(min(4, os.cpu_count() or 1))  # more only takes memory and the network's cores
pyvips.block_untrusted_set(True)
logging.getLogger("pyvips").addHandler(logging.NullHandler())  # libvips' warnings are not for users

_FTYP = {"avif": "avif", "avis": "avif", "heic": "heic", "heix": "heic", "heim": "heic", "hevc": "heic", "mif1": "heic"}
_LOADER = {"png": "png", "jpeg": "jpeg", "webp": "webp", "tiff": "tiff", "gif": "gif", "avif": "heif", "heic": "heif"}
_LOADER |= {"jxl": "jxl", "jp2": "jp2k"}
_PAGED = frozenset({"gif", "webp", "tiff"})


def sniff(head: bytes) -> str | None:
    """The format that a file's first 32 bytes show: png, jpeg, webp, tiff, gif, avif, heic, jxl, jp2 or none."""
    starts = {
        b"\x89PNG\r\n\x1a\n": "png",
        b"\xff\xd8\xff": "jpeg",
        b"GIF87a": "gif",
        b"GIF89a": "gif",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
        b"II+\0": "tiff",
        b"MM\0+": "tiff",
        b"\xff\x0a": "jxl",
        b"\0\0\0\x0cJXL ": "jxl",
        b"\0\0\0\x0cjP  ": "jp2",
        b"\xff\x4f\xff\x51": "jp2",
    }
    for magic, name in starts.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return _FTYP.get(head[8:12].decode("latin-1")) if head[4:8] == b"ftyp" else None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An opened picture, its pixels not yet decoded."""

    image: pyvips.Image
    """Grey or RGB, with or without alpha, 8 or 16 bits, upright; the frames of an animation stacked."""
    format: str
    """The file's own: png, jpeg, webp, tiff, gif, avif, heic, jxl or jp2."""
    frames: int
    """1 unless it is animated or has several pages of one size."""
    notes: tuple[str, ...] = ()
    """What of the file is not in ``image``, in words."""

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


def open_picture(source: Path | bytes, *, limit_pixels: int = LIMIT_PIXELS, whole: bool = False) -> Picture:
    """Open a picture file, or the bytes of one, as it is shown: upright, in grey or RGB.

    An RGB or grey ICC profile stays, values as encoded; CMYK, Lab and other spaces become sRGB through their profile.

    Args:
        source: Path of a regular file, or its content.
        limit_pixels: Refuse a picture whose header promises more, all frames together.
        whole: Rows will be read in any order or more than once; else from the first to the last, in little memory.

    Raises:
        EsrganError: Not there, not a file, not a picture, too large, of a kind that is not supported, or damaged.
            Damage further on shows when the rows are read.
    """
    name = source.name if isinstance(source, Path) else "the picture"
    with explained(name):
        stream, kind = _stream(source, name)
        image, notes = _load(stream, kind, {})
        pages = int(image.get("n-pages")) if image.get_typeof("n-pages") else 1
        if pages > 1 and kind in _PAGED:
            stream, _ = _stream(source, name)
            image, notes = _all_pages(stream, kind, image, pages)
        elif pages > 1:
            notes = (*notes, f"only the first of {pages} pictures in the file")
        frames = image.height // image.get_page_height()
        if image.width * image.height > limit_pixels:
            raise EsrganError(
                f"{name}: {image.width} x {image.height} pixels are more than the limit of {limit_pixels}, as in a"
                " decompression bomb; raise --limit-pixels if the picture is meant to be so large"
            )
        turned = image.get_typeof("orientation") and image.get("orientation") != 1
        if whole or (turned and frames == 1):
            stream, _ = _stream(source, name)
            image, _ = _load(stream, kind, {"access": "random"} | ({"n": -1} if frames > 1 else {}))
        return Picture(image=shown(image, frames, name), format=kind, frames=frames, notes=notes)


def _stream(source: Path | bytes, name: str) -> tuple[pyvips.Source, str]:
    if isinstance(source, bytes):
        stream, head = pyvips.Source.new_from_memory(source), source[:32]
    else:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)  # opening a FIFO would wait for a writer
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise EsrganError(f"{name}: not a file but a {'folder' if stat.S_ISDIR(mode) else 'device or pipe'}")
            head = os.pread(descriptor, 32, 0)
            stream = pyvips.Source.new_from_descriptor(descriptor)  # which duplicates it
        finally:
            os.close(descriptor)
    kind = sniff(head)
    if kind is None:
        raise EsrganError(f"{name}: {'an empty file' if not head else 'not a picture of a known format'}")
    if not pyvips.type_find("VipsOperation", f"{_LOADER[kind]}load_source"):
        raise EsrganError(f"{name}: the libvips on this machine cannot read {kind.upper()} files")
    return stream, kind


def _load(stream: pyvips.Source, kind: str, options: dict[str, Any]) -> tuple[pyvips.Image, tuple[str, ...]]:
    options = {"access": "sequential", "fail_on": "warning"} | options
    return pyvips.Operation.call(f"{_LOADER[kind]}load_source", stream, **options), ()


def _all_pages(
    stream: pyvips.Source, kind: str, first: pyvips.Image, pages: int
) -> tuple[pyvips.Image, tuple[str, ...]]:
    try:
        return _load(stream, kind, {"n": -1})
    except pyvips.Error:
        if kind != "tiff":
            raise
        return first, (f"only the first of {pages} pages, as they differ in size or kind",)


def shown(image: pyvips.Image, frames: int, name: str) -> pyvips.Image:
    """``image`` upright, in grey or RGB with or without alpha, 8 or 16 bits; its profile, if that fits, untouched."""
    if frames == 1:
        image = image.autorot()
    deep = image.format not in ("uchar", "char")
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb16", "rgb", "multiband", "histogram"):
        if image.interpretation == "cmyk" or image.get_typeof("icc-profile-data"):
            image = image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=16 if deep else 8)
        else:
            image = image.colourspace("rgb16" if deep else "srgb")
    if image.format == "uint":
        image = (image / 65537).rint().cast("ushort")
    elif image.format in ("float", "double"):
        image = (image * 65535).rint().cast("ushort")
    if image.format not in ("uchar", "ushort"):
        raise EsrganError(f"{name}: samples of type {image.format} are not supported; convert it to 8 or 16 bits first")
    if image.bands > 4:
        raise EsrganError(f"{name}: {image.bands} channels; only grey and RGB, with or without alpha, are supported")
    kinds = {"uchar": ("b-w", "srgb"), "ushort": ("grey16", "rgb16")}
    return image.copy(interpretation=kinds[image.format][image.bands > 2])
