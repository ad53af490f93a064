"""What is known of a set of pictures after a look at each: sizes, flaws, small thumbnails, and which look alike."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from esrgan.cuts import Details, details
from esrgan.flaws import blocks, border, brightness, is_blocky, is_soft
from esrgan.photo_store import Bytes

FLAT = 2.0  # standard deviation, of 255, below which a patch holds nothing to learn from
SIDE = 16  # of thumbnails
TWINS = 0.985  # correlation of thumbnails above which two pictures are taken for one


@dataclass
class Census:
    """What is known of a set of pictures after a look at each."""

    names: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Files that a run decodes without, and why."""
    small: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    """Pictures of one colour."""
    bordered: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)
    blocky: list[str] = field(default_factory=list)
    grey: list[str] = field(default_factory=list)
    patches: int = 0
    flat_patches: int = 0
    thumbnails: list[NDArray[np.float32]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Pixels of each picture."""
    details: list[Details] = field(default_factory=list)
    """Of each picture, to find cuts of it; empty if nobody will."""

    def take(self, name: str, seen: "Look") -> None:
        """Take in one picture."""
        self.names.append(name)
        self.sizes.append(seen.rows * seen.columns)
        self.thumbnails.append(seen.thumbnail)
        if seen.details:
            self.details.append(seen.details)
        self.patches += seen.patches
        self.flat_patches += seen.flat_patches
        if seen.small:
            self.small.append(f"{name} ({seen.columns} x {seen.rows})")
        for kind in ("flat", "bordered", "soft", "blocky", "grey"):
            if getattr(seen, kind):
                getattr(self, kind).append(name)


class Look(NamedTuple):
    """What is seen of one picture; of one that is flat, nothing but that."""

    rows: int
    columns: int
    thumbnail: NDArray[np.float32]
    details: Details | None
    patches: int
    flat_patches: int
    small: bool
    flat: bool
    bordered: bool = False
    soft: bool = False
    blocky: bool = False
    grey: bool = False


def look(hr: Bytes, patch: int, *, cuts: bool = False) -> Look:
    """Look at one picture, (rows, columns, 3)."""
    rows, columns = hr.shape[:2]
    bright = brightness(hr)
    patches = blocks(bright, min(patch, rows, columns))
    seen = Look(
        rows=rows,
        columns=columns,
        thumbnail=_thumbnail(bright),
        details=details(bright) if cuts else None,
        patches=len(patches),
        flat_patches=int((patches.std(axis=(1, 2)) < FLAT).sum()),
        small=min(rows, columns) < patch,
        flat=bool(bright.std() < FLAT),
    )
    if seen.flat:
        return seen
    red, green, blue = np.moveaxis(hr.astype(np.int16), 2, 0)
    return seen._replace(
        bordered=border(bright) >= 8,
        soft=is_soft(bright),
        blocky=is_blocky(bright),
        grey=max(np.abs(red - green).max(), np.abs(green - blue).max(), np.abs(blue - red).max()) <= 2,
    )


def _thumbnail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIDE x SIDE means, their own mean and size taken out."""
    rows, columns = grey.shape
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(grey)[None], SIDE)[0].numpy()
    centred = small - small.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > FLAT * SIDE and min(rows, columns) > 1 else np.zeros_like(centred)


def twins(ones: Census, others: Census, *, same: bool) -> list[tuple[int, int]]:
    """(i, j) of pictures that look alike, mirrored and turned ones too; each i once."""
    if not ones.thumbnails or not others.thumbnails:
        return []
    table = np.stack(others.thumbnails).reshape(len(others.thumbnails), -1)
    found = []
    for i, thumbnail in enumerate(ones.thumbnails):
        turns = [np.rot90(t, k) for t in (thumbnail, thumbnail.T) for k in range(4)]
        likeness = (table @ np.stack(turns).reshape(8, -1).T).max(axis=1)
        if same:
            likeness[i:] = 0
        j = int(likeness.argmax())
        if likeness[j] > TWINS:
            found.append((i, j))
    return found
