"""ESRGAN: enlarge pictures with trained networks, and train your own.

The public names are imported on first use, so that ``import esrgan`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esrgan.benchmark import evaluate
    from esrgan.config import (
        DiscriminatorConfig,
        GeneratorConfig,
        LossWeights,
        PretrainConfig,
        PretrainOptim,
        TrainConfig,
        TrainOptim,
    )
    from esrgan.discriminator import Discriminator
    from esrgan.errors import EsrganError
    from esrgan.generator import Generator
    from esrgan.interpolate import blend
    from esrgan.library import find_model
    from esrgan.losses import relativistic
    from esrgan.lpips import LPIPS
    from esrgan.metrics import psnr_y, ssim_y
    from esrgan.model_file import load_model, read_header, save_model
    from esrgan.stages import pretrain, train
    from esrgan.stand_ins import Bicubic
    from esrgan.upscale_one import upscale
    from esrgan.upscaler import Upscaler
    from esrgan.vgg import VGGFeatures

__version__ = "0.1.0"

_MODULES = {
    "benchmark": ("evaluate",),
    "config": (
        *("GeneratorConfig", "DiscriminatorConfig", "LossWeights"),
        *("PretrainConfig", "PretrainOptim", "TrainConfig", "TrainOptim"),
    ),
    "discriminator": ("Discriminator",),
    "errors": ("EsrganError",),
    "generator": ("Generator",),
    "interpolate": ("blend",),
    "library": ("find_model",),
    "losses": ("relativistic",),
    "lpips": ("LPIPS",),
    "metrics": ("psnr_y", "ssim_y"),
    "model_file": ("load_model", "read_header", "save_model"),
    "stages": ("pretrain", "train"),
    "stand_ins": ("Bicubic",),
    "upscale_one": ("upscale",),
    "upscaler": ("Upscaler",),
    "vgg": ("VGGFeatures",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "LPIPS",
    "Bicubic",
    "Discriminator",
    "DiscriminatorConfig",
    "EsrganError",
    "Generator",
    "GeneratorConfig",
    "LossWeights",
    "PretrainConfig",
    "PretrainOptim",
    "TrainConfig",
    "TrainOptim",
    "Upscaler",
    "VGGFeatures",
    "blend",
    "evaluate",
    "find_model",
    "load_model",
    "pretrain",
    "psnr_y",
    "read_header",
    "relativistic",
    "save_model",
    "ssim_y",
    "train",
    "upscale",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'esrgan' has no attribute {name!r}")
    return getattr(import_module(f"esrgan.{_HOME[name]}"), name)
