"""The terms that training minimises, as pure functions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-3  # where Charbonnier turns from square to straight; a quarter of an 8-bit level


def pixel(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference (L1), the paper's choice for PSNR; (N, 3, H, W) both."""
    return F.l1_loss(sr, hr)


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """L1 that is smooth at zero: the mean of sqrt(d^2 + 0.001^2); (N, 3, H, W) both."""
    return ((sr - hr).square() + SMOOTH**2).sqrt().mean()


def relativistic(winner: Tensor, loser: Tensor) -> Tensor:
    """Relativistic average GAN loss: low when ``winner`` scores above the mean ``loser`` and ``loser`` below the mean.

    The discriminator passes (real, fake), the generator (fake, real). Equations 1 and 2 of the paper, halved as in all
    public implementations, so that the paper's weight of 5e-3 means what it meant there.

    Args:
        winner: Discriminator logits that should be high, (N, 1).
        loser: Logits that should be low, (N, 1).
    """
    above = F.softplus(loser.mean() - winner)
    below = F.softplus(loser - winner.mean())
    return (above.mean() + below.mean()) / 2


def perceptual(
    fake: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    weights: Mapping[str, float],
    *,
    normalise: bool = False,
) -> Tensor:
    """Weighted sum over layers of the L1 distance between features.

    Args:
        fake: Layer name -> features of the super-resolved pictures, as ``VGGFeatures`` gives them.
        real: The same of the real pictures; no gradient flows into them.
        weights: Layer name -> weight; ``{"conv5_4": 1.0}`` is the paper's.
        normalise: Divide each layer's distance by the mean magnitude of its real features, so that layers whose
            features are a hundred times larger do not drown the others.
    """
    terms = []
    for layer, weight in weights.items():
        a, b = fake[layer].float(), real[layer].detach().float()
        distance = F.l1_loss(a, b)
        terms.append(weight * (distance / b.abs().mean() if normalise else distance))
    return torch.stack(terms).sum()
