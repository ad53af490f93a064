"""Pictures of any colour space and sample type as grey or RGB of 8 or 16 bits, as they are shown."""

import struct

from esrgan.errors import EsrganError
from esrgan.picture_vips import grey_or_rgb, pyvips

AS_THEY_ARE = ("b-w", "grey16", "srgb", "rgb16", "rgb", "multiband", "histogram", "scrgb")
"""Interpretations whose values are kept; the last is what libvips takes all float RGB for, linear or not."""
SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
"""White, red, green and blue of sRGB as a PNG's cHRM chunk has them, in 100,000ths."""


def unlab(image: pyvips.Image) -> pyvips.Image:
    """8-bit CIELAB samples, read as if they were RGB, as what they are: L of 255 levels, a and b with a sign."""
    lightness = image[0] * (100 / 255)
    signed = image[1:3].copy(format="char").cast("float")
    lab = lightness.cast("float").bandjoin(signed).copy(interpretation="lab")
    rgb = lab.icc_export(output_profile="srgb", depth=8)
    return rgb.bandjoin(image[3:]) if image.bands > 3 else rgb


def shown(image: pyvips.Image, frames: int, name: str) -> pyvips.Image:
    """``image`` upright, in grey or RGB with or without alpha, 8 or 16 bits; its profile, if that fits, untouched."""
    if frames == 1:
        image = image.autorot()
    deep = image.format not in ("uchar", "char")
    if image.interpretation == "cmyk":
        image = image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=16 if deep else 8)
    elif image.interpretation in ("lab", "labs"):  # of D50, as ICC and Photoshop have it
        image = image.colourspace("lab").icc_export(output_profile="srgb", depth=16 if deep else 8)
    elif image.interpretation not in AS_THEY_ARE:
        image = image.colourspace("rgb16" if deep else "srgb").copy()
        image.remove("icc-profile-data")  # it described the other space
    return _of_whole_numbers(image, name)


def _of_whole_numbers(image: pyvips.Image, name: str) -> pyvips.Image:
    """Samples as 8 or 16 bits without sign; as libvips has them, float is in [0, 1]."""
    if image.format == "uint":
        image = (image / 65537).rint().cast("ushort")
    elif image.format in ("float", "double"):
        low, high = image.min(), image.max()
        if not (low >= -1e-3 and high <= 1 + 1e-3) or (image == image).min() == 0:  # noqa: PLR0124 - not a number
            raise EsrganError(
                f"{name}: float samples from {low:.4g} to {high:.4g}; a picture's are from 0 to 1; "
                "convert it to 8 or 16 bits first"
            )
        image = (image * 65535).rint().cast("ushort")
    if image.format not in ("uchar", "ushort"):
        raise EsrganError(f"{name}: samples of type {image.format} are not supported; convert it to 8 or 16 bits first")
    if image.bands > 4:
        raise EsrganError(f"{name}: {image.bands} channels; only grey and RGB, with or without alpha, are supported")
    return grey_or_rgb(image)


def png_notes(chunks: dict[bytes, bytes]) -> tuple[str, ...]:
    """What a PNG says before its pixels that a result will not, given the chunks there."""
    notes = ["only the first frame, as libvips does not read animated PNG"] if b"acTL" in chunks else []
    gamma = int.from_bytes(chunks.get(b"gAMA", b"")[:4], "big") / 100_000
    if b"cICP" in chunks:
        notes.append("the values are kept, but not the statement (cICP) of what colours they are")
    elif gamma and abs(gamma - 1 / 2.2) > 0.01 and not chunks.keys() & {b"sRGB", b"iCCP"}:
        notes.append(f"the values are kept, but not the statement that their gamma is {gamma:.3g}")
    elif _other_primaries(chunks.get(b"cHRM", b"")) and not chunks.keys() & {b"sRGB", b"iCCP"}:
        notes.append("the values are kept, but not the statement (cHRM) of what colours they are")
    return tuple(notes)


def _other_primaries(chrm: bytes) -> bool:
    """Whether a cHRM chunk tells of another white or other primaries than sRGB's."""
    found = struct.unpack(">8I", chrm) if len(chrm) == 32 else SRGB_CHRM
    return any(abs(a - b) > 1000 for a, b in zip(found, SRGB_CHRM, strict=True))
