"""Which JPEG files show their blocks, and the model that was trained for them."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from esrgan import library

BASE = 3685
"""Sum of the standard's own table of luma's steps (ITU-T T.81, table K.1), which is quality 50 to libjpeg."""
ROUGH, LOOKED_AT = 80, 100
"""The quality below which blocks show, and how many files are looked at."""


def advise_on_jpeg(paths: Iterable[Path], scale: int) -> str | None:
    """A sentence on the model for JPEG files, where some of these are rough and there is one of that scale."""
    model = library.SHIPPED / f"lite_x{scale}_jpeg.safetensors"
    files = list(islice((path for path in paths if path.suffix.lower() in (".jpg", ".jpeg")), LOOKED_AT))
    if not files or not model.is_file():
        return None
    rough = [quality for path in files if (quality := quality_of(path) or 100) < ROUGH]
    if not rough:
        return None
    qualities = " to ".join(dict.fromkeys((str(min(rough)), str(max(rough)))))
    return (
        f"{len(rough)} of the first {len(files)} JPEG files are of quality {qualities}, whose blocks this model"
        f" sharpens: try --model {model.stem}"
    )


def quality_of(path: Path) -> int | None:
    """The quality, 1 to 100, of a JPEG file by libjpeg's count; about that, if another encoder made it; else none."""
    from PIL.JpegImagePlugin import JpegImageFile  # noqa: PLC0415 - only JPEG files need it

    try:
        with JpegImageFile(
            path
        ) as image:  # which, other than Image.open, does not mind the size of what it will not decode
            tables: dict[int, list[int]] = image.quantization
    except (OSError, ValueError, SyntaxError):
        return None
    if 0 not in tables:
        return None
    percent = 100 * sum(tables[0]) / BASE
    return max(1, min(100, round((200 - percent) / 2 if percent <= 100 else 5000 / percent)))
