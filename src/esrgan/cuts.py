"""Cuts of one picture within another, found by details that look the same wherever a picture is cut.

A detail is a blob, bright or dark, strongest among its neighbours; its look is the picture around it, sampled coarsely.
Two pictures show the same where several details look alike and lie in the same places to one another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MANY, FEW = 160, 48  # details kept of a picture, and looked for of it in others
ALIKE = 0.98  # correlation of looks
AGREE = 4  # details that must lie in the same places to one another
REACH, STEP = 20, 5  # pixels from a detail's middle that its look spans, and between samples


class Details(NamedTuple):
    """The strongest details of a picture."""

    places: NDArray[np.int64]
    """(n, 2): row and column."""
    looks: NDArray[np.float16]
    """(n, samples), of mean 0 and length 1."""


def details(grey: NDArray[np.float32]) -> Details:
    """The details of a picture, (rows, columns), the strongest first."""
    samples = 2 * REACH // STEP + 1
    if min(grey.shape) < 3 * REACH:
        return Details(np.zeros((0, 2), np.int64), np.zeros((0, samples**2), np.float16))
    image = torch.from_numpy(np.ascontiguousarray(grey, dtype=np.float32))[None, None]
    fine = _blurred(image, 5)
    blobs = (fine - _blurred(fine, 11)).abs()
    edge = REACH + 8  # what lies nearer to the edge looks otherwise where the picture goes on
    blobs[..., :edge, :], blobs[..., -edge:, :], blobs[..., :edge], blobs[..., -edge:] = 0, 0, 0, 0
    highest = F.max_pool2d(F.max_pool2d(blobs, (1, 17), stride=1, padding=(0, 8)), (17, 1), stride=1, padding=(8, 0))
    strongest = (blobs == highest) & (blobs > 1)
    places = strongest[0, 0].nonzero()
    order = blobs[0, 0][places[:, 0], places[:, 1]].argsort(descending=True, stable=True)
    places = places[order[:MANY]]
    around = torch.arange(-REACH, REACH + 1, STEP)
    rows, columns = places[:, 0, None, None] + around[:, None], places[:, 1, None, None] + around
    looks = fine[0, 0][rows, columns].flatten(1)
    looks = F.normalize(looks - looks.mean(1, keepdim=True), dim=1)
    return Details(places.numpy(), looks.half().numpy())


def find_cuts(grey: NDArray[np.float32], others: Sequence[Details]) -> int | None:
    """Which of the others shows part of this picture, or is part of it, mirrored or turned too; none if none does."""
    looks = torch.from_numpy(np.concatenate([other.looks for other in others]))
    places = np.concatenate([other.places for other in others])
    owner = np.repeat(np.arange(len(others)), [len(other.places) for other in others])
    for turn in range(8):
        flipped = np.rot90(grey.T if turn & 4 else grey, turn & 3)
        mine = details(flipped)
        here = torch.from_numpy(mine.looks[:FEW]).float()
        for start in range(0, len(looks), 1 << 16):
            i, j = (here @ looks[start : start + (1 << 16)].float().T > ALIKE).nonzero().numpy().T
            j += start
            moves = (places[j] - mine.places[i]) // 4
            votes, counts = np.unique(np.column_stack((owner[j], moves)), axis=0, return_counts=True)
            if len(counts) and counts.max() >= AGREE:
                return int(votes[counts.argmax(), 0])
    return None


def _blurred(image: Tensor, side: int) -> Tensor:
    """Three times the mean over squares of ``side`` pixels: nearly a Gaussian, and quick."""
    half = side // 2
    for _ in range(3):
        for kernel, padding in (((1, side), (0, half)), ((side, 1), (half, 0))):
            image = F.avg_pool2d(image, kernel, stride=1, padding=padding, count_include_pad=False)
    return image
