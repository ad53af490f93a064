"""How many pixels make an inch: stated in a result where, and only where, the picture stated it.

libvips writes a resolution into every PNG and TIFF, 25.4 or 72 dpi where it knows none, and into a JPEG only with EXIF.
"""

import struct
import zlib
from fractions import Fraction
from typing import BinaryIO

from esrgan.containers import insert
from esrgan.picture_vips import pyvips

ASSUMED = (1.0, 2.834, 72 / 25.4)
"""Pixels per mm that libvips takes where a file states none: most formats, PNG, JPEG."""


def is_stated(image: pyvips.Image) -> bool:
    """Whether the file that ``image`` was read from said it."""
    known = any(image.get_typeof(name) for name in ("resolution-unit", "exif-ifd0-XResolution"))
    return known or image.xres not in ASSUMED


def stated_in_png(image: pyvips.Image, phys: bytes) -> pyvips.Image:
    """``image``, read from a PNG, with the resolution that its pHYs chunk states, and with none where that is none."""
    if not phys:
        return image
    if phys[8:] == bytes(1):  # the shape of a pixel alone, which libvips takes for pixels per metre
        return image.copy(xres=1.0, yres=1.0)
    image = image.copy()
    image.set_type(pyvips.GValue.gstr_type, "resolution-unit", "cm")
    return image


def stated_in_exif(image: pyvips.Image) -> pyvips.Image:
    """``image`` with the resolution that its EXIF states, of formats that state it nowhere else."""
    if not image.get_typeof("exif-data"):
        return image
    across, down = (_number(image, f"exif-ifd0-{side}Resolution") for side in "XY")
    unit = 10.0 if _number(image, "exif-ifd0-ResolutionUnit") == 3 else 25.4  # millimetres; 3 is the centimetre
    if across in (0.0, unit):  # libvips has put it there
        return image.copy(xres=ASSUMED[2], yres=ASSUMED[2])
    return image.copy(xres=across / unit, yres=(down or across) / unit)


def _number(image: pyvips.Image, field: str) -> float:
    """A number of the EXIF, as libvips writes it: ``300/1 (300, Rational, ...)``; 0 where there is none."""
    words = str(image.get(field)).split() if image.get_typeof(field) else []
    try:
        return float(Fraction(words[0])) if words else 0.0
    except (ValueError, ZeroDivisionError):
        return 0.0


def turned_too(image: pyvips.Image, orientation: int) -> pyvips.Image:
    """``image``, brought upright from ``orientation``, with the resolutions across and down that it has then."""
    return image.copy(xres=image.yres, yres=image.xres) if 5 <= orientation <= 8 else image


def unsay_in_png(file: BinaryIO) -> None:
    """Turn the pHYs chunk of a PNG, open for reading and writing, into one of square pixels of no known size."""
    place = 8
    while place:
        file.seek(place)
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"pHYs":
            body = name + struct.pack(">IIB", 1, 1, 0)
            file.seek(place + 4)
            file.write(body + struct.pack(">I", zlib.crc32(body)))
        place = 0 if name in (b"pHYs", b"IDAT") else place + 12 + length


def say_in_jpeg(file: BinaryIO, across: float, down: float) -> None:
    """Put a JFIF header with this many pixels per mm at the start of a JPEG, open for reading and writing."""
    x, y = (min(max(round(25.4 * density), 1), 65535) for density in (across, down))
    header = b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF\0", 0x0102, 1, x, y, 0, 0)
    insert(file, 2, header)
