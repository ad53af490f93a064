"""Writing pictures with libvips, row by row, dressed in the metadata of the picture they were made from."""

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyvips
from numpy.typing import NDArray

from esrgan import iptc
from esrgan import picture_resolution as resolution
from esrgan.errors import EsrganError, UsageError
from esrgan.picture_reader import Picture, reason
from esrgan.tiff_tags import RESOLUTION, add_exif, remove_tags


@dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    suffixes: tuple[str, ...]
    """The usual one first."""
    side: int
    """Longest side, in pixels; of an animation, of all frames together."""
    alpha: bool
    deep: bool
    """16 bits; AVIF and HEIC hold up to 12 of them."""
    frames: bool
    saver: str

    @property
    def writable(self) -> bool:
        """Whether the libvips on this machine writes it."""
        return bool(pyvips.type_find("VipsOperation", f"{self.saver}save_target"))


FORMATS = {
    form.name: form
    for form in (
        Format("png", (".png",), 2**31 - 1, True, True, False, "png"),
        Format("jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), 65500, False, False, False, "jpeg"),
        Format("webp", (".webp",), 16383, True, False, True, "webp"),
        Format("tiff", (".tif", ".tiff"), 2**31 - 1, True, True, True, "tiff"),
        Format("gif", (".gif",), 65535, True, False, True, "gif"),
        Format("avif", (".avif",), 16384, True, True, False, "heif"),
        Format("heic", (".heic", ".heif"), 16384, True, True, False, "heif"),
        Format("jxl", (".jxl",), 2**30 - 1, True, True, False, "jxl"),
    )
}
"""By name; ``FORMATS['png']`` holds everything but animations."""

_KEPT = ("exif-data", "xmp-data", "iptc-data", "photoshop-data", "icc-profile-data", "resolution-unit", "loop", "delay")
_NO_EXIF = 63 - 1  # libvips' flags of what to keep: all but EXIF, which it would invent
_CHANNELS = {1: 0, 2: 4, 3: 2, 4: 6}  # bands -> PNG colour type


def find_format(name: str) -> Format:
    """The format called ``name``: its name or one of its suffixes, with or without the dot.

    Raises:
        UsageError: Unknown, or not writable here.
    """
    wanted = name.lower().lstrip(".")
    for form in FORMATS.values():
        if wanted == form.name or f".{wanted}" in form.suffixes:
            if not form.writable:
                break
            return form
    can = ", ".join(form.name for form in FORMATS.values() if form.writable)
    raise UsageError(f"the format {name!r} cannot be written here; choose one of {can}")


def fit_format(picture: Picture, size: tuple[int, int], wanted: Format | None) -> tuple[Format, tuple[str, ...]]:
    """The format to write an enlarged picture in, and what is lost by it, in words.

    Args:
        picture: What is enlarged.
        size: Rows and columns of the result, of one frame.
        wanted: The format asked for; none = the picture's own, and PNG where that cannot hold the result.

    Raises:
        EsrganError: The format asked for, or for an animation any that would do, cannot hold it.
    """
    form = wanted or FORMATS.get(picture.format, FORMATS["png"])
    why = _obstacle(form, picture, size)
    if why is None:
        return form, _losses(form, picture)
    if wanted or picture.frames > 1:
        raise EsrganError(f"{form.name.upper()} {why}; choose another --format or a smaller --scale")
    return FORMATS["png"], (f"written as PNG, because {form.name.upper()} {why}",)


def _obstacle(form: Format, picture: Picture, size: tuple[int, int]) -> str | None:
    if not form.writable or (form.name == "heic" and not _writes_heic()):
        return "cannot be written on this machine"
    if max(size) > form.side:
        return f"holds at most {form.side} pixels a side, not {max(size)}"
    if picture.frames > 1 and not form.frames:
        return f"cannot hold {picture.frames} frames"
    return None


def _losses(form: Format, picture: Picture) -> tuple[str, ...]:
    lost = []
    if picture.alpha and not form.alpha:
        lost.append(f"transparency over white, as {form.name.upper()} has none")
    if picture.bits == 16 and not form.deep:
        lost.append(f"16 bits reduced to 8, as {form.name.upper()} holds no more")
    return tuple(lost)


def _writes_heic() -> bool:
    try:
        pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb").heifsave_buffer(compression="hevc")
    except pyvips.Error:
        return False
    return True


def write_rows(
    rows: Iterable[NDArray[Any]], descriptor: int, *, form: Format, size: tuple[int, int], like: Picture
) -> None:
    """Write a picture that comes in bands of rows to an open file, encoding while the next ones are made.

    Args:
        rows: From the top, all frames one below the other: (n, W, bands) uint8 or uint16, as ``like`` has them.
        descriptor: Open for reading and writing, empty.
        form: The format.
        size: Rows and columns of one frame.
        like: The picture it was made from; its metadata goes along, but for the thumbnail.

    Raises:
        EsrganError: It cannot be encoded or written; what ``rows`` raises comes through.
    """
    reading, writing = os.pipe()
    faults: list[str] = []

    def save() -> None:
        try:
            _save(reading, descriptor, form, size, like)
        except pyvips.Error as error:
            faults.append(reason(error))
        finally:
            while os.read(reading, 1 << 20):  # whoever writes the rows must never wait for nobody
                pass
            os.close(reading)

    saver = threading.Thread(target=save, name="esrgan-save")
    saver.start()
    try:
        with open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor
            for part in _as_png(rows, (size[0] * like.frames, size[1]), like):
                if faults:
                    break
                pipe.write(part)
    finally:
        saver.join()
    if faults:
        raise EsrganError(f"cannot write as {form.name.upper()}: {_why(descriptor) or faults[0]}")
    with open(os.dup(descriptor), "r+b") as file:  # noqa: PTH123 - a descriptor
        _finish(file, form, like)


def _finish(file: BinaryIO, form: Format, like: Picture) -> None:
    """Put right what libvips leaves out of a file or puts into it unasked."""
    exif, stated = _field(like, "exif-data"), resolution.is_stated(like.image)
    if form.name == "tiff":
        records = iptc.bare(_field(like, "iptc-data"))
        if not stated:
            remove_tags(file, RESOLUTION)
        add_exif(file, exif, {iptc.TIFF_TAG: (7, len(records), records)} if records else None)
    elif form.name == "png" and not stated:
        resolution.unsay_in_png(file)
    elif form.name == "jpeg" and stated and not exif:
        resolution.say_in_jpeg(file, like.image.xres, like.image.yres)


def _field(like: Picture, name: str) -> bytes:
    return bytes(like.image.get(name)) if like.image.get_typeof(name) else b""


def _why(descriptor: int) -> str | None:
    """What the system says against writing more, which libvips does not tell; the file is lost anyhow."""
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
        for _ in range(2):  # the first may fit in part
            os.write(descriptor, bytes(1 << 16))
    except OSError as error:
        return error.strerror
    return None


def _as_png(rows: Iterable[NDArray[Any]], size: tuple[int, int], like: Picture) -> Iterator[bytes]:
    """The rows as an uncompressed PNG stream: the one container that libvips reads from a pipe in 8 and 16 bits."""
    kind = struct.pack(">IIBBBBB", size[1], size[0], like.bits, _CHANNELS[like.image.bands], 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", kind)
    deflate = zlib.compressobj(level=0)
    for band in rows:
        data = band.astype(">u2" if like.bits == 16 else np.uint8, copy=False).reshape(len(band), -1)
        data = np.ascontiguousarray(data).view(np.uint8)
        for part in np.array_split(data, max(1, data.size >> 22)):  # 4 MB at a time
            filtered = np.zeros((len(part), 1 + part.shape[1]), np.uint8)  # each row begins with its filter: none
            filtered[:, 1:] = part
            yield _chunk(b"IDAT", deflate.compress(filtered.tobytes()))
        del band, data, part, filtered  # before the next band is made
    yield _chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _save(reading: int, descriptor: int, form: Format, size: tuple[int, int], like: Picture) -> None:
    source = pyvips.Source.new_from_descriptor(reading)
    image = pyvips.Image.pngload_source(source, access="sequential", fail_on="truncated", unlimited=True)
    if like.alpha and not form.alpha:
        image = image.flatten(background=65535 if like.bits == 16 else 255)
    if like.bits == 16 and not form.deep:
        image = (image / 257).rint().cast("uchar")
    image = dress(image.copy(interpretation=_interpretation(image)), like, size[0])
    if image.get_typeof("iptc-data"):
        if form.name == "tiff":
            image.remove("iptc-data")  # libvips would cut it to a quarter; ``write_rows`` adds it whole
        elif form.name == "jpeg":
            image.set_type(pyvips.GValue.blob_type, "iptc-data", iptc.wrapped(image.get("iptc-data")))
    options = _options(form, like, image.width * image.height * image.bands * like.bits // 8)
    if not image.get_typeof("exif-data"):
        options["keep"] = _NO_EXIF
    target = pyvips.Target.new_to_descriptor(descriptor)
    pyvips.Operation.call(f"{form.saver}save_target", image, target, **options)


def _interpretation(image: pyvips.Image) -> str:
    return {"uchar": ("b-w", "srgb"), "ushort": ("grey16", "rgb16")}[image.format][image.bands > 2]


def dress(image: pyvips.Image, like: Picture, page_height: int) -> pyvips.Image:
    """``image`` with the profile, EXIF, XMP, IPTC, resolution, delays and comments of ``like``."""
    image = image.copy()
    for name in like.image.get_fields():
        if name in _KEPT or name.startswith("png-comment-"):
            image.set_type(like.image.get_typeof(name), name, like.image.get(name))
    if image.get_typeof("exif-data"):  # libvips takes orientation and size from the image, the rest from this
        image.set_type(pyvips.GValue.blob_type, "exif-data", without_thumbnail(image.get("exif-data")))
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    if like.frames > 1:
        image.set_type(pyvips.GValue.gint_type, "page-height", page_height)
    unit = like.image.get("exif-ifd0-ResolutionUnit") if like.image.get_typeof("exif-ifd0-ResolutionUnit") else ""
    inch = 25.4 if unit.startswith("1 ") else 1.0  # of no unit: libvips takes the number for pixels per mm
    return image.copy(xres=like.image.xres / inch, yres=like.image.yres / inch)  # last, as EXIF sets it too


def without_thumbnail(exif: bytes) -> bytes:
    """An EXIF block without its second directory, which describes the embedded thumbnail."""
    start = 6 if exif[:6] == b"Exif\0\0" else 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[start : start + 4])
    try:
        (first,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start + first)
        end = start + first + 2 + 12 * count
        return exif[:end] + bytes(4) + exif[end + 4 :] if end + 4 <= len(exif) else exif
    except struct.error:  # not EXIF, or cut short
        return exif


def _options(form: Format, like: Picture, raw_bytes: int) -> dict[str, Any]:
    depth = like.depth if like.depth in (8, 10, 12) else 12 if like.bits == 16 else 8
    coded = {"Q": 90, "subsample_mode": "off", "effort": 3, "bitdepth": depth}
    return {
        "png": {"compression": 6, "filter": "all", "bitdepth": like.bits},
        "jpeg": {"Q": 95, "subsample_mode": "off"},
        "webp": {"lossless": True} if like.lossless else {"Q": 95, "smart_subsample": True},
        "tiff": {"compression": "deflate", "predictor": "horizontal", "bigtiff": raw_bytes > 2_000_000_000},
        "gif": {"effort": 7},
        "avif": {"compression": "av1"} | coded,
        "heic": {"compression": "hevc"} | coded,
        "jxl": {"Q": 95},
    }[form.name]


def suffix_for(form: Format, names: Sequence[str]) -> str:
    """The file suffix to write: the first of ``names`` that belongs to the format, else its usual one."""
    return next((name for name in names if name.lower() in form.suffixes), form.suffixes[0])
