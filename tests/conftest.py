"""What the tests share: a network that enlarges linearly, and pictures of every awkward kind."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # before torch counts them: the workers share the cores
    cores = (os.cpu_count() or 2) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from esrgan.config import GeneratorConfig
from esrgan.generator import Generator
from esrgan.model_file import save_model
from esrgan.upscaler import Upscaler

AWAY = tempfile.mkdtemp(prefix="esrgan-tests-")  # from the user's own caches and models, and from the network
atexit.register(shutil.rmtree, AWAY, ignore_errors=True)
os.environ |= dict.fromkeys(("TORCH_HOME", "HF_HOME", "ESRGAN_MODELS", "XDG_CACHE_HOME"), AWAY)
os.environ |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
os.environ |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
os.environ.pop("HF_HUB_OFFLINE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=300, help="how many mutated picture files to try")
    parser.addoption("--fuzz-seed", type=int, default=0, help="which ones")


@pytest.fixture(scope="session")
def network() -> Generator:
    """Enlarges x4 linearly up to the borders: the identity start with an empty body and repeated edges."""
    generator = linear()
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "replicate"
    return generator


def linear() -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(channels=8, growth=4, blocks=1))
    torch.nn.init.zeros_(generator.conv_body.weight)
    return generator


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same but for the borders, which darken a little."""
    path = tmp_path_factory.mktemp("models") / "tiny_x4_gan.safetensors"
    save_model(linear(), path)
    save_model(linear(), path.with_name("tiny_x4_psnr.safetensors"))
    return path


@pytest.fixture(scope="session")
def upscaler(network: Generator) -> Upscaler:
    return Upscaler(network, device="cpu", precision="fp32", tile=64)


def waves(height: int, width: int, bands: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """A smooth picture with no two channels alike."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [0.5 + 0.4 * np.sin(7 * x + 3 * i) * np.cos(5 * y + 2 * i) for i in range(bands)]
    largest = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    return (np.stack(channels, -1) * largest).round().astype(dtype) if largest > 1 else np.stack(channels, -1)


def photo(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(waves(height, width))


def red_disc() -> Image.Image:
    image = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((16, 8, 48, 40), fill=(255, 0, 0, 255))
    return image


@lru_cache
def rgb_profile() -> bytes:
    """A wide-gamut RGB profile: linear, with primaries far apart."""
    from PIL import ImageCms  # noqa: PLC0415

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def camera_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0132], exif[0x0112] = "CamCo", "2020:01:02 03:04:05", orientation
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
    for directory in (0x8769, 0x8825):  # TIFF files get only what is also here
        exif[directory] = exif.get_ifd(directory)
    return exif


def save_kinds(folder: Path) -> list[Path]:
    """One small valid file of every format and kind."""
    folder.mkdir(parents=True, exist_ok=True)
    image, frames = photo(), [Image.fromarray(np.roll(waves(48, 64), 8 * i, 1)) for i in range(4)]
    rest = {"save_all": True, "append_images": frames[1:]}
    grey16 = Image.fromarray(waves(48, 64, 1, np.uint16)[..., 0])
    kinds: dict[str, Callable[[Path], None]] = {
        "rgb.png": image.save,
        "rgb.jpg": lambda path: image.save(path, exif=camera_exif(6), icc_profile=rgb_profile(), dpi=(300, 300)),
        "progressive.jpg": lambda path: image.save(path, progressive=True),
        "rgb.webp": image.save,
        "rgb.avif": image.save,
        "rgb.tif": image.save,
        "packed.tif": lambda path: image.save(path, compression="tiff_lzw"),
        "rgb.bmp": lambda path: image.save(path, dpi=(300, 300)),
        "bilevel.bmp": image.convert("1").save,
        "grey.png": image.convert("L").save,
        "grey.jpg": image.convert("L").save,
        "grey16.png": grey16.save,
        "grey16.tif": grey16.save,
        "bilevel.png": image.convert("1").save,
        "palette.png": image.quantize(16).save,
        "still.gif": image.quantize(64).save,
        "cmyk.jpg": image.convert("CMYK").save,
        "disc.png": red_disc().save,
        "disc.webp": lambda path: red_disc().save(path, lossless=True),
        "frames.gif": lambda path: frames[0].save(path, **rest, duration=[50, 90, 130, 40], loop=3),
        "frames.webp": lambda path: frames[0].save(path, **rest, duration=[50, 90, 130, 40], loop=3),
        "pages.tif": lambda path: frames[0].save(path, **rest),
        "dot.png": image.crop((0, 0, 1, 1)).save,
        "thin.png": image.resize((3, 90)).save,
    }  # fmt: skip
    for name, save in kinds.items():
        save(folder / name)
    return [folder / name for name in kinds]


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_kinds(tmp_path_factory.mktemp("kinds"))
