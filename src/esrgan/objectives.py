"""What each stage minimises: a stage is its mathematics.

An objective takes LR and HR patches, RGB in [0, 1], (N, 3, h, w) and (N, 3, scale * h, scale * w), and yields for one
player after the other the weighted terms that sum to its loss. The loop runs backward on each before it asks for the
next; what must not learn by it is detached or frozen here.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from esrgan.config import LossWeights
from esrgan.devices import arithmetic
from esrgan.distributed import average_, everyone
from esrgan.losses import colour, grid, perceptual, pixel, relativistic, shifted, spectrum
from esrgan.players import Player

Terms = dict[str, Tensor]
Features = Callable[[Tensor], dict[str, Tensor]]
"""As ``VGGFeatures``."""
Objective = Callable[[Tensor, Tensor], Iterator[Terms]]


def psnr_objective(generator: Player) -> Objective:
    """Stage 1: L1 between pixels."""

    def turns(lr: Tensor, hr: Tensor) -> Iterator[Terms]:
        yield {"pixel": pixel(generator(lr), hr)}

    return turns


def gan_objective(generator: Player, discriminator: Player, features: Features, weights: LossWeights) -> Objective:
    """Stage 2: perceptual + relativistic average GAN + pixel loss (equation 3 of the paper), then the discriminator.

    Both networks move after both turns, so the real picture's logits serve both: the generator's turn reads them
    detached, the discriminator's with their graph. Means are over the pictures of all processes.
    """

    def turns(lr: Tensor, hr: Tensor) -> Iterator[Terms]:
        sr = generator(lr)
        period = hr.shape[-1] // lr.shape[-1]
        terms = {"pixel": weights.pixel * pixel(sr, hr)}
        if weights.colour:
            terms["colour"] = weights.colour * colour(sr, hr, cell=min(4 * period, hr.shape[-1]))
        if weights.spectrum:
            terms["spectrum"] = weights.spectrum * spectrum(sr, hr)
        if weights.grid:
            terms["grid"] = weights.grid * grid(sr, hr, period=period)
            sr, hr = shifted(sr, hr, period=period)
        real = everyone(discriminator(hr))
        with discriminator.frozen():
            gan = relativistic(winner=everyone(discriminator(sr)), loser=real.detach())
        with arithmetic(discriminator.device, discriminator.dtype):
            with torch.no_grad():
                wanted = features(hr)
            content = perceptual(features(sr), wanted, _layer_weights(wanted, weights))
        yield terms | {"perceptual": weights.perceptual * content, "gan": weights.gan * gan}
        fake = everyone(discriminator(sr.detach()))
        yield {"discriminator": relativistic(winner=real, loser=fake)}

    return turns


def _layer_weights(wanted: dict[str, Tensor], weights: LossWeights) -> Mapping[str, float | Tensor]:
    """What each layer's distance is multiplied by.

    With ``normalise`` it is divided by the mean magnitude of the real features, in all processes, so that layers whose
    features are a hundred times larger do not drown the others.
    """
    if not weights.normalise:
        return weights.layers
    return {layer: w / average_(wanted[layer].float().abs().mean()) for layer, w in weights.layers.items()}
