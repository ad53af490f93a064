"""The terms that training minimises, as pure functions; pictures are RGB in [0, 1]."""

from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-3  # of 1: added to the amount of detail that profiles are relative to
WINDOW, WINDOW_STEP = 32, 12  # of the spectra
COARSE = 3  # frequencies below this many periods in a window are left to the other terms
ROUNDING = (1 / 255) ** 2 / 12  # variance of rounding to 8 bits


def pixel(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference (L1), the paper's choice for PSNR; (N, 3, H, W) both."""
    return F.l1_loss(sr, hr)


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


def perceptual(fake: Mapping[str, Tensor], real: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    """Weighted sum over layers of the L1 distance between features.

    Args:
        fake: Layer name -> features of the super-resolved pictures, as ``VGGFeatures`` gives them.
        real: The same of the real pictures; no gradient flows into them.
        weights: Layer name -> weight; ``{"conv5_4": 1.0}`` is the paper's.
    """
    distances = [w * F.l1_loss(fake[layer].float(), real[layer].detach().float()) for layer, w in weights.items()]
    return torch.stack(distances).sum()


def colour(sr: Tensor, hr: Tensor, *, cell: int) -> Tensor:
    """L1 between the mean colours of cells of ``cell`` x ``cell`` pixels, plus L1 between colour differences of pixels.

    A GAN may drift in colour by a few levels, as the sign of each pixel's error is a matter of detail, not of colour;
    and it invents detail in the differences red - green and blue - green, where real pictures have little and the eye
    sees none but the grid that it leaves.

    Args:
        sr: Super-resolved pictures, (N, 3, H, W).
        hr: The real ones.
        cell: Side of the cells, in pixels.
    """
    cells = F.l1_loss(F.avg_pool2d(sr, cell), F.avg_pool2d(hr, cell))
    return cells + F.l1_loss(sr[:, ::2] - sr[:, 1:2], hr[:, ::2] - hr[:, 1:2])


def grid(sr: Tensor, hr: Tensor, *, period: int) -> Tensor:
    """How differently ``sr`` and ``hr`` spread detail over the positions within an LR pixel; 0 = alike.

    A real picture has as much detail at one position as at the next. A generator's texture likes to repeat with the LR
    pixels, which neither VGG nor LPIPS punishes much. Compared, picture by picture and relative to their means, are the
    mean at each position of the differences to the right and to the lower neighbour and of the high-pass (its size, so
    that no detail gathers at some positions, and its value, so that no pattern is added). Squared,
    because the gradient is then right on average though the profiles of a patch are noisy.

    Args:
        sr: Super-resolved pictures, (N, 3, H, W), cut on LR pixels.
        hr: The real ones.
        period: The scale.
    """
    return F.mse_loss(_profiles(sr, period), _profiles(hr, period).detach())


def _profiles(image: Tensor, period: int) -> Tensor:
    """Four maps of detail by position within a period, each relative to its mean; (4, N, period, period)."""
    right, down = (image.diff(dim=dim).abs() for dim in (3, 2))
    high = image - F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    maps = [_folded(x, period) for x in (right, down, high.abs(), high)]
    sizes = torch.stack([maps[0], maps[1], maps[2], maps[2]]).mean(dim=(2, 3), keepdim=True)
    return torch.stack(maps) / (sizes + SMOOTH)


def _folded(x: Tensor, period: int) -> Tensor:
    """The mean at every position within a period, over all whole periods; (N, C, H, W) -> (N, period, period)."""
    height, width = (side // period for side in x.shape[-2:])
    x = x[..., : height * period, : width * period]
    return x.reshape(len(x), x.shape[1], height, period, width, period).mean(dim=(1, 2, 4))


def spectrum(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference between the log power spectra of ``sr`` and ``hr``; 0 = as much detail of every kind.

    VGG, LPIPS and a small discriminator are content with a hatching: detail whose energy lies near the axes of the
    spectrum, while diagonal detail stays a hundredth of the real picture's. Here every frequency and direction counts
    alike. Power is that of luma under a Hann window of 32 x 32 pixels, averaged over a picture's windows.

    Args:
        sr: Super-resolved pictures, (N, 3, H, W), at least 32 pixels high and wide.
        hr: The real ones.
    """
    return F.l1_loss(_log_power(sr), _log_power(hr).detach())


def _log_power(image: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, frequencies)."""
    luma, hann, fine = _spectral(image.device)
    y = (image.float() * luma).sum(1)
    windows = y.unfold(1, WINDOW, WINDOW_STEP).unfold(2, WINDOW, WINDOW_STEP).flatten(1, 2)
    centred = windows - windows.mean(dim=(2, 3), keepdim=True)
    power: Tensor = torch.fft.rfft2(centred * hann).abs().square().mean(dim=1) + ROUNDING * hann.square().sum()
    return power.log().flatten(1).index_select(1, fine)


@cache
def _spectral(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of luma, the Hann window, which of the frequencies count; kept, as a device would wait for them.

    In its first and last column ``rfft2`` has each frequency of a real picture twice; one of each pair counts.
    """
    hann = torch.hann_window(WINDOW)
    rows, columns = torch.fft.fftfreq(WINDOW, 1 / WINDOW), torch.fft.rfftfreq(WINDOW, 1 / WINDOW)
    fine = (rows[:, None].square() + columns.square()).sqrt() >= COARSE
    twins = ((columns == 0) | (columns == WINDOW // 2)) & (rows < 0)[:, None] & (rows > -WINDOW // 2)[:, None]
    luma = torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
    return luma.to(device), torch.outer(hann, hann).to(device), (fine & ~twins).flatten().nonzero()[:, 0].to(device)


def shifted(sr: Tensor, hr: Tensor, *, period: int) -> tuple[Tensor, Tensor]:
    """The same random crop of both, ``period`` pixels smaller, beginning anywhere within an LR pixel.

    Networks with strides, such as VGG and the discriminator, give gradients that repeat with their own grid; shifting
    what they see at random keeps the generator from locking its texture to it.
    """
    height, width = (side - period for side in hr.shape[-2:])
    if hr.is_cuda:  # where nobody waits to learn where it is
        top, left = torch.randint(0, period, (2, 1), device=hr.device)
        rows, columns = (start + torch.arange(n, device=hr.device) for start, n in ((top, height), (left, width)))
        return sr.index_select(2, rows).index_select(3, columns), hr.index_select(2, rows).index_select(3, columns)
    top, left = (int(i) for i in torch.randint(0, period, (2,)))
    return tuple(x[..., top : top + height, left : left + width] for x in (sr, hr))  # type: ignore[return-value]
