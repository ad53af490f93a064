"""What the machine code of Winograd's convolutions is given: numbers in its order, weights as it multiplies them.

Winograd's F(4 x 4, 3 x 3): 36 products a channel give 16 pixels, where the sum over taps takes 144. A square is 4 x 4
pixels of a result y, and the 6 x 6 pixels x that they are made of by the weights w: y = A^T [G w G^T * B^T x B] A, the
product number by number, with

    B^T = 4  0 -5  0  1  0      G = 1/24  6  0  0      A^T = 1  1  1  1  1  0
          0 -4 -4  1  1  0               -4 -4 -4            0  1 -1  2 -2  0
          0  4 -4 -1  1  0               -4  4 -4            0  1  1  4  4  0
          0 -2 -1  2  1  0                1  2  4            0  1 -1  8 -8  1
          0  2 -1 -2  1  0                1 -2  4
          0  4  0 -5  0  1                0  0 24

The gradient of w is G^T [A dy A^T * B^T x B] G, summed over all squares; that of x is another convolution.

In the paper G w G^T is called U, B^T x B V, their product M, and a square's pixels a tile.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]
LANES = 8
"""Channels of a plane."""
SQUARE = 4
"""Side of the results of one square."""
POINTS = 36
"""Numbers of a transformed square."""
TOGETHER = 12
"""The most squares that are multiplied at once."""
OUTPUTS = 16
"""Output channels multiplied at once: a vector of AVX-512, two of AVX2."""
RESIDUAL = 0.2
"""What ``added_scaled`` is multiplied by."""
_G = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
_BOTH = torch.kron(_G, _G).float()
"""Of rows and columns: (36, 9)."""


class Job(NamedTuple):
    """One convolution: addresses in bytes, sizes and places in numbers, all int64. The machine code reads it so."""

    first: int
    """Address of the source's first planes."""
    first_channels: int
    second: int
    """Address of further planes of the source, as large."""
    second_channels: int
    source_row: int
    source_plane: int
    source_places: int
    """Address of an int64 for each square: where its first pixel lies in a plane."""
    twice: int
    """1: the source is enlarged twice by nearest neighbour as it is read."""
    weights: int
    bias: int
    outputs: int
    """A multiple of ``OUTPUTS``: channels that are computed."""
    target: int
    kept: int
    """A multiple of ``LANES``: channels that are written."""
    target_row: int
    target_plane: int
    target_places: int
    """As for the source; of the first result."""
    rows: int
    """Address of an int64 for each square: how many rows of results it has."""
    columns: int
    slope: int
    """Address of a float32: by what results below zero are multiplied."""
    signs: int
    """Address of planes like the target's: where these are not above zero, results are multiplied; 0 = their own."""
    squares: int
    share: int
    """Squares that a thread takes at once, a multiple of ``block``; 0 = as ``Threads`` finds best."""
    block: int
    """Squares from one transform to the next, a multiple of ``TOGETHER``."""
    added: int
    """Address of planes like the target's, added to the result; or 0."""
    added_scaled: int
    """The same, ``RESIDUAL`` times."""


class GradientJob(NamedTuple):
    """The gradient of one convolution's weights, or of several that read the same sources; as ``Job`` is."""

    first: int
    """What the convolutions read, as in ``Job``."""
    first_channels: int
    second: int
    second_channels: int
    source_row: int
    source_plane: int
    source_places: int
    gradient_first: int
    """Address of the gradient of their results: planes as large as theirs."""
    gradient_first_channels: int
    gradient_second: int
    """Address of further planes of it."""
    gradient_second_channels: int
    gradient_row: int
    gradient_plane: int
    gradient_places: int
    outputs: int
    """Channels of it, rounded up to a multiple of ``OUTPUTS``."""
    needed: int
    """Address of an int64 for each ``OUTPUTS`` channels: how many of the sources' channels they were made of."""
    sums: int
    """Address of the result, for each share of the squares its own: (36, outputs / 16, inputs, 16)."""
    squares: int
    share: int
    block: int
    """Squares between two transforms."""


AnyJob = Job | GradientJob


def whole(channels: int, of: int = LANES) -> int:
    """``channels``, and as many more as a whole number of planes has."""
    return -(-channels // of) * of


def transformed(weight: Tensor) -> Tensor:
    """Weights (out, in, 3, 3), of whole planes, as the products take them: (36, out / 16, in, 16), float32."""
    outputs, inputs = weight.shape[:2]
    taps = weight.reshape(outputs // OUTPUTS, OUTPUTS, inputs, 9).permute(3, 0, 2, 1).reshape(9, -1)
    return (_BOTH @ taps).view(POINTS, outputs // OUTPUTS, inputs, OUTPUTS)


def weight_gradient(sums: Tensor) -> Tensor:
    """What ``GradientJob`` sums, (36, out / 16, in, 16), as the gradient of the weights, (out, in, 3, 3)."""
    blocks, inputs = sums.shape[1:3]
    taps = _BOTH.T @ sums.view(POINTS, -1)
    return taps.view(9, blocks, inputs, OUTPUTS).permute(1, 3, 2, 0).reshape(-1, inputs, 3, 3)
