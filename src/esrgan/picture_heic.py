"""HEIC files, photos of many phones, which the libvips that pip installs does not decode, by pillow-heif: an extra."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from esrgan.errors import EsrganError, first_line
from esrgan.extras import import_extra
from esrgan.picture_vips import grey_or_rgb, pyvips

FIELDS = {"exif": "exif-data", "xmp": "xmp-data", "icc_profile": "icc-profile-data"}
"""Where pillow-heif has metadata, and where libvips has it."""


def load_heic(source: Path | bytes, name: str, *, limit_pixels: int) -> tuple[pyvips.Image, tuple[str, ...]]:
    """A HEIC's first picture, upright, 8 or 16 bits, with its metadata; and what is left out, in words.

    Where it has more pixels than ``limit_pixels``, a picture of none.

    Raises:
        EsrganError: Damaged, or pillow-heif is not installed.
    """
    heif = import_extra("pillow_heif", "heic")
    try:
        file = heif.open_heif(io.BytesIO(source) if isinstance(source, bytes) else source, convert_hdr_to_8bit=False)
        if file.size[0] * file.size[1] > limit_pixels:
            return pyvips.Image.black(*file.size), ()  # to be refused by its size
        heif.set_orientation(file.info)  # libheif has turned the pixels
        pixels, about = np.asarray(file), file.info
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError) as error:
        raise EsrganError(f"{name}: damaged or not readable ({first_line(error)})") from error
    image = grey_or_rgb(pyvips.Image.new_from_array(pixels))
    image.set_type(pyvips.GValue.gint_type, "bits-per-sample", about["bit_depth"])
    for theirs, ours in FIELDS.items():
        if data := about.get(theirs):
            image.set_type(pyvips.GValue.blob_type, ours, data)
    return image, tuple(_left_out(len(file), about))


def _left_out(pictures: int, about: dict[str, Any]) -> list[str]:
    notes = [f"only the first of {pictures} pictures in the file"] if pictures > 1 else []
    if any("hdrgainmap" in str(kind) for kind in about.get("aux") or ()):
        notes.append("HDR gain map not kept")
    return notes
