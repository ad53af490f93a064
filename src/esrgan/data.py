"""Training patches, cut from the store's pictures by (seed, step) alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esrgan.devices import layout
from esrgan.errors import EsrganError
from esrgan.jpeg import compressed_square
from esrgan.photo_store import Bytes, PhotoStore

Rows = NDArray[np.int64]


class Patches:
    """Augmented training patches of a store; what a step gets depends on (seed, step) and nothing else.

    Every position of every picture is equally likely, and so are the eight flips and transposes.

    Args:
        store: The pictures.
        patch: Side of the HR crop, a multiple of the scale.
        seed: Another seed, other patches.
        jpeg: Lowest and highest quality of the JPEG files that LR pictures come from, each patch's at random; none = LR
            as it is.
    """

    def __init__(self, store: PhotoStore, *, patch: int, seed: int, jpeg: tuple[int, ...] = ()) -> None:
        self.store, self.side, self.seed, self.jpeg = store, patch // store.scale, seed, jpeg
        positions = [(rows - self.side + 1) * (columns - self.side + 1) for rows, columns in store.shapes]
        self._ends = np.cumsum(positions)

    def __call__(self, step: int, count: int, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
        """The ``count`` patches of ``step``: LR (count, 3, h, w) and HR, uint8; of these only ``rows``, if given.

        In memory channels lie last.
        """
        random = np.random.default_rng((self.seed, step))
        picks = random.integers(0, self._ends[-1], count)
        turns = random.integers(0, 8, count)
        qualities = random.integers(self.jpeg[0], self.jpeg[1] + 1, count) if self.jpeg else np.zeros_like(turns)
        if rows is not None:
            picks, turns, qualities = picks[rows], turns[rows], qualities[rows]
        return self.cut(*self._places(picks), turns, qualities)

    def _places(self, picks: Rows) -> tuple[Rows, Rows, Rows]:
        """Numbers of positions -> pictures, and LR rows and columns in them where the patches begin."""
        pictures = np.searchsorted(self._ends, picks, side="right")
        widths = np.array([columns for _, columns in self.store.shapes])[pictures] - self.side + 1
        y, x = np.divmod(self._ends[pictures] - 1 - picks, widths)
        return pictures, y, x

    def cut(self, pictures: Rows, y: Rows, x: Rows, turns: Rows, qualities: Rows) -> tuple[Tensor, Tensor]:
        """Patches at LR positions ``y``, ``x`` of ``pictures``: LR and HR, (N, 3, h, w) uint8; quality 0 = no JPEG."""
        side, scale = self.side, self.store.scale
        lr = np.empty((len(turns), side, side, 3), np.uint8)
        hr = np.empty((len(turns), side * scale, side * scale, 3), np.uint8)
        places = zip(*(row.tolist() for row in (pictures, y, x, turns, qualities)), strict=True)
        for n, (i, top, left, turn, quality) in enumerate(places):
            small, large = self.store.picture(i)
            square = small[top : top + side, left : left + side]
            if quality:
                square = compressed_square(small, top, left, side, quality)
            _copy(turned(square, turn), lr[n])
            square = large[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
            _copy(turned(square, turn), hr[n])
        return torch.from_numpy(lr).permute(0, 3, 1, 2), torch.from_numpy(hr).permute(0, 3, 1, 2)

    def ahead(
        self, first: int, last: int, count: int, rows: Rows | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, lr, hr) for the steps ``first`` to ``last``, each cut by a thread while the one before is used."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self, first, count, rows)
            for step in range(first, last + 1):
                lr, hr = coming.result()
                if step < last:
                    coming = pool.submit(self, step + 1, count, rows)
                yield step, lr, hr

    def batches(
        self, first: int, last: int, count: int, device: torch.device, rows: Rows | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """As ``ahead``, as float [0, 1] on ``device``."""
        for step, lr, hr in self.ahead(first, last, count, rows):
            yield step, to_unit(lr, device), to_unit(hr, device)


def share_of_batch(batch: int, accumulate: int, rank: int, size: int) -> Rows:
    """Which of a step's patches process ``rank`` of ``size`` takes: its part of every forward pass, in order.

    Raises:
        EsrganError: The batch cannot be divided so.
    """
    if batch % size:
        raise EsrganError(f"batch is {batch}; {size} processes share it, so it must be a multiple of {size}")
    return np.arange(batch * accumulate).reshape(accumulate, size, -1)[:, rank].ravel()


def turned(image: Bytes, turn: int) -> Bytes:
    """One of the eight flips and transposes (0 to 7; 0 = as it is) of a square (rows, columns, 3) image."""
    image = image.transpose(1, 0, 2) if turn & 4 else image
    image = image[::-1] if turn & 2 else image
    return image[:, ::-1] if turn & 1 else image


def _copy(image: Bytes, to: Bytes) -> None:
    """Fill ``to``; where rows lie otherwise there, channel by channel: for all at once numpy takes 5 times as long."""
    if image.strides[1] == to.strides[1]:
        to[:] = image
        return
    for channel in range(3):
        to[..., channel] = image[..., channel]


def to_unit(image: Tensor, device: torch.device | str) -> Tensor:
    """uint8 0 to 255 -> float [0, 1] on ``device``, channels last in memory."""
    place = torch.device(device)
    pinned = place.type == "cuda" and image.device.type == "cpu"  # what is not would make the copy wait
    image = (image.pin_memory() if pinned else image).to(place, non_blocking=pinned)
    return image.contiguous(memory_format=layout(place)).float().div_(255)
