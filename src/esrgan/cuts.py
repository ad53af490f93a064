"""Cuts of one picture within another, found by details that look the same wherever a picture is cut.

A detail is a blob, bright or dark, strongest among its neighbours; its look is the picture around it, sampled coarsely.
Two pictures show the same where several details look alike and lie in the same places to one another.
"""

from collections.abc import Callable, Sequence
from functools import reduce
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
    image = torch.from_numpy(np.ascontiguousarray(grey, dtype=np.float32))
    fine = _blurred(image, 5)
    blobs = (fine - _blurred(fine, 11)).abs()
    edge = REACH + 8  # what lies nearer to the edge looks otherwise where the picture goes on
    blobs[:edge], blobs[-edge:], blobs[:, :edge], blobs[:, -edge:] = 0, 0, 0, 0
    highest = _over(_over(blobs, 17, 0, torch.maximum), 17, 1, torch.maximum)
    places = ((blobs == highest) & (blobs > 1)).nonzero()
    order = blobs[places[:, 0], places[:, 1]].argsort(descending=True, stable=True)
    places = places[order[:MANY]]
    around = torch.arange(-REACH, REACH + 1, STEP)
    rows, columns = places[:, 0, None, None] + around[:, None], places[:, 1, None, None] + around
    looks = fine[rows, columns].flatten(1)
    looks = F.normalize(looks - looks.mean(1, keepdim=True), dim=1)
    return Details(places.numpy(), looks.half().numpy())


class Catalogue(NamedTuple):
    """The details of many pictures, one after the other."""

    looks: Tensor
    places: NDArray[np.int64]
    owner: NDArray[np.int64]
    """Which picture each is of."""


def catalogue(pictures: Sequence[Details]) -> Catalogue:
    """One table of all their details."""
    looks = torch.from_numpy(np.concatenate([picture.looks for picture in pictures]))
    owner = np.repeat(np.arange(len(pictures)), [len(picture.places) for picture in pictures])
    return Catalogue(looks, np.concatenate([picture.places for picture in pictures]), owner)


def find_cuts(grey: NDArray[np.float32], others: Catalogue) -> int | None:
    """Which of the others shows part of this picture, or is part of it, mirrored or turned too; none if none does."""
    looks, places, owner = others
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
    """Three times the mean over squares of ``side`` pixels, as far as there are any: nearly a Gaussian."""
    for dim in 3 * (0, 1):
        shape = (-1, 1) if dim == 0 else (1, -1)
        there = _over(torch.ones(image.shape[dim]), side, 0, torch.add).view(shape)
        image = _over(image, side, dim, torch.add) / there
    return image


def _over(image: Tensor, side: int, dim: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Sums or maxima over ``side`` pixels in a row, zeros beyond the edge; ten times as fast as torch's pooling."""
    half, length = side // 2, image.shape[dim]
    ends = [(half, half) if d == dim else (0, 0) for d in reversed(range(image.ndim))]
    padded = F.pad(image, [end for pair in ends for end in pair])
    return reduce(combine, (padded.narrow(dim, i, length) for i in range(side)))
