"""Training as BasicSR writes it, for comparison: fp32, NCHW, a file decoded for every patch, losses read every step."""

import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import cast
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from esrgan.data import turned
from esrgan.images import find_images, read_bytes8
from esrgan.resize import make_lr


class PerItem(Dataset[tuple[Tensor, Tensor]]):
    """One random patch of a picture per item; the picture is decoded for it.

    BasicSR reads LR from a file of its own; here it is made from the crop, which costs less than decoding one more.
    """

    def __init__(self, images: Sequence[Path], *, patch: int, scale: int = 4) -> None:
        self.paths = find_images(images)
        self.patch, self.scale = patch, scale

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        hr = read_bytes8(self.paths[i]).numpy()
        y, x = (random.randint(0, side - self.patch) for side in hr.shape[:2])
        crop = turned(hr[y : y + self.patch, x : x + self.patch], random.randrange(8)).transpose(2, 0, 1)
        large = torch.from_numpy(np.ascontiguousarray(crop)).float() / 255
        return make_lr(large, self.scale), large


def batches(images: Sequence[Path], *, patch: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, made by a worker process ahead of their use."""
    data = PerItem(images, patch=patch)
    any_of_them = RandomSampler(data, replacement=True, num_samples=10**9)
    return iter(DataLoader(data, batch, sampler=any_of_them, num_workers=1, multiprocessing_context="spawn"))


def _as_written(layer: nn.Module, x: Tensor, factor: int) -> Tensor:
    """The convolution after enlargement as BasicSR has it; ours is faster in training too."""
    return F.leaky_relu(layer(F.interpolate(x, scale_factor=factor, mode="nearest")), 0.2)


class Plain:
    """One training, a step a call; the networks are copied."""

    def __init__(self, generator: nn.Module, data: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.generator = deepcopy(generator).train()
        self.average = deepcopy(generator)
        self.data = data
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def __call__(self) -> dict[str, float]:
        lr, hr = next(self.data)
        self.optimizer.zero_grad()
        loss = F.l1_loss(self.enlarged(lr), hr)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.keep_average()
        return {"pixel": loss.item()}

    def enlarged(self, lr: Tensor) -> Tensor:
        """The generator's picture."""
        with mock.patch("esrgan.generator.conv_enlarged", _as_written):
            return cast(Tensor, self.generator(lr))

    def keep_average(self) -> None:
        """Exponential moving average, a weight at a time."""
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mine.mul_(0.999).add_(theirs, alpha=0.001)


class PlainGan(Plain):
    """Stage 2 as BasicSR's ``ESRGANModel`` does it: the discriminator five times a step, VGG twice."""

    def __init__(
        self, generator: nn.Module, data: Iterator[tuple[Tensor, Tensor]], discriminator: nn.Module, features: nn.Module
    ) -> None:
        super().__init__(generator, data)
        self.discriminator, self.features = deepcopy(discriminator).train(), deepcopy(features)
        self.critic_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def __call__(self) -> dict[str, float]:
        lr, hr = next(self.data)
        for parameter in self.discriminator.parameters():
            parameter.requires_grad = False
        self.optimizer.zero_grad()
        sr = self.enlarged(lr)
        pixel = 1e-2 * F.l1_loss(sr, hr)
        seen, wanted = self.features(sr), self.features(hr.detach())
        content = torch.stack([F.l1_loss(seen[name], wanted[name].detach()) for name in seen]).sum()
        real, fake = self.discriminator(hr).detach(), self.discriminator(sr)
        gan = 5e-3 * (_bce(real - fake.mean(), 0) + _bce(fake - real.mean(), 1)) / 2
        torch.autograd.backward(pixel + content + gan)
        self.optimizer.step()
        losses = {"pixel": pixel.item(), "perceptual": content.item(), "gan": gan.item()}
        losses |= self._judge(sr.detach(), hr)
        self.keep_average()
        return losses

    def _judge(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        for parameter in self.discriminator.parameters():
            parameter.requires_grad = True
        self.critic_optimizer.zero_grad()
        fake = self.discriminator(sr).detach()
        real = self.discriminator(hr)
        on_real = _bce(real - fake.mean(), 1) / 2
        torch.autograd.backward(on_real)
        fake = self.discriminator(sr)
        on_fake = _bce(fake - real.detach().mean(), 0) / 2
        torch.autograd.backward(on_fake)
        self.critic_optimizer.step()
        return {"real": on_real.item(), "fake": on_fake.item()}


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
