"""HEIC photos, as phones write them."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import camera_exif, photo, rgb_profile, waves
from PIL import Image

from esrgan import EsrganError, Generator, GeneratorConfig, save_model, upscale
from esrgan.cli import main
from esrgan.picture_reader import RowReader, open_picture
from esrgan.upscaler import Upscaler

heif = pytest.importorskip("pillow_heif")


def write(path: Path, pixels: np.ndarray, mode: str = "RGB", **options: object) -> Path:
    file = heif.from_bytes(mode=mode, size=pixels.shape[1::-1], data=pixels.tobytes())
    file.save(path, quality=-1, chroma=444, **options)  # without loss, but for the colour conversion
    return path


def rows_of(path: Path) -> np.ndarray:
    picture = open_picture(path)
    return RowReader(picture, "a").read(0, picture.height)


@pytest.mark.parametrize("bands", [3, 4])
def test_pixels_are_those_of_the_file(bands: int, tmp_path: Path) -> None:
    pixels = waves(48, 64, bands)
    found = rows_of(write(tmp_path / "a.heic", pixels, "RGBA" if bands == 4 else "RGB"))
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).max() <= 3


def test_ten_bits_are_kept(tmp_path: Path) -> None:
    deep = waves(48, 64, 3, np.uint16)
    path = write(tmp_path / "a.heic", deep, "RGB;16")
    picture = open_picture(path)
    assert (picture.bits, picture.depth) == (16, 10)
    assert np.abs(rows_of(path).astype(int) - deep).max() < 65535 / 1023 * 4


def test_a_photo_is_upright_and_its_metadata_goes_along(tmp_path: Path, model_file: Path) -> None:
    options = {"exif": camera_exif(6).tobytes(), "icc_profile": rgb_profile()}
    write(tmp_path / "IMG_1.HEIC", waves(48, 64), **options)
    command = ["upscale", str(tmp_path / "IMG_1.HEIC"), "--out", str(tmp_path / "out"), "--model", str(model_file)]
    assert main([*command, "--format", "jpg"]) == 0
    with Image.open(tmp_path / "out" / "IMG_1_x4.jpg") as result:
        assert result.size == (192, 256)  # turned
        assert result.getexif()[0x010F] == "CamCo"
        assert result.getexif().get(0x0112, 1) == 1  # and not turned again
        assert result.info["icc_profile"] == rgb_profile()


def test_further_pictures_are_told_of(tmp_path: Path) -> None:
    file = heif.from_pillow(photo())
    file.add_from_pillow(photo())
    file.save(tmp_path / "a.heic")
    assert open_picture(tmp_path / "a.heic").notes == ("only the first of 2 pictures in the file",)


def test_damaged_and_huge_ones_are_one_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.heic", waves(48, 64)).read_bytes()
    for length in (40, len(whole) // 2, len(whole) - 20):
        with pytest.raises(EsrganError, match="damaged or not readable") as error:
            open_picture(whole[:length])
        assert "\n" not in str(error.value)
    with pytest.raises(EsrganError, match="64 x 48 pixels are more than the limit of 100"):
        open_picture(whole, limit_pixels=100)


def test_without_pillow_heif_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.heic", waves(48, 64))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(EsrganError, match=r"pip install '\.\[heic\]'"):
        open_picture(path)


def test_bytes_come_back_as_png(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(scale=2, channels=8, growth=4, blocks=1))
    save_model(net, tmp_path / "m.safetensors")
    upscaler = Upscaler(tmp_path / "m.safetensors", device="cpu", precision="fp32")
    with Image.open(io.BytesIO(upscale(write(tmp_path / "a.heic", waves(48, 64)).read_bytes(), upscaler))) as result:
        assert (result.format, result.size) == ("PNG", (128, 96))
