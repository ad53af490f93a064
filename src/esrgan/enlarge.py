"""Pixels in, more pixels out, a band of rows at a time: grey, colour, transparency, any size, the result checked.

Memory holds a band of rows, never the picture.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from esrgan.colour_guard import Balance, hold_colours, split
from esrgan.resize import resize, taps
from esrgan.tiling import Span, spans
from esrgan.upscaler import Upscaler

Transparency = Literal["network", "bicubic"]
Rows = NDArray[Any]
"""(rows, W, bands) of uint8, uint16, or float32 in [0, 1]; bands: grey, grey + alpha, RGB, RGB + alpha."""

FILL = 8  # LR pixels that colours spread into what is transparent
BAND = 32 << 20  # bytes of enlarged rows made at a time
FLATTEST = 64  # LR rows of a tile that are kept, at least: flatter ones cost too much overlap
CHUNK = 64  # rows resized at a time
ROUNDED = 256  # rows rounded at a time: whole tiles would take a picture's memory more
REACH = 2  # LR pixels around an enlarged pixel that bound its opacity


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A picture to enlarge, given by the row."""

    height: int
    width: int
    bands: int
    dtype: type[np.uint8 | np.uint16 | np.float32]
    read: Callable[[int, int], Rows]
    """Rows ``start`` to ``stop``; called with rising starts, each call reaching back over some rows of the last."""


def enlarged(
    upscaler: Upscaler, pixels: Pixels, *, size: tuple[int, int] | None = None, transparency: Transparency = "network"
) -> Iterator[Rows]:
    """Enlarge a picture by the network, then, where ``size`` differs from that, by MATLAB-style bicubic.

    Args:
        upscaler: The network.
        pixels: The picture.
        size: Rows and columns of the result; none = ``scale`` times the picture's.
        transparency: How alpha is enlarged: by the network as a grey picture, or bicubic.

    Yields:
        Bands of rows from the top, in the picture's type.

    Raises:
        EsrganError: At the latest after the last band, where the result cannot be right.
    """
    whole = (pixels.height * upscaler.scale, pixels.width * upscaler.scale)
    size = size or whole
    balance = Balance()
    inner = pixels.dtype if size == whole else np.float32 if pixels.dtype == np.float32 else np.uint16
    height, width = _tile(upscaler, pixels.width * pixels.bands * np.dtype(inner).itemsize * upscaler.scale**2)
    columns = spans(pixels.width, width, upscaler.overlap)
    bands = (
        _band(upscaler, pixels, rows, columns, inner, transparency, balance)
        for rows in spans(pixels.height, height, upscaler.overlap)
    )
    yield from bands if size == whole else resized(bands, whole, size, pixels.dtype)
    balance.check()


