"""BMP files, which libvips does not read, by Pillow."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile

from esrgan.errors import EsrganError
from esrgan.picture_vips import grey_or_rgb, pyvips

MILLIMETRES = 25.4  # to an inch


def load_bmp(source: Path | bytes, name: str, *, limit_pixels: int) -> pyvips.Image:
    """A BMP's picture, grey or RGB, with or without alpha, 8 bits; where it has more pixels, a picture of none.

    Raises:
        EsrganError: Damaged, or of a kind that Pillow does not read.
    """
    try:
        with BmpImageFile(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > limit_pixels:
                return pyvips.Image.black(image.width, image.height)  # to be refused by its size
            dots = image.info.get("dpi", (0, 0))
            mode = {"1": "L", "L": "L", "RGBA": "RGBA"}.get(image.mode, "RGB")
            pixels = np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, struct.error) as error:
        raise EsrganError(f"{name}: damaged or not readable ({error})") from error
    loaded = grey_or_rgb(pyvips.Image.new_from_array(pixels))
    return loaded.copy(xres=dots[0] / MILLIMETRES, yres=dots[1] / MILLIMETRES) if all(dots) else loaded
