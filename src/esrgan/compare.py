"""The picture that shows what the network adds: bicubic enlargement on the left, the network's on the right."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esrgan.errors import UsageError
from esrgan.files import key_of
from esrgan.images import to_rgb, write_rgb
from esrgan.picture_reader import LIMIT_PIXELS, Picture, open_picture
from esrgan.picture_vips import pyvips
from esrgan.resize import resize

MOST_PIXELS = 16_000_000
"""Of either half; of larger pictures the middle is shown."""
GAP = 8


def comparison_path(enlarged: Path) -> Path:
    """``STEM_compare.png`` beside the result."""
    return enlarged.with_name(f"{enlarged.stem}_compare.png")


def has_comparison(enlarged: Path) -> bool:
    """Whether the result's comparison is there and of this result, not of one before it."""
    try:
        return comparison_path(enlarged).stat().st_mtime_ns >= enlarged.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def refuse_shared(results: Iterable[Path]) -> None:
    """Raise ``UsageError`` where two results would have one comparison, or a comparison be another's result."""
    results = list(results)
    seen = {key_of(result): result for result in results}
    for result in results:
        other = seen.setdefault(key_of(comparison_path(result)), result)
        if other != result:
            raise UsageError(f"{other} and {result} would share one comparison; use another --name, or run them apart")


def write_comparison(source: Path | bytes, enlarged: Path, *, limit_pixels: int = LIMIT_PIXELS) -> Path:
    """Write the comparison of a picture with its result and give its path.

    Args:
        source: The picture that was enlarged, or its content.
        enlarged: The result, of any size.
        limit_pixels: As of ``open_picture``, for the first.
    """
    bicubic, sr = _middle(
        open_picture(source, limit_pixels=limit_pixels), open_picture(enlarged, limit_pixels=sys.maxsize)
    )
    target = comparison_path(enlarged)
    halves = [labelled(bicubic, "bicubic"), labelled(sr, "ESRGAN")]
    gap = torch.ones(3, halves[0].shape[1], GAP)
    write_rgb(torch.cat((halves[0], gap, halves[1]), dim=2), target)
    return target


def _middle(lr: Picture, sr: Picture) -> tuple[Tensor, Tensor]:
    """The same part of both, the first enlarged by bicubic interpolation; nothing else of them is held in memory."""
    factors = sr.height / lr.height, sr.width / lr.width
    share = min(1.0, (MOST_PIXELS / (sr.height * sr.width)) ** 0.5)
    rows, columns = max(1, int(lr.height * share)), max(1, int(lr.width * share))
    top, left = (lr.height - rows) // 2, (lr.width - columns) // 2
    size = max(1, round(rows * factors[0])), max(1, round(columns * factors[1]))
    down, right = min(round(top * factors[0]), sr.height - size[0]), min(round(left * factors[1]), sr.width - size[1])
    bicubic = resize(_cut(lr, top, left, rows, columns), size=size).clamp(0, 1)
    return bicubic, _cut(sr, down, right, *size)


def _cut(picture: Picture, top: int, left: int, rows: int, columns: int) -> Tensor:
    """A part of the first frame, (3, rows, columns)."""
    return to_rgb(replace(picture, image=picture.image.crop(left, top, columns, rows), frames=1))


def labelled(image: Tensor, text: str) -> Tensor:
    """The picture, (3, H, W), below a white bar with a word on it."""
    word = pyvips.Image.text(text, font="sans", height=20, width=10_000).numpy()
    bar = np.full((32, max(image.shape[2], word.shape[1] + 2 * GAP)), 255, np.uint8)
    bar[6 : 6 + word.shape[0], GAP : GAP + word.shape[1]] = 255 - word[: bar.shape[0] - 6]
    label = torch.from_numpy(bar.astype(np.float32) / 255).expand(3, -1, -1)
    room = torch.ones(3, image.shape[1], label.shape[2] - image.shape[2])
    return torch.cat((label, torch.cat((image, room), dim=2)), dim=1)
