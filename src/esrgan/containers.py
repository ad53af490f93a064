"""What libvips does not tell of a picture file, read from the file's own structure."""

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_FTYP = {"avif": "avif", "avis": "avif", "heic": "heic", "heix": "heic", "heim": "heic", "hevc": "heic", "mif1": "heic"}
_MOST_TEXT = 16 << 20  # bytes
_MOST_BOXES = 1 << 16  # bytes of an AVIF, in which what it says of its colours stands
_LIKE_SRGB = (1, 2, 5, 6), (1, 2, 6, 13)  # primaries and transfers of H.273: BT.709, unsaid, BT.601, sRGB
_BESIDE = {
    b"hdrgm:Version": "HDR gain map not kept",
    b"urn:iso:std:iso:ts:21496:-1\0": "HDR gain map not kept",
    b'Camera:MotionPhoto="1"': "video of the motion photo not kept",
    b'Camera:MicroVideo="1"': "video of the motion photo not kept",
    b"http://ns.adobe.com/xmp/extension/\0": "XMP not kept beyond its first 64 kB",
}  # what application segments of a JPEG hold
BLOCK = 1 << 20
"""Bytes moved at a time."""
_BMP_HEADERS = [size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)]


def sniff(head: bytes) -> str | None:
    """The format that a file's first 32 bytes show: png, jpeg, webp, tiff, gif, bmp, avif, heic, jxl, jp2 or none."""
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
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "bmp"
    if head[4:8] != b"ftyp":
        return None
    brands = [head[i : i + 4].decode("latin-1") for i in (8, *range(16, len(head) - 3, 4))]  # the major one, the others
    known = [_FTYP[brand] for brand in brands if brand in _FTYP]
    return "avif" if brands[0] in ("mif1", "miaf") and "avif" in known else next(iter(known), None)


def jpeg_notes(file: BinaryIO) -> tuple[str, ...]:
    """What a JPEG says before its pixels that it has and a result will not, in words."""
    notes: dict[str, None] = {}
    several = False  # by the multi-picture format, which gain maps use too
    for marker, _, length in _segments(file):
        if marker in (0xE1, 0xE2):
            body = file.read(length)
            notes |= dict.fromkeys(note for mark, note in _BESIDE.items() if mark in body)
            several = several or (marker == 0xE2 and body.startswith(b"MPF\0"))
    return tuple(notes) or (("only the first of several pictures in the file",) if several else ())


def jpeg_mended(file: BinaryIO) -> bytes | None:
    """A JPEG with the numbers that the standard asks for, where it has others that nobody needs; else none.

    libjpeg warns of them, as of damage: of another version of JFIF than 1, and, in a baseline scan's header, of what
    cameras of many phones write, 0 where 63 belongs.
    """
    baseline, mends = False, {}
    for marker, place, length in _segments(file):
        baseline = baseline or marker in (0xC0, 0xC1)
        if marker == 0xE0 and (start := file.read(6))[:5] == b"JFIF\0" and start[5:] != b"\1":
            mends[place + 5] = b"\1"
        if marker == 0xDA and baseline and length >= 6:
            file.seek(place + length - 3)
            if file.read(3) != b"\0\x3f\0":
                mends[place + length - 3] = b"\0\x3f\0"
    if not mends:
        return None
    file.seek(0)
    data = bytearray(file.read())
    for place, right in mends.items():
        data[place : place + len(right)] = right
    return bytes(data)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Of a JPEG, up to its pixels: marker, place and length of each segment, with the file at that place."""
    file.seek(2)
    marker = 0
    while marker != 0xDA and file.read(1) == b"\xff":
        while (byte := file.read(1)) == b"\xff":  # which may fill up any place before a marker
            pass
        size = file.read(2)
        if len(size) < 2:
            return
        marker, place, length = byte[0], file.tell(), max(0, int.from_bytes(size, "big") - 2)
        yield marker, place, length
        file.seek(place + length)


def avif_notes(file: BinaryIO) -> tuple[str, ...]:
    """What an AVIF or HEIC says that a result will not, in words."""
    file.seek(0)
    head = file.read(_MOST_BOXES)
    notes = ["only the first frame, as libvips does not read animated AVIF"] if head[8:12] == b"avis" else []
    start = head.find(b"colrnclx") + 8
    primaries, transfer = (int.from_bytes(head[start + i : start + i + 2], "big") for i in (0, 2))
    if start > 8 and b"colrprof" not in head and (primaries not in _LIKE_SRGB[0] or transfer not in _LIKE_SRGB[1]):
        notes.append("the values are kept, but not the statement (nclx) of what colours they are")
    return tuple(notes)


def is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the first frame of a WebP is coded without loss."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        if header[:4] in (b"VP8 ", b"VP8L"):
            return header[:4] == b"VP8L"
        length = int.from_bytes(header[4:], "little")
        file.seek(16 if header[:4] == b"ANMF" else length + length % 2, os.SEEK_CUR)  # a frame holds chunks too
    return False


def insert(file: BinaryIO, place: int, data: bytes) -> None:
    """Put ``data`` into a file, open for reading and writing, before its byte number ``place``."""
    end = file.seek(0, os.SEEK_END)
    while end > place:  # from the end, to make room for it
        start = max(end - BLOCK, place)
        file.seek(start)
        block = file.read(end - start)
        file.seek(start + len(data))
        file.write(block)
        end = start
    file.seek(place)
    file.write(data)


def chunks_before_pixels(file: BinaryIO) -> dict[bytes, bytes]:
    """Each kind of chunk before a PNG's pixels, and the first 32 bytes of its content."""
    found = {}
    file.seek(8)
    while len(header := file.read(8)) == 8 and header[4:] != b"IDAT":
        place, length = file.tell(), int.from_bytes(header[:4], "big")
        found[header[4:]] = file.read(min(32, length))
        file.seek(place + length + 4)
    return found


def png_texts(file: BinaryIO) -> bytes:
    """The chunks of text in a PNG (comments, prompts), whole; XMP, which libvips reads, left out, damaged ones too."""
    found = b""
    file.seek(8)
    while len(header := file.read(8)) == 8 and header[4:] != b"IEND" and len(found) < _MOST_TEXT:
        length = int.from_bytes(header[:4], "big")
        if header[4:] not in (b"tEXt", b"zTXt", b"iTXt") or length > _MOST_TEXT:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        body = file.read(length + 4)
        whole = zlib.crc32(header[4:] + body[:length]) == int.from_bytes(body[length:], "big")
        if whole and not body.startswith(b"XML:com.adobe.xmp\0"):
            found += header + body
    return found


def is_whole_gif(file: BinaryIO) -> bool:
    """Whether a GIF goes on to its trailer; libvips shows one cut between two frames as if it were shorter."""
    file.seek(10)
    file.seek(2 + _table(file.read(1)), os.SEEK_CUR)
    while block := file.read(1):
        if block == b";":
            return True
        if block == b",":  # a frame: place, local colours, code size
            place = file.read(9)
            file.seek(_table(place[8:]) + 1, os.SEEK_CUR)
        elif block == b"!":
            file.seek(1, os.SEEK_CUR)
        elif block != b"\0":
            return False
        else:
            continue
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)
    return False


def _table(flags: bytes) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0
