"""The descriptive tags of TIFF files, which libvips neither reads nor writes: camera, dates, place, author.

An EXIF block is a small TIFF file itself, so the tags travel between the two. Source: TIFF 6.0, section 2; the BigTIFF
and EXIF 2.32 specifications.
"""

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

EXIF, GPS = 34665, 34853  # tags that point to directories
DESCRIPTIVE = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 40091, 40092, 40093, 40094, 40095})
"""Document, description, make, model, page, software, date, artist, computer, copyright, and Windows' own five."""
DROPPED = frozenset({40960 + 2, 40960 + 3, 40965})  # width and height before, and a pointer we do not follow
COLOURS, BITS, COMPRESSION = 262, 258, 259
SUBFILE, DNG_VERSION = 254, 50706
EXTRA = 338
"""ExtraSamples: of each sample beyond the colours, 0 = anything, 1 and 2 = opacity."""
BESIDE = {
    frozenset({33550, 33922, 34264, 34735, 34736, 34737}): "place on the map (GeoTIFF) not kept",
    frozenset({37724}): "Photoshop's layers not kept",
}
RGB, YCBCR = 2, 6  # of COLOURS, which the standard calls PhotometricInterpretation
JPEGS = (6, 7)  # compressions whose decoders make RGB of YCbCr
RESOLUTION = frozenset({282, 283, 296})  # pixels per unit, across and down, and the unit
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
UNITS = {3: 2, 8: 2, 4: 4, 9: 4, 5: 4, 10: 4, 11: 4, 13: 4, 12: 8, 16: 8, 17: 8, 18: 8}  # what has a byte order
MOST_BYTES = 1 << 20  # of one tag
UNREADABLE = (ValueError, struct.error, OSError, OverflowError)  # what odd offsets and counts lead to

Tags = dict[int, tuple[int, int, bytes]]
"""Tag -> type, count, value in little-endian bytes."""


@dataclass(frozen=True)
class Layout:
    """How a TIFF file writes its numbers, and how many bytes what has."""

    order: str
    big: bool

    @property
    def start(self) -> int:
        """Where the place of the first directory stands."""
        return 8 if self.big else 4

    @property
    def offset(self) -> str:
        """The code of an offset, and of an entry's count."""
        return "Q" if self.big else "I"

    @property
    def room(self) -> int:
        """Bytes of an offset, and of a value that stands in its entry."""
        return struct.calcsize(self.offset)

    @property
    def length(self) -> str:
        """The code of a directory's number of entries, with which it begins."""
        return "Q" if self.big else "H"

    @property
    def head(self) -> int:
        """Bytes of that number."""
        return struct.calcsize(self.length)

    @property
    def entry(self) -> int:
        """Bytes of an entry: tag and type, of two each, count and value."""
        return 4 + 2 * self.room

    @classmethod
    def of(cls, head: bytes) -> "Layout":
        """From the first four bytes; raises ``ValueError`` where they are not a TIFF's."""
        known = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
        if head not in known:
            raise ValueError("no TIFF")
        return cls(*known[head])

    def take(self, file: BinaryIO, code: str) -> int:
        """One number of the file."""
        size = struct.calcsize(f"{self.order}{code}")
        (number,) = struct.unpack(f"{self.order}{code}", file.read(size))
        return int(number)

    def first(self, file: BinaryIO) -> int:
        """Where the first directory is."""
        file.seek(self.start)
        return self.take(file, self.offset)

    def entries(self, file: BinaryIO, place: int) -> Iterator[tuple[int, int, int, int]]:
        """Tag, type, count and the place of the value field, of each entry of the directory at ``place``."""
        file.seek(place)
        count = self.take(file, self.length)
        for i in range(min(count, 4096)):
            file.seek(place + self.head + i * self.entry)
            tag, kind, number = self.take(file, "H"), self.take(file, "H"), self.take(file, self.offset)
            yield tag, kind, number, file.tell()

    def raw(self, file: BinaryIO, place: int) -> tuple[list[tuple[int, bytes]], int]:
        """Tag and bytes of each entry of the directory at ``place``, and the place of the one after it, or 0."""
        found = []
        for tag, *_, field in list(self.entries(file, place)):
            file.seek(field - (self.entry - self.room))
            found.append((tag, file.read(self.entry)))
        file.seek(place + self.head + self.entry * len(found))
        return found, self.take(file, self.offset)

    def tags(self, file: BinaryIO, place: int) -> Tags:
        """The directory at ``place``, values and all, but for those of unknown type or absurd size."""
        found = {}
        for tag, kind, count, field in list(self.entries(file, place)):
            length = SIZES.get(kind, 0) * count
            if not 0 < length <= MOST_BYTES:
                continue
            file.seek(field)
            if length > self.room:
                file.seek(self.take(file, self.offset))
            value = file.read(length)
            if len(value) == length:
                found[tag] = (kind, count, value if self.order == "<" else _swapped(value, UNITS.get(kind, 1)))
        return found