def _tile(upscaler: Upscaler, row_bytes: int) -> tuple[int, int]:
    """Height and width of the tiles: squares, but flatter in wide pictures, so that a band of them fits ``BAND``.

    Args:
        upscaler: The network, whose tile gives the area.
        row_bytes: What one row of the picture takes when it is enlarged.
    """
    around = 2 * upscaler.overlap
    height = min(upscaler.tile, max(BAND // row_bytes, FLATTEST) + around)
    return height, upscaler.tile**2 // height


def _band(
    upscaler: Upscaler,
    pixels: Pixels,
    rows: Span,
    columns: list[Span],
    dtype: type,
    transparency: Transparency,
    balance: Balance,
) -> Rows:
    scale = upscaler.scale
    lr = pixels.read(rows.read_start, rows.read_stop)
    out: Rows = np.empty(((rows.stop - rows.start) * scale, pixels.width * scale, pixels.bands), dtype)
    for span in columns:
        tile = as_tensor(lr[:, span.read], upscaler.device)
        sr = enlarge_tile(upscaler, tile, exact=pixels.dtype != np.uint8, transparency=transparency)
        sr = sr[:, rows.kept(scale), span.kept(scale)]
        balance.add(tile[:, rows.kept(1), span.kept(1)], sr)
        out[:, span.placed(scale)] = as_rows(sr, dtype)
        del sr  # before the next one is made
    return out


def enlarge_tile(upscaler: Upscaler, tile: Tensor, *, exact: bool, transparency: Transparency) -> Tensor:
    """Enlarge one tile, (bands, h, w) in [0, 1] -> (bands, scale * h, scale * w).

    Grey goes through the network as three equal channels, whose mean is the result. Colours are first spread into what
    is transparent, so that what nobody sees does not bleed into the edges. Opacity stays within that of the LR pixels
    nearby: what is opaque or transparent in the picture is so in the result, exactly. Its means are not held as those
    of colours are: that would leave a haze around thin lines.
    """
    colour, alpha = split(tile)
    lr = _three(colour if alpha is None else spread(colour, alpha))
    sr = hold_colours(lr, upscaler.piece(lr, exact=exact), upscaler.scale, None if alpha is None else alpha[None])[0]
    colour = sr if len(colour) == 3 else sr.mean(0, keepdim=True)
    if alpha is None:
        return colour
    size = (colour.shape[-2], colour.shape[-1])
    low, high = -_highest(-alpha, size), _highest(alpha, size)
    if torch.equal(low, high):
        return torch.cat((colour, low))
    if transparency == "bicubic":
        big = resize(alpha, size=size)
    else:
        big = upscaler.piece(_three(alpha), exact=exact)[0].mean(0, keepdim=True)
    return torch.cat((colour, big.clamp(low, high)))


def _three(image: Tensor) -> Tensor:
    """(1 or 3, h, w) -> (1, 3, h, w)."""
    return image.expand(3, -1, -1)[None]


def _highest(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    around = F.max_pool2d(alpha[None], 2 * REACH + 1, stride=1, padding=REACH)
    return F.interpolate(around, size=size, mode="nearest")[0]


def spread(colour: Tensor, alpha: Tensor) -> Tensor:
    """Give fully transparent pixels the mean colour of what is seen next to them, ring by ring."""
    known = (alpha > 0).to(colour.dtype)
    if known.all() or not known.any():
        return colour
    colour = colour * known
    for _ in range(FILL):
        share = F.avg_pool2d(known[None], 3, stride=1, padding=1)[0]
        mean = F.avg_pool2d(colour[None], 3, stride=1, padding=1)[0] / share.clamp(min=1e-6)
        colour = torch.where(known > 0, colour, mean)
        known = (share > 0).to(colour.dtype)
    mean = (colour * known).sum((-2, -1), keepdim=True) / known.sum()
    return torch.where(known > 0, colour, mean)


def as_tensor(rows: Rows, device: torch.device | None = None) -> Tensor:
    """(h, w, bands) of any type -> (bands, h, w) float32 in [0, 1] on ``device``; bytes travel there as such."""
    largest = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(rows.dtype, 1)
    kind = np.uint8 if rows.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.array(rows.transpose(2, 0, 1), dtype=kind, order="C")).to(device).float() / largest


def as_rows(image: Tensor, dtype: type) -> Rows:
    """(bands, h, w) in [0, 1] -> (h, w, bands) of ``dtype``; integers rounded, not truncated."""
    if dtype == np.float32:
        return image.permute(1, 2, 0).cpu().numpy()
    largest, kind = (255, torch.uint8) if dtype == np.uint8 else (65535, torch.int32)
    rows = np.empty((*image.shape[1:], len(image)), dtype)
    for start in range(0, len(rows), ROUNDED):
        levels = (image[:, start : start + ROUNDED] * largest).round_().clamp_(0, largest).to(kind)
        rows[start : start + ROUNDED] = levels.permute(1, 2, 0).cpu().numpy()
    return rows


def resized(bands: Iterable[Rows], old: tuple[int, int], new: tuple[int, int], dtype: type) -> Iterator[Rows]:
    """Resize a picture that comes in bands of rows, by the same arithmetic as ``resize``.

    Args:
        bands: From the top, (rows, old width, channels), in any type.
        old: Rows and columns that come.
        new: Rows and columns wanted.
        dtype: Type of what is given.
    """
    index, weights = taps(old[0], new[0], new[0] / old[0], "replicate")
    first, last = index.amin(1), index.amax(1)
    held, top, done = torch.empty(0), 0, 0  # the rows from ``top`` on, (channels, rows, new width); rows given
    for part in (band[i : i + CHUNK] for band in bands for i in range(0, len(band), CHUNK)):
        wide = resize(as_tensor(part), size=(part.shape[0], new[1]))
        held = torch.cat((held, wide), 1) if held.numel() else wide
        ready = int((last < top + held.shape[1]).sum())
        for start in range(done, ready, CHUNK):
            stop = min(start + CHUNK, ready)
            out = held.new_zeros(held.shape[0], stop - start, new[1])
            for tap in range(index.shape[1]):
                out += held[:, index[start:stop, tap] - top] * weights[start:stop, tap, None].float()
            yield as_rows(out.clamp(0, 1), dtype)
        done = ready
        keep = int(first[done:].min()) if done < new[0] else top + held.shape[1]
        held, top = held[:, max(keep - top, 0) :], max(keep, top)
