"""How many pixels make an inch: stated in a result where, and only where, the picture stated it.

libvips writes a resolution into every PNG and TIFF, 25.4 or 72 dpi where it knows none, and into a JPEG only with EXIF.
"""

import os
import struct
import zlib
from typing import BinaryIO

from esrgan.picture_vips import pyvips

ASSUMED = (1.0, 2.834, 72 / 25.4)
"""Pixels per mm that libvips takes where a file states none: most formats, PNG, JPEG."""
BLOCK = 1 << 20


def is_stated(image: pyvips.Image) -> bool:
    """Whether the file that ``image`` was read from said it."""
    known = any(image.get_typeof(name) for name in ("resolution-unit", "exif-ifd0-XResolution"))
    return known or image.xres not in ASSUMED


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
    end = file.seek(0, os.SEEK_END)
    while end > 2:  # from the end, to make room for it
        start = max(end - BLOCK, 2)
        file.seek(start)
        block = file.read(end - start)
        file.seek(start + len(header))
        file.write(block)
        end = start
    file.seek(2)
    file.write(header)