def _swapped(value: bytes, unit: int) -> bytes:
    return b"".join(value[i : i + unit][::-1] for i in range(0, len(value), unit))


def read_tags(file: BinaryIO) -> tuple[Tags, Tags, Tags]:
    """The descriptive tags of a TIFF file or EXIF block, those of its EXIF and of its GPS directory.

    What cannot be read counts as not there: it is no part of the picture.
    """
    try:
        file.seek(0)
        layout = Layout.of(file.read(4))
        first = layout.tags(file, layout.first(file))
        inner = [
            layout.tags(file, int.from_bytes(first[tag][2], "little")) if tag in first else {} for tag in (EXIF, GPS)
        ]
    except UNREADABLE:
        return {}, {}, {}
    main = {tag: value for tag, value in first.items() if tag in DESCRIPTIVE}
    return main, {tag: value for tag, value in inner[0].items() if tag not in DROPPED}, inner[1]


def as_exif(file: BinaryIO) -> bytes | None:
    """The descriptive tags of a TIFF file as an EXIF block, or none where it has none."""
    main, exif, gps = read_tags(file)
    if not (main or exif or gps):
        return None
    out = io.BytesIO(b"II*\0" + bytes(4))
    place = _append(out, Layout("<", big=False), main, exif, gps, [])
    out.seek(4)
    out.write(struct.pack("<I", place))
    return b"Exif\0\0" + out.getvalue()


def add_exif(file: BinaryIO, exif: bytes, more: Tags | None = None) -> None:
    """Give a finished TIFF file the descriptive tags of an EXIF block: its first directory is written anew at the end.

    Args:
        file: Open for reading and writing, little-endian as libvips writes it.
        exif: With or without the word Exif in front; or nothing.
        more: Further tags of the first directory.
    """
    main, details, gps = read_tags(io.BytesIO(exif.removeprefix(b"Exif\0\0")))
    main |= more or {}
    if not (main or details or gps):
        return
    file.seek(0)
    layout = Layout.of(file.read(4))
    first = layout.first(file)
    old, following = layout.raw(file, first)
    place = _append(file, layout, main, details, gps, old, following)
    file.seek(layout.start)
    file.write(struct.pack(f"<{layout.offset}", place))


def remove_tags(file: BinaryIO, tags: frozenset[int]) -> None:
    """Take ``tags`` out of every directory of a finished TIFF file, open for reading and writing, in their place."""
    file.seek(0)
    layout = Layout.of(file.read(4))
    place = layout.first(file)
    while place:
        entries, following = layout.raw(file, place)
        kept = [entry for tag, entry in entries if tag not in tags]
        file.seek(place)
        file.write(struct.pack(f"{layout.order}{layout.length}", len(kept)) + b"".join(kept))
        file.write(struct.pack(f"{layout.order}{layout.offset}", following))
        place = following


