"""``esrgan.upscale``: one picture of any kind in, the same kind back."""

import io
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esrgan.devices import Precision
from esrgan.engines import torch_device
from esrgan.enlarge import Pixels, Rows, enlarged
from esrgan.enlarge_file import Enlargement, write_enlarged
from esrgan.errors import EsrganError, UsageError, name_of
from esrgan.files import replacing
from esrgan.generator import Generator
from esrgan.library import find_model
from esrgan.memory import free_bytes
from esrgan.picture_formats import Format, find_format, fit_format, suffix_for
from esrgan.picture_reader import LIMIT_PIXELS, Picture, open_picture
from esrgan.upscaler import Upscaler

Image = TypeVar("Image")
log = logging.getLogger("esrgan")


def upscale(  # noqa: PLR0913 - each is an option that somebody sets
    image: Image,
    model: Upscaler | Generator | str | Path | None = None,
    *,
    how: Enlargement | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    tile: int | None = None,
    overlap: int | None = None,
    format: str | None = None,  # noqa: A002 - the command's name for it
    overwrite: bool = False,
    limit_pixels: int = LIMIT_PIXELS,
    **size: Any,
) -> Image:
    """Enlarge one picture and give the same kind of thing back.

    =================  ======================================================================================
    ``str``, ``Path``  a picture file; writes ``STEM_x4.EXT`` beside it and gives that path
    ``bytes``          a file's content; gives the content of a larger file, in the same format or else PNG
    ``PIL.Image``      of any mode but I, F and LAB; gives the mode L, LA, RGB, RGBA or I;16 that can hold it
    ``numpy.ndarray``  uint8, uint16, or float in [0, 1]; (H, W) or (H, W, 1 to 4): grey, grey + alpha, RGB(A)
    ``torch.Tensor``   float in [0, 1]; (C, H, W) or (N, C, H, W), C = 1 to 4; gives float32 on the same device
    =================  ======================================================================================

    What a result cannot hold of a file (layers, further frames, 16 bits in a JPEG) is told to the logger "esrgan".

    Args:
        image: The picture; a file is taken as it is shown (upright, in sRGB where it was CMYK), with its metadata.
        model: An ``Upscaler`` to use it for many pictures, from any number of threads; or a network, a model file, the
            name of a model at hand, or none for the default one of that scale.
        how: How large, and how transparency is enlarged; or give its fields by name: ``scale=2``, ``width=1920``.
        device: As of ``Upscaler``, like the next three.
        precision: fp32, bf16, fp16, or auto. Pictures of more than 8 bits, float arrays and tensors among them, are
            computed in fp32 whatever it is.
        tile: Side of the largest square the network gets at once.
        overlap: Pixels read around each; none = as the network's depth asks for.
        **size: Fields of ``Enlargement``: scale, width, height, megapixels, transparency.
        format: Of a file or bytes: png, jpeg, webp, tiff, gif, avif; none = as it was.
        overwrite: Replace the file that is there.
        limit_pixels: Refuse files, or bytes of one, that claim more pixels, as decompression bombs.

    Raises:
        EsrganError: A kind, shape or type that is none of these, a damaged picture, a result that cannot be right, a
            file in its place.
        UsageError: ``how`` and fields of it, or an ``Upscaler`` and options of one.
    """
    if how and size:
        raise UsageError(f"give either how or its fields by name ({', '.join(size)}), not both")
    how = how or Enlargement(**size)
    upscaler = _upscaler(model, how, device=device, precision=precision, tile=tile, overlap=overlap)
    result: Any
    match image:
        case str() | Path():
            picture = open_picture(Path(image), limit_pixels=limit_pixels)
            result = type(image)(_file(upscaler, picture, Path(image), how, format, overwrite=overwrite))
        case bytes() | bytearray():
            picture = open_picture(bytes(image), limit_pixels=limit_pixels)
            result = type(image)(_bytes(upscaler, picture, how, format))
        case np.ndarray():
            result = _array(upscaler, image, how)
        case Tensor():
            result = _tensor(upscaler, image, how)
        case _ if hasattr(image, "getbands") and hasattr(image, "convert"):
            if (frames := getattr(image, "n_frames", 1)) > 1:
                log.warning("the picture: only the one shown of %d frames", frames)
            result = _pil(upscaler, image, how)
        case _:
            raise EsrganError(
                f"a picture is a path, bytes, PIL image, numpy array or tensor, not {type(image).__name__}"
            )
    return result  # type: ignore[no-any-return]


def _upscaler(model: Upscaler | Generator | str | Path | None, how: Enlargement, **options: Any) -> Upscaler:
    if not isinstance(model, Upscaler):
        if model is None:
            model = find_model(scale=how.scale or 4, device=str(torch_device(options["device"])))
        return Upscaler(model, **options)
    usual = {"device": "auto", "precision": "auto", "tile": None, "overlap": None}
    changed = [name for name, value in options.items() if value != usual[name]]
    if changed:
        raise UsageError(f"an Upscaler has its own {' and '.join(changed)}; give them when you make it")
    return model


def _format(upscaler: Upscaler, picture: Picture, how: Enlargement, wanted: str | None, name: str) -> Format:
    """What to write; the log says what is lost."""
    size = how.size(picture.height, picture.width, upscaler.scale)
    form, notes = fit_format(picture, size, find_format(wanted) if wanted else None)
    for note in picture.notes + notes:
        log.warning("%s: %s", name, note)
    return form


