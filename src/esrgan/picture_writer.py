"""Writing pictures with libvips, row by row, dressed in the metadata of the picture they were made from."""

import os
import struct
import sys
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

from numpy.typing import NDArray

from esrgan import iptc
from esrgan import picture_resolution as resolution
from esrgan.containers import insert
from esrgan.errors import EsrganError, of_system, until_unread
from esrgan.picture_formats import Format
from esrgan.picture_reader import Picture, reason
from esrgan.picture_vips import grey_or_rgb, pyvips
from esrgan.picture_xmp import xmp_of_result
from esrgan.png_stream import chunk, png_stream
from esrgan.tiff_tags import RESOLUTION, add_exif, remove_tags

_KEPT = ("exif-data", "xmp-data", "iptc-data", "photoshop-data", "icc-profile-data", "resolution-unit", "loop", "delay",
         "orientation")  # fmt: skip
AFTER_IHDR = 33
"""Where the second chunk of a PNG begins."""
_NO_EXIF = 63 - 1  # libvips' flags of what to keep: all but EXIF, which it would invent


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
    done, faults = threading.Event(), list[Exception]()

    def save() -> None:
        try:
            _save(reading, descriptor, form, size, like)
        except Exception as error:
            faults.append(error.with_traceback(None))  # whose frames would hold the file open
        finally:
            while not done.is_set() and os.read(reading, 1 << 20):  # else their writer would block for ever
                pass
            os.close(reading)

    saver = threading.Thread(target=save, name="esrgan-save")
    saver.start()
    try:
        with until_unread(), open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor
            for part in png_stream(rows, (size[0] * like.frames, size[1], like.image.bands), like.bits):
                if faults:
                    break
                pipe.write(part)
            pipe.flush()
            done.set()
            pipe.write(b"\0")  # the pipe does not end by being closed where a forked process has a copy of this end
    finally:
        saver.join()
    if faults:
        raise _told(faults[0], descriptor, form) if isinstance(faults[0], pyvips.Error) else faults[0]
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
    elif form.name == "png":
        if not stated:
            resolution.unsay_in_png(file)
        place = file.seek(-12, os.SEEK_END)
        end = file.read()  # the chunk that ends it
        file.seek(place)
        file.write(like.texts + end)
        if xmp := xmp_of_result(like):  # libvips would write it compressed, which readers of XMP do not know
            insert(file, AFTER_IHDR, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    elif form.name == "jpeg" and stated and not exif:
        resolution.say_in_jpeg(file, like.image.xres, like.image.yres)


def _field(like: Picture, name: str) -> bytes:
    return bytes(like.image.get(name)) if like.image.get_typeof(name) else b""


def _told(error: pyvips.Error, descriptor: int, form: Format) -> EsrganError:
    """With what the system says against writing more, which libvips does not tell; the file is lost anyhow."""
    cannot = f"cannot write as {form.name.upper()}"
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
        for _ in range(2):  # the first may fit in part
            os.write(descriptor, bytes(1 << 16))
    except OSError as why:
        return of_system(why, f"{cannot}: {why.strerror}")
    return EsrganError(f"{cannot}: {reason(error)}")


def _save(reading: int, descriptor: int, form: Format, size: tuple[int, int], like: Picture) -> None:
    source = _source(reading)  # to be kept until all is read
    image = pyvips.Image.pngload_source(source, access="sequential", fail_on="truncated", unlimited=True)
    if like.alpha and not form.alpha:
        image = image.flatten(background=65535 if like.bits == 16 else 255)
    if like.bits == 16 and not form.deep:
        image = (image / 257).rint().cast("uchar")
    image = dress(grey_or_rgb(image), like, size[0])
    if image.get_typeof("iptc-data"):
        if form.name == "tiff":
            image.remove("iptc-data")  # libvips would cut it to a quarter; ``_finish`` adds it whole
        elif form.name == "jpeg":
            image.set_type(pyvips.GValue.blob_type, "iptc-data", iptc.wrapped(image.get("iptc-data")))
    if form.name == "png" and image.get_typeof("xmp-data"):
        image.remove("xmp-data")  # ``_finish`` adds it
    options = _options(form, like, image.width * image.height * image.bands * like.bits // 8)
    if not image.get_typeof("exif-data"):
        options["keep"] = _NO_EXIF
    target = pyvips.Target.new_to_descriptor(descriptor)
    pyvips.Operation.call(f"{form.saver}save_target", image, target, **options)


def _source(reading: int) -> pyvips.Source:
    """What libvips reads the pipe by: through Python on Windows, where it would take it for a file to seek in."""
    if sys.platform != "win32":
        return pyvips.Source.new_from_descriptor(reading)
    source = pyvips.SourceCustom()
    source.on_read(lambda size: os.read(reading, size))
    return source


def dress(image: pyvips.Image, like: Picture, page_height: int) -> pyvips.Image:
    """``image`` with the profile, EXIF, XMP, IPTC, resolution and delays of ``like``."""
    image = image.copy()
    for name in _KEPT:
        if like.image.get_typeof(name):
            image.set_type(like.image.get_typeof(name), name, like.image.get(name))
    if image.get_typeof("exif-data"):  # libvips takes orientation and size from the image, the rest from this
        image.set_type(pyvips.GValue.blob_type, "exif-data", without_thumbnail(image.get("exif-data")))
    if like.frames > 1:  # not turned upright
        image.set_type(pyvips.GValue.gint_type, "page-height", page_height)
    else:
        image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    if xmp := xmp_of_result(like):
        image.set_type(pyvips.GValue.blob_type, "xmp-data", xmp)
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
        "png": {"compression": 4, "filter": "all", "bitdepth": like.bits},
        "jpeg": {"Q": 95, "subsample_mode": "off"},
        "webp": {"lossless": True} if like.lossless else {"Q": 95, "smart_subsample": True},
        "tiff": {"compression": "deflate", "predictor": "horizontal", "bigtiff": raw_bytes > 2_000_000_000},
        "gif": {"effort": 7},
        "avif": {"compression": "av1"} | coded,
        "heic": {"compression": "hevc"} | coded,
    }[form.name]