def _append(
    file: BinaryIO, layout: Layout, main: Tags, exif: Tags, gps: Tags, old: list[tuple[int, bytes]], following: int = 0
) -> int:
    """Write directories at the end of ``file``; gives the place of the first one."""
    tags = dict(main)
    for tag, inner in ((EXIF, exif), (GPS, gps)):
        if inner:
            place = _write(file, layout, [(number, _entry(file, layout, number, inner[number])) for number in inner], 0)
            tags[tag] = (18, 1, struct.pack("<Q", place)) if layout.big else (4, 1, struct.pack("<I", place))
    taken = {tag for tag, _ in old}
    entries = [(tag, _entry(file, layout, tag, tags[tag])) for tag in tags if tag not in taken]
    return _write(file, layout, old + entries, following)


def _entry(file: BinaryIO, layout: Layout, tag: int, value: tuple[int, int, bytes]) -> bytes:
    """A directory's entry; a value too long for it goes to the end of the file."""
    kind, count, data = value
    if len(data) > layout.room:
        data = struct.pack(f"<{layout.offset}", _to_end(file, data))
    return struct.pack(f"<HH{layout.offset}", tag, kind, count) + data.ljust(layout.room, b"\0")


def _write(file: BinaryIO, layout: Layout, entries: list[tuple[int, bytes]], following: int) -> int:
    body = b"".join(entry for _, entry in sorted(entries))
    count = struct.pack(f"<{layout.length}", len(entries))
    return _to_end(file, count + body + struct.pack(f"<{layout.offset}", following))


def _to_end(file: BinaryIO, data: bytes) -> int:
    end = file.seek(0, os.SEEK_END)
    file.write(b"\0" * (end % 2) + data)  # at an even place
    return end + end % 2


def masks(tags: Tags) -> int:
    """How many samples a TIFF file has after its colours that are not opacity, by its own statement."""
    kinds = tags.get(EXTRA, (3, 0, b""))[2]
    return 0 if kinds[:2] != bytes(2) else len(kinds) // 2


def tiff_notes(tags: Tags) -> tuple[str, ...]:
    """What a TIFF file has that a result will not, in words."""
    notes = ["channel beyond the colours not kept, as it is not opacity"] if masks(tags) else []
    return (*notes, *(note for marks, note in BESIDE.items() if marks & tags.keys()))


def is_raw(file: BinaryIO, tags: Tags) -> bool:
    """Whether a TIFF file is a camera's raw one, or begins with a reduced copy of its picture, as most of these do."""
    file.seek(8)
    reduced = bool(int.from_bytes(tags[SUBFILE][2], "little") & 1) if SUBFILE in tags else False
    return reduced or DNG_VERSION in tags or file.read(2) == b"CR"  # Canon's mark


def is_plain_ycbcr(tags: Tags) -> bool:
    """Whether a TIFF file holds YCbCr outside JPEG, which libvips takes for RGB."""
    kind, compression = (int.from_bytes(tags[tag][2], "little") if tag in tags else 0 for tag in (COLOURS, COMPRESSION))
    return kind == YCBCR and compression not in JPEGS


def lab_field(file: BinaryIO, tags: Tags) -> tuple[int, bytes] | None:
    """Where an 8-bit CIELAB TIFF says that it is one, and the bytes that would call it RGB; none for any other file."""
    if any(tag not in tags or tags[tag][2][:2] != struct.pack("<H", 8) for tag in (COLOURS, BITS)):  # 8 is CIELAB too
        return None
    file.seek(0)
    layout = Layout.of(file.read(4))
    fields = {tag: field for tag, *_, field in layout.entries(file, layout.first(file))}
    return fields[COLOURS], struct.pack(f"{layout.order}H", RGB)


def first_tags(file: BinaryIO) -> Tags:
    """All tags of a TIFF file's first directory; none where it cannot be read."""
    try:
        file.seek(0)
        layout = Layout.of(file.read(4))
        return layout.tags(file, layout.first(file))
    except UNREADABLE:
        return {}
