"""Cutting pictures into tiles and putting the enlarged tiles together.

The law: each tile is read with ``overlap`` extra pixels on every side that has them; what those pixels produced is
thrown away. With ``overlap`` at least the network's receptive radius the result equals ``run(image)``.
"""

from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

from torch import Tensor

from esrgan.errors import UsageError

STEP = 4
"""Tiles begin at multiples of this, so that networks which unshuffle pixels (x1, x2) see them in one phase."""


class Span(NamedTuple):
    """One tile along one side, in input pixels: ``start`` to ``stop`` is kept of what is read."""

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def read(self) -> slice:
        """What the network is given."""
        return slice(self.read_start, self.read_stop)

    def kept(self, scale: int) -> slice:
        """Where the part to keep lies in the enlarged tile."""
        return slice((self.start - self.read_start) * scale, (self.stop - self.read_start) * scale)

    def placed(self, scale: int) -> slice:
        """Where that part goes in the enlarged picture."""
        return slice(self.start * scale, self.stop * scale)


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Divide ``length`` pixels into nearly equal tiles that read about ``tile`` pixels each, overlap included.

    Raises:
        UsageError: The overlap leaves nothing of the tile.
    """
    if overlap < 0:
        raise UsageError(f"the overlap is {overlap}; it must be 0 or more")
    overlap += -overlap % STEP
    kept = (tile - 2 * overlap) // STEP  # in steps, like the next two
    if kept < 1:
        raise UsageError(
            f"a tile of {tile} pixels is too small for an overlap of {overlap}; it must be {2 * overlap + STEP} or more"
        )
    if length <= tile:
        return [Span(0, length, 0, length)]
    steps = -(-length // STEP)
    count = -(-steps // kept)
    cuts = [i * steps // count * STEP for i in range(count)] + [length]
    return [Span(start, stop, max(start - overlap, 0), min(stop + overlap, length)) for start, stop in pairwise(cuts)]


def tiled(run: Callable[[Tensor], Tensor], image: Tensor, *, scale: int, tile: int, overlap: int) -> Tensor:
    """``run`` over the tiles of ``image``, (N, C, H, W) -> (N, C, scale * H, scale * W), on the device of the image."""
    height, width = image.shape[-2:]
    if max(height, width) <= tile:
        return run(image).to(image.device)
    out = image.new_empty(*image.shape[:-2], height * scale, width * scale)
    for rows, columns in product(spans(height, tile, overlap), spans(width, tile, overlap)):
        sr = run(image[..., rows.read, columns.read])
        out[..., rows.placed(scale), columns.placed(scale)] = sr[..., rows.kept(scale), columns.kept(scale)]
    return out
