"""Trainings so small that they take seconds: pictures of smooth noise, networks of four channels."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from esrgan.config import (
    DiscriminatorConfig,
    GeneratorConfig,
    LossWeights,
    PretrainConfig,
    PretrainOptim,
    TrainConfig,
    TrainOptim,
)
from esrgan.generator import Generator
from esrgan.images import write_rgb
from esrgan.model_file import save_model
from esrgan.resize import resize
from esrgan.vgg import trunk

SHAPE = GeneratorConfig(channels=4, growth=4, blocks=1)


def pictures(folder: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (96, 128)) -> Path:
    """A folder of ``count`` pictures of smooth noise."""
    random = torch.Generator().manual_seed(seed)
    for i in range(count):
        noise = torch.rand(3, size[0] // 8, size[1] // 8, generator=random)
        grain = 0.05 * torch.rand(3, *size, generator=random)
        write_rgb((resize(noise, size=size) + grain).clamp(0, 1), folder / f"{seed}_{i}.png")
    return folder


def shallow_vgg(path: Path) -> Path:
    """Random weights in VGG19's layout, up to conv1_2."""
    torch.manual_seed(1)
    save_file({f"features.{name}": tensor for name, tensor in trunk("conv1_2").state_dict().items()}, path)
    return path


def lpips(path: Path) -> Path:
    """Random weights in LPIPS' layout."""
    torch.manual_seed(2)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    tensors = {f"lin{i}.weight": torch.rand(1, shape[0], 1, 1) for i, shape in enumerate(shapes.values())}
    for i, (outputs, inputs, side) in shapes.items():
        tensors[f"features.{i}.weight"] = torch.randn(outputs, inputs, side, side) / side / inputs**0.5
        tensors[f"features.{i}.bias"] = torch.zeros(outputs)
    save_file(tensors, path)
    return path


def stage_1(folder: Path, **options: object) -> PretrainConfig:
    """A tiny pre-training in ``folder``."""
    if not (folder / "photos").is_dir():
        pictures(folder / "photos", 4)
    config = PretrainConfig(
        images=(folder / "photos",), run_dir=folder / "run", cache=folder / "cache", steps=12, batch=4, patch=32,
        ema=0.9, precision="fp32", device="cpu", log_every=4, validate_every=6, save_every=5, generator=SHAPE,
        optim=PretrainOptim(learning_rate=1e-3, milestones=()),
    )  # fmt: skip
    return replace(config, **options)


def stage_2(folder: Path, **options: object) -> TrainConfig:
    """A tiny GAN training in ``folder``."""
    one = stage_1(folder)
    if not (folder / "stage1.safetensors").is_file():
        torch.manual_seed(0)
        save_model(Generator(SHAPE), folder / "stage1.safetensors")
    shared = {name: getattr(one, name) for name in ("images", "cache", "steps", "batch", "patch", "ema", "precision",
              "device", "log_every", "validate_every", "save_every")}  # fmt: skip
    config = TrainConfig(
        init=folder / "stage1.safetensors", run_dir=folder / "gan", vgg=shallow_vgg(folder / "vgg.safetensors"),
        weights=LossWeights(layers={"conv1_2": 1.0}, gan=0.1, normalise=True, colour=1.0, grid=1.0),
        discriminator=DiscriminatorConfig(channels=4), optim=TrainOptim(learning_rate=1e-3, milestones=()), **shared,
    )  # fmt: skip
    return replace(config, **options)
