"""Training patches gathered on the device that trains, from decoded pictures that lie there."""

import numpy as np
import torch
from torch import Tensor

from esrgan.data import Patches, Rows
from esrgan.photo_store import PhotoStore

SHARE = 0.25
"""Of the free GPU memory, that decoded pictures may take; the rest is for the networks."""


class DevicePatches(Patches):
    """The same patches as ``Patches`` cuts for every (seed, step), as one gather on ``device``, in channels last.

    Args:
        store: The pictures; all of them are copied to the device.
        patch: Side of the HR crop, a multiple of the scale.
        seed: Another seed, other patches.
        device: Where the pictures lie and the patches are made.
    """

    def __init__(self, store: PhotoStore, *, patch: int, seed: int, device: torch.device) -> None:
        super().__init__(store, patch=patch, seed=seed)
        self.device = device
        self._lr, self._hr = store.on(device)
        self._first = np.cumsum([0] + [rows * columns for rows, columns in store.shapes])  # LR pixel of each picture
        self._width = np.array([columns for _, columns in store.shapes])

    def cut(self, pictures: Rows, y: Rows, x: Rows, turns: Rows, qualities: Rows) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """As in ``Patches``, on the device; without JPEG."""
        table = np.stack((self._first[pictures], self._width[pictures], y, x, turns))
        first, width, top, left, turn = torch.from_numpy(table).to(self.device, non_blocking=True)
        s = self.store.scale
        lr = gathered(self._lr, first, width, top, left, turn, side=self.side)
        hr = gathered(self._hr, first * s * s, width * s, top * s, left * s, turn, side=self.side * s)
        return lr, hr


def gathered(
    pixels: Tensor, first: Tensor, width: Tensor, top: Tensor, left: Tensor, turn: Tensor, *, side: int
) -> Tensor:
    """Squares of ``side`` pixels out of pictures that lie one after the other, turned as ``data.turned`` does it.

    Args:
        pixels: All pictures, (pixels, 3).
        first: Of each square's picture, the number of its first pixel, (N,).
        width: Of each square's picture.
        top: Row where the square begins.
        left: Column where the square begins.
        turn: Which of the eight flips and transposes.
        side: Of the squares.

    Returns:
        (N, 3, side, side), channels last in memory.
    """
    ahead = torch.arange(side, device=pixels.device)
    back = side - 1 - ahead
    turn = turn[:, None]
    row = torch.where(turn & 2 > 0, back, ahead)[:, :, None]  # of the square before its flips, (N, side, 1)
    column = torch.where(turn & 1 > 0, back, ahead)[:, None, :]
    across = turn[:, :, None] & 4 > 0  # transposed: rows and columns change places
    y, x = torch.where(across, column, row), torch.where(across, row, column)
    first, width, top, left = (numbers[:, None, None] for numbers in (first, width, top, left))
    return pixels[first + (top + y) * width + left + x].permute(0, 3, 1, 2)


def patches_for(
    store: PhotoStore, *, patch: int, seed: int, device: torch.device, jpeg: tuple[int, ...] = ()
) -> Patches:
    """Patches gathered on a GPU where the store fits there, else cut by the CPU; the same ones either way.

    Those that go through JPEG are cut by the CPU.
    """
    if device.type == "cuda" and not jpeg:
        free, _ = torch.cuda.mem_get_info(device)
        if store.bytes <= SHARE * free:
            return DevicePatches(store, patch=patch, seed=seed, device=device)
    return Patches(store, patch=patch, seed=seed, jpeg=jpeg)
