"""What JPEG leaves of an LR picture: for models that are to see through it, and for measuring how well one does."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.photo_store import Bytes

CELL = 16
"""Pixels of the squares that JPEG works on, colours at half resolution."""


def check_quality(quality: int) -> None:
    """Refuse what is no quality.

    Raises:
        EsrganError: It is not from 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise EsrganError(f"jpeg is {quality}; the quality of a JPEG file is from 1 to 100")


def compressed(image: Bytes, quality: int) -> Bytes:
    """A picture as a JPEG file of this quality gives it back, its colours at half resolution (4:2:0).

    Args:
        image: (rows, columns, 3) uint8.
        quality: 1 to 100, as libjpeg counts.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def compressed_square(image: Bytes, top: int, left: int, side: int, quality: int) -> Bytes:
    """A square of ``compressed(image, quality)``, by compressing the cells of the picture that it lies in.

    So the 8-pixel blocks stand where they stand in the whole picture, and patches see them at every offset. Decoders
    interpolate colours across cells, so those that the pixels around the square lie in are compressed too.
    """
    y, x = (max(0, start - 1) // CELL * CELL for start in (top, left))
    bottom, right = (-(-(start + side + 1) // CELL) * CELL for start in (top, left))
    region = compressed(np.ascontiguousarray(image[y:bottom, x:right]), quality)
    return region[top - y : top - y + side, left - x : left - x + side]


def compressed_tensor(image: Tensor, quality: int) -> Tensor:
    """As ``compressed``, of (3, h, w) in [0, 1], rounded to 8 bits first."""
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(compressed(pixels, quality).copy()).permute(2, 0, 1).float() / 255
