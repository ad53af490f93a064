"""The formats that enlarged pictures are written in, what each can hold, and which fits a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from esrgan.errors import EsrganError, UsageError
from esrgan.picture_reader import Picture
from esrgan.picture_resolution import is_stated
from esrgan.picture_vips import pyvips
from esrgan.picture_xmp import MOST_IN_JPEG, xmp_of_result


@dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    suffixes: tuple[str, ...]
    """The usual one first."""
    side: int
    """Longest side of one frame, in pixels."""
    alpha: bool
    deep: bool
    """16 bits; AVIF and HEIC hold up to 12 of them."""
    frames: bool
    saver: str

    @property
    def writable(self) -> bool:
        """Whether the libvips on this machine writes it."""
        known = bool(pyvips.type_find("VipsOperation", f"{self.saver}save_target"))
        return known and (self.name != "heic" or _writes_heic())


FORMATS = {
    form.name: form
    for form in (
        Format("png", (".png",), 2**31 - 1, True, True, False, "png"),
        Format("jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), 65500, False, False, False, "jpeg"),
        Format("webp", (".webp",), 16383, True, False, True, "webp"),
        Format("tiff", (".tif", ".tiff"), 2**31 - 1, True, True, True, "tiff"),
        Format("gif", (".gif",), 65535, True, False, True, "gif"),
        Format("avif", (".avif",), 16384, True, True, False, "heif"),
        Format("heic", (".heic", ".heif"), 16384, True, True, False, "heif"),
    )
}
"""By name; ``FORMATS['png']`` holds everything but animations."""


def find_format(name: str) -> Format:
    """The format called ``name``: its name or one of its suffixes, with or without the dot.

    Raises:
        UsageError: Unknown, or not writable here.
    """
    wanted = name.lower().lstrip(".")
    for form in FORMATS.values():
        if wanted == form.name or f".{wanted}" in form.suffixes:
            if not form.writable:
                break
            return form
    can = ", ".join(form.name for form in FORMATS.values() if form.writable)
    raise UsageError(f"the format {name!r} cannot be written here; choose one of {can}")


def fit_format(picture: Picture, size: tuple[int, int], wanted: Format | None) -> tuple[Format, tuple[str, ...]]:
    """The format to write an enlarged picture in, and what is lost by it, in words.

    Args:
        picture: What is enlarged.
        size: Rows and columns of the result, of one frame.
        wanted: The format asked for; none = the picture's own, and PNG where that cannot hold the result.

    Raises:
        EsrganError: The format asked for, or for an animation any that would do, cannot hold it.
    """
    form = wanted or FORMATS.get(picture.format, FORMATS["png"])
    why = _obstacle(form, picture, size)
    if why is None:
        return form, _losses(form, picture)
    png = FORMATS["png"]
    if wanted or picture.frames > 1 or _obstacle(png, picture, size):
        smaller = " or a smaller --scale" if "at most" in why else ""
        raise EsrganError(f"{form.name.upper()} {why}; choose another --format{smaller}")
    return png, (f"written as PNG, because {form.name.upper()} {why}", *_losses(png, picture))


NOT_IN_GIF = {"profile": "icc-profile-data", "EXIF": "exif-data", "XMP": "xmp-data"}
RESOLUTION_IN_EXIF = ("webp", "avif", "heic", "gif")
"""Formats that have no other place for it."""


def _obstacle(form: Format, picture: Picture, size: tuple[int, int]) -> str | None:
    if not form.writable:
        return "cannot be written on this machine"
    if max(size) > form.side:
        return f"holds at most {form.side} pixels a side, not {max(size)}"
    if picture.frames > 1 and not form.frames:
        return f"cannot hold {picture.frames} frames"
    return None


def _losses(form: Format, picture: Picture) -> tuple[str, ...]:
    lost = []
    if picture.alpha and not form.alpha:
        lost.append(f"transparency over white, as {form.name.upper()} has none")
    if picture.bits == 16 and not form.deep:
        lost.append(f"16 bits reduced to 8, as {form.name.upper()} holds no more")
    if picture.bits == 16 and picture.depth not in (10, 12) and form.saver == "heif":
        lost.append(f"16 bits reduced to 12, as {form.name.upper()} holds no more")
    if form.name == "tiff" and picture.image.get_typeof("delay"):
        lost.append("how long each frame is shown, as TIFF has none of it")
    if form.name == "jpeg" and (length := len(xmp_of_result(picture))) > MOST_IN_JPEG:
        lost.append(f"XMP of {length:,} bytes not kept, too long for JPEG (at most {MOST_IN_JPEG:,})")
    if form.name == "gif" and picture.format != "gif":
        lost.append(
            "reduced to 256 colours, transparency to all or none" if picture.alpha else "reduced to 256 colours"
        )
    if names := _without_place(form, picture):
        lost.append(f"{', '.join(names)} not kept, as {form.name.upper()} has no place for it")
    return tuple(lost)


def _without_place(form: Format, picture: Picture) -> list[str]:
    has = picture.image.get_typeof
    names = [name for name, field in NOT_IN_GIF.items() if form.name == "gif" and has(field)]
    if has("iptc-data") and form.name not in ("jpeg", "tiff"):
        names.append("IPTC")
    if picture.texts and form.name != "png":
        names.append("texts")
    if form.name in RESOLUTION_IN_EXIF and not has("exif-data") and is_stated(picture.image):
        names.append("resolution")
    return names


@cache
def _writes_heic() -> bool:
    try:
        pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb").heifsave_buffer(compression="hevc")
    except pyvips.Error:
        return False
    return True


def suffix_for(form: Format, names: Sequence[str]) -> str:
    """The file suffix to write: the first of ``names`` that belongs to the format, else its usual one."""
    return next((name for name in names if name.lower() in form.suffixes), form.suffixes[0])
