"""IPTC records: bare, as TIFF files keep them, and in a Photoshop resource block, as JPEG files do."""

import struct

HEAD = b"Photoshop 3.0\0"
RESOURCE = b"8BIM\x04\x04"
TIFF_TAG = 33723


def bare(block: bytes) -> bytes:
    """The records in a block of either kind; nothing where there are none."""
    if not block.startswith(HEAD):
        return block if block.startswith(b"\x1c") else b""
    place = block.find(RESOURCE)
    try:
        start = place + 6 + (block[place + 6] + 2) // 2 * 2  # after a name of even length, its own length before it
        (length,) = struct.unpack_from(">I", block, start)
    except (struct.error, IndexError):
        return b""
    return block[start + 4 : start + 4 + length] if place >= 0 else b""


def wrapped(block: bytes) -> bytes:
    """The block as a JPEG file wants it."""
    if block.startswith(HEAD):
        return block
    records = bare(block)
    return HEAD + RESOURCE + b"\0\0" + struct.pack(">I", len(records)) + records + b"\0" * (len(records) % 2)
