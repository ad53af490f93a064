"""Colours stay those of the picture: corrected where a network misses them, refused where the whole is off."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.upscaler import LARGEST_SHIFT, LEVEL

MOST, ROUNDS = 60 / 255, 10
"""Largest correction of a plain colour, and in how many rounds it is found."""
FASTER = 1.5
"""What a round takes away, times the excess averaged twice; from 2 on it would oscillate."""
DITHER = 6
"""Times the variance of neighbouring pixels: 1 or more in dithered black and white, about 0.01 in photos."""
LEAST_SHARE = 1 / 8
"""Least share of an area's pixels that is taken to follow a correction; black and white ones clip."""
CLEAR = 1e-3
"""What a transparent pixel counts, against 1 for an opaque one."""
RADIUS = 4
"""LR pixels around a pixel whose mean colour counts."""
STRIP = 1 << 19
"""Pixels of the larger picture that are worked on at once."""


class Balance:
    """The mean colour of what can be seen, before and after."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, 3, dtype=torch.float64)  # before, after; three colours
        self._seen = 0.0  # LR pixels, each by its opacity

    def add(self, lr: Tensor, sr: Tensor) -> None:
        """Count the kept part of a tile, (bands, h, w) each; both by the opacity of ``lr``."""
        (before, alpha), (after, _) = split(lr), split(sr)
        scale = sr.shape[-1] // lr.shape[-1]
        if alpha is None:
            sums = [before.sum((-2, -1)), after.sum((-2, -1)) / scale**2]
        else:
            sums = [(colour * alpha).sum((-2, -1)) for colour in (before, F.avg_pool2d(after[None], scale)[0])]
        self._sums += torch.stack(sums).cpu()  # in fp32: MPS has no float64
        self._seen += before[0].numel() if alpha is None else float(alpha.sum())

    def check(self) -> None:
        """Raise where the mean colour moved by more than two levels."""
        if not self._seen:
            return
        before, after = self._sums / self._seen
        shift = float((before - after).abs().max())
        if not shift <= LARGEST_SHIFT:
            raise EsrganError(
                f"the mean colour moved by {shift * 255:.1f} of 255 levels, also in fp32: not written;"
                " the model does not suit this picture"
            )


def split(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Colour (1 or 3 bands) and, of 2 or 4 bands, alpha."""
    return (image, None) if len(image) in (1, 3) else (image[:-1], image[-1:])


def hold_colours(lr: Tensor, sr: Tensor, scale: int, alpha: Tensor | None = None) -> Tensor:
    """Bring ``sr`` back where its colour left that of ``lr``, (N, 3, h, w), over an area; elsewhere leave it alone.

    Networks trained on photos miss saturated flat colours by up to 30 of 255 levels, noise by 20 and dithered greys by
    70: they have seen none. Where the mean over 9 x 9 LR pixels is off by more than one level, the excess is taken
    away, smoothly, so that no seam arises: at most ``MOST``, and the more above that the more the area is dither.
    A network that is off by more than that on the whole is broken, and stays so, to be refused.

    Args:
        lr: Picture, (N, 3, h, w) in [0, 1].
        sr: The same by the network, ``scale`` times larger; corrected in its place, and given back.
        scale: The network's.
        alpha: Opacity of ``lr``, (N, 1, h, w): how much each pixel counts; none = all alike.
    """
    around = _means(lr.new_ones(1, 1, *lr.shape[-2:]) if alpha is None else alpha.clamp(min=CLEAR))
    excess = _excess(around(lr - F.avg_pool2d(sr, scale)))
    if not excess.any():
        return sr
    fine = lr - F.avg_pool2d(lr, 3, stride=1, padding=1, count_include_pad=False)
    most = MOST + DITHER * around(fine.square()).amax(1, keepdim=True)  # dithered red may come out blue
    strips = [
        F.pixel_unshuffle(strip, scale).view(len(lr), 3, scale, scale, -1, lr.shape[-1]) for strip in _strips(sr, scale)
    ]
    can_rise = around(_cell_means(strip < 1 for strip in strips))
    can_fall = around(_cell_means(strip > 0 for strip in strips))
    total = torch.zeros_like(lr)
    for _ in range(ROUNDS):
        share = torch.where(excess > 0, can_rise, can_fall)  # of the pixels; the rest clip, so that the mean moves less
        step = around(excess / share.clamp(min=LEAST_SHARE))  # a mean of means, else it swings ever wider
        total = (total + FASTER * step).clamp(-most, most)
        excess = _excess(around(lr - _cell_means(_moved(strips, total))))
        if not excess.any():
            break
    for strip, moved in zip(_strips(sr, scale), _moved(strips, total), strict=True):
        strip.copy_(F.pixel_shuffle(moved.flatten(1, 3), scale))
    return sr


def _excess(off: Tensor) -> Tensor:
    """By how much the colour is off around each pixel, beyond what is left alone."""
    return off - off.clamp(-LEVEL, LEVEL)


def _means(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Takes the means over the pixels up to ``RADIUS`` away, of those there are, each counted by its ``weight``."""
    total = _window_sums(weight)
    return lambda image: _window_sums(image * weight).div_(total)


def _window_sums(image: Tensor) -> Tensor:
    """Sums over the pixels up to ``RADIUS`` away: of shifted pictures, as pooling is slow."""
    for dim, pad in ((-1, (RADIUS, RADIUS)), (-2, (0, 0, RADIUS, RADIUS))):
        padded, side = F.pad(image, pad), image.shape[dim]
        image = padded.narrow(dim, 0, side).clone()
        for start in range(1, 2 * RADIUS + 1):
            image += padded.narrow(dim, start, side)
    return image


def _strips(image: Tensor, scale: int) -> tuple[Tensor, ...]:
    """Some LR rows of an enlarged picture at a time: what is made of those fits the cache, and takes little memory.

    All of them on a GPU, where many short operations would take longer.
    """
    if image.device.type != "cpu":
        return (image,)
    rows = max(1, STRIP // (image.shape[-1] * scale))
    return torch.split(image, rows * scale, dim=2)


def _moved(strips: list[Tensor], by: Tensor) -> Iterator[Tensor]:
    """Each strip, (N, 3, scale, scale, rows, w), with its part of ``by`` added: (N, 3, h, w), bilinearly enlarged."""
    framed, top = F.pad(by, (1, 1, 1, 1), mode="replicate"), 0
    for strip in strips:
        scale, rows = strip.shape[-3:-1]
        part = framed.narrow(2, top, rows + 2)
        yield _between(_between(part, scale, -1), scale, -2).add_(strip).clamp_(0, 1)
        top += rows


def _cell_means(strips: Iterable[Tensor]) -> Tensor:
    """Means of the pixels that belong to one of LR, (N, 3, scale, scale, rows, w) of each strip -> (N, 3, h, w)."""
    return torch.cat([strip.float().mean((2, 3)) for strip in strips], 2)


def _between(image: Tensor, scale: int, dim: int) -> Tensor:
    """The inner part of ``image`` enlarged along ``dim`` by linear interpolation, the phases in a new dimension 2."""
    before, here, after = (image.narrow(dim, start, image.shape[dim] - 2) for start in range(3))
    places = [(i + 0.5) / scale - 0.5 for i in range(scale)]
    return torch.stack([torch.lerp(here, after if place > 0 else before, abs(place)) for place in places], 2)
