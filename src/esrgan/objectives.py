"""What each stage minimises: a stage is its mathematics.

An objective takes (lr, hr) and yields turns: a player and the terms of its loss. The loop runs backward between turns.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from esrgan.config import LossWeights
from esrgan.losses import perceptual, pixel, relativistic
from esrgan.players import Player
from esrgan.vgg import VGGFeatures


class Turn(NamedTuple):
    """Whose weights learn, and the weighted terms that sum to the loss."""

    player: Player
    losses: dict[str, Tensor]


Objective = Callable[[Tensor, Tensor], Iterator[Turn]]


def psnr_objective(generator: Player) -> Objective:
    """Stage 1: L1 between pixels."""

    def turns(lr: Tensor, hr: Tensor) -> Iterator[Turn]:
        yield Turn(generator, {"pixel": pixel(generator(lr), hr)})

    return turns


def gan_objective(generator: Player, discriminator: Player, features: VGGFeatures, weights: LossWeights) -> Objective:
    """Stage 2: perceptual + relativistic average GAN + pixel loss (equation 3 of the paper), then the discriminator.

    Both networks move after both turns, so the real picture's logits serve both: the generator's turn reads them
    detached, the discriminator's with their graph.
    """

    def turns(lr: Tensor, hr: Tensor) -> Iterator[Turn]:
        sr = generator(lr)
        real = discriminator(hr)
        with discriminator.frozen():
            gan = relativistic(winner=discriminator(sr), loser=real.detach())
        with torch.autocast(discriminator.device_type, discriminator.dtype, discriminator.dtype != torch.float32):
            with torch.no_grad():
                wanted = features(hr)
            content = perceptual(features(sr), wanted, weights.layers, normalise=weights.normalise)
        yield Turn(
            generator,
            {
                "pixel": weights.pixel * pixel(sr, hr),
                "perceptual": weights.perceptual * content,
                "gan": weights.gan * gan,
            },
        )
        fake = discriminator(sr.detach())
        yield Turn(discriminator, {"discriminator": relativistic(winner=real, loser=fake)})

    return turns