def _file(
    upscaler: Upscaler, picture: Picture, path: Path, how: Enlargement, wanted: str | None, *, overwrite: bool
) -> Path:
    form = _format(upscaler, picture, how, wanted, name_of(path))
    factor = how.label(picture.height, picture.width, upscaler.scale)
    target = path.with_name(f"{path.stem}_x{factor}{suffix_for(form, [path.suffix])}")
    if not overwrite and os.path.lexists(target):
        raise EsrganError(f"{name_of(target)} exists; overwrite=True replaces it")
    with replacing(target) as temporary, temporary.open("w+b") as file:
        write_enlarged(upscaler, picture, file.fileno(), name=name_of(path), form=form, how=how)
    return target


def _bytes(upscaler: Upscaler, picture: Picture, how: Enlargement, wanted: str | None) -> bytes:
    form = _format(upscaler, picture, how, wanted, "the picture")
    with tempfile.TemporaryFile() as file:
        write_enlarged(upscaler, picture, file.fileno(), name="the picture", form=form, how=how)
        file.seek(0)
        return file.read()


def _array(upscaler: Upscaler, image: NDArray[Any], how: Enlargement) -> NDArray[Any]:
    rows = image[..., None] if image.ndim == 2 else image
    if rows.ndim != 3 or rows.shape[2] not in (1, 2, 3, 4) or 0 in rows.shape:
        raise EsrganError(f"an array must be (H, W) or (H, W, 1 to 4), not {image.shape}")
    if (rows.dtype.kind, rows.dtype.itemsize) not in (("u", 1), ("u", 2)) and rows.dtype.kind != "f":
        raise EsrganError(f"an array must be of uint8, uint16 or float in [0, 1], not {rows.dtype}")
    rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
    if rows.dtype.kind == "f":
        rows = _in_range(rows.astype(np.float32))
    size = how.size(rows.shape[0], rows.shape[1], upscaler.scale)
    pixels = Pixels(
        height=rows.shape[0], width=rows.shape[1], bands=rows.shape[2], dtype=rows.dtype.type,
        read=lambda start, stop: rows[start:stop],
    )  # fmt: skip
    out, done = _room((*size, pixels.bands), rows.dtype), 0
    for band in enlarged(upscaler, pixels, size=size, transparency=how.transparency):
        out[done : done + len(band)] = band
        done += len(band)
    out = out.astype(image.dtype, copy=False)
    return out[..., 0] if image.ndim == 2 else out


def _room(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """For a result."""
    size, free = math.prod(shape) * dtype.itemsize, free_bytes()
    try:
        if free is None or size <= free:
            return np.empty(shape, dtype)
    except (MemoryError, ValueError):  # more than there is, or than can be counted
        pass
    raise EsrganError(
        f"the result has {shape[0]} x {shape[1]} pixels, {size / 1e9:.1f} GB, and so much memory is not free;"
        " ask for a smaller one, or give the picture as a file: its result is written row by row"
    )


def _in_range(rows: Rows) -> Rows:
    if not (np.isfinite(rows).all() and rows.min() >= -1e-3 and rows.max() <= 1 + 1e-3):
        raise EsrganError(
            f"float pictures are finite and in [0, 1]; this one spans {rows.min():.4g} to {rows.max():.4g}"
            " (divide by 255, or give uint8)"
        )
    return rows.clip(0, 1)


def _tensor(upscaler: Upscaler, image: Tensor, how: Enlargement) -> Tensor:
    batch = image[None] if image.dim() == 3 else image
    if batch.dim() != 4 or batch.shape[1] not in (1, 2, 3, 4) or 0 in batch.shape or not image.is_floating_point():
        raise EsrganError(
            "a tensor must be float (C, H, W) or (N, C, H, W) with C from 1 to 4,"
            f" not {image.dtype} {tuple(image.shape)}"
        )
    arrays: Sequence[NDArray[Any]] = [
        _array(upscaler, one.detach().float().permute(1, 2, 0).cpu().numpy(), how) for one in batch
    ]
    out = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays]).contiguous().to(image.device)
    return out[0] if image.dim() == 3 else out


def _rgb_of(image: Any, profile: bytes | None) -> Any:
    """A CMYK image in RGB, by its profile if it has one that can be used."""
    from PIL import ImageCms  # noqa: PLC0415

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


def _pil(upscaler: Upscaler, image: Any, how: Enlargement) -> Any:
    from PIL import Image as PillowImage  # noqa: PLC0415 - only who has PIL images needs it

    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise EsrganError(f"the picture is damaged or closed ({error})") from error
    if image.mode in ("I", "F", "LAB"):
        raise EsrganError(f"PIL images of mode {image.mode} have no fixed range; convert it to L, RGB or I;16 first")
    info = dict(image.info)
    clear = info.pop("transparency", None) is not None  # a colour, or opacities of a palette's
    if clear and image.mode.startswith("I;16"):
        raise EsrganError(
            "PIL cannot hold grey of 16 bits with transparency; give the file or its bytes, which keep both"
        )
    if image.mode in ("1", "L", "RGB", "P") and clear:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or image.palette.mode == "RGBA" else "RGB")
    elif image.mode == "CMYK":
        image = _rgb_of(image, info.pop("icc_profile", None))
    elif not image.mode.startswith("I;16"):
        modes = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA"}
        image = image.convert(modes.get(image.mode, "RGB"))
    result = PillowImage.fromarray(_array(upscaler, np.asarray(image), how))
    result.info = info
    return result
