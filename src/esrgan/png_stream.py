"""Writing PNG to a pipe as its rows come."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHANNELS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG colour type


def png_stream(rows: Iterable[NDArray[Any]], size: tuple[int, int, int], bits: int) -> Iterator[bytes]:
    """Rows as an uncompressed PNG: the one container that libvips reads from a pipe in 8 and 16 bits.

    Args:
        rows: From the top, in bands: (n, W, channels), uint8 or uint16.
        size: Rows, columns and channels of the picture; 1: grey, 2: with alpha, 3: RGB, 4: with alpha.
        bits: 8 or 16, as ``rows`` have them.
    """
    kind = struct.pack(">IIBBBBB", size[1], size[0], bits, _CHANNELS[size[2]], 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", kind)
    deflate = zlib.compressobj(level=0)
    for band in rows:
        data = band.astype(">u2" if bits == 16 else np.uint8, copy=False).reshape(len(band), -1)
        data = np.ascontiguousarray(data).view(np.uint8)
        for part in np.array_split(data, max(1, data.size >> 22)):  # 4 MB at a time
            filtered = np.zeros((len(part), 1 + part.shape[1]), np.uint8)  # each row begins with its filter: none
            filtered[:, 1:] = part
            yield chunk(b"IDAT", deflate.compress(filtered.tobytes()))
        del band, data, part, filtered  # before the next band is made
    yield chunk(b"IDAT", deflate.flush()) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
