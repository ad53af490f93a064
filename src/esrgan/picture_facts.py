"""What libvips does not tell of a picture file, or cannot read in it, gathered before it is opened."""

from dataclasses import dataclass
from typing import BinaryIO

from esrgan.containers import (
    avif_notes,
    chunks_before_pixels,
    is_lossless_webp,
    is_whole_gif,
    jpeg_mended,
    jpeg_notes,
    png_texts,
)
from esrgan.errors import EsrganError
from esrgan.picture_colours import png_notes
from esrgan.tiff_tags import as_exif, first_tags, is_plain_ycbcr, is_raw, lab_field, masks, tiff_notes


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What libvips does not tell of a file; see ``look``."""

    notes: tuple[str, ...] = ()
    """What a result will not have of the file, in words."""
    lossless: bool = False
    texts: bytes = b""
    """Of a PNG, its chunks of text."""
    density: bytes = b""
    """Of a PNG, its pHYs chunk's content."""
    exif: bytes | None = None
    patched: bytes | None = None
    """Instead of the file: its content, as libvips can read it."""
    lab: bool = False
    """Whether ``patched`` calls a Lab picture RGB."""
    masks: int = 0
    """Bands after the colours, of a TIFF, that are not opacity."""


def look(file: BinaryIO, kind: str, name: str) -> Facts:
    """The facts of an open file of the format ``kind``.

    Raises:
        EsrganError: It ends in the middle, or holds colours that nobody here converts; ``name`` says which it is.
    """
    if kind == "gif" and not is_whole_gif(file):
        raise EsrganError(f"{name}: damaged or not readable (it ends in the middle)")
    if kind == "png":
        chunks = chunks_before_pixels(file)
        return Facts(notes=png_notes(chunks), texts=png_texts(file), density=chunks.get(b"pHYs", b""))
    if kind in ("avif", "heic"):
        return Facts(notes=avif_notes(file))
    if kind == "jpeg":
        return Facts(notes=jpeg_notes(file), patched=jpeg_mended(file))
    if kind == "webp":
        return Facts(lossless=is_lossless_webp(file))
    return _look_at_tiff(file, name) if kind == "tiff" else Facts()


def _look_at_tiff(file: BinaryIO, name: str) -> Facts:
    tags = first_tags(file)
    if is_raw(file, tags):
        raise EsrganError(
            f"{name}: a camera's raw file, of which a small preview is all that is read here; develop it first"
        )
    if is_plain_ycbcr(tags):
        raise EsrganError(f"{name}: a TIFF in YCbCr, which libvips does not convert; save it in RGB first")
    lab = lab_field(file, tags)
    file.seek(0)
    patched = file.read() if lab else None
    if lab and patched:
        patched = patched[: lab[0]] + lab[1] + patched[lab[0] + len(lab[1]) :]
    return Facts(exif=as_exif(file), patched=patched, lab=bool(lab), masks=masks(tags), notes=tiff_notes(tags))
