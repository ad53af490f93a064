"""How close a super-resolved picture is to the real one.

Every function takes ``sr`` and ``hr`` as RGB in [0, 1], (N, 3, H, W), and gives one number per picture, (N,). PSNR and
SSIM follow the protocol that papers report: 8-bit, luma of BT.601 in studio swing, the border left out; a picture of
one channel, (N, 1, H, W), is its own luma from 0 to 255, as in the papers' scripts. Of pictures on MPS the numbers, all
but LPIPS, are on the CPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.resize import quantise

PROTOCOL = (
    "SR rounded to 8 bits; PSNR and SSIM (11x11 Gaussian, sigma 1.5, valid region) on BT.601 studio-swing luma, of "
    "grey files on their own values, without a border of `scale` pixels; LPIPS v0.1 (AlexNet) on the whole picture; "
    "means over pictures"
)

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: Tensor) -> Tensor:
    """BT.601 studio-swing luma, 16 to 235, of the picture rounded to 8 bits; (N, 3, H, W) -> (N, 1, H, W), float64."""
    levels = quantise(_double(image))
    if image.shape[1] == 1:
        return 255 * levels
    weights = torch.tensor((65.481, 128.553, 24.966), dtype=torch.float64, device=levels.device)
    return (levels * weights.view(3, 1, 1)).sum(dim=1, keepdim=True) + 16


def _double(image: Tensor) -> Tensor:
    return (image.cpu() if image.device.type == "mps" else image).double()  # MPS has no float64


def to_grey(image: Tensor) -> Tensor:
    """The one channel, (N, 1, H, W), of a grey picture that is stored, or was super-resolved, as RGB."""
    return (luma(image) - 16) / 219


def psnr_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Peak signal-to-noise ratio of the luma in dB: 10 log10(255^2 / MSE); infinite where both are equal.

    Args:
        sr: Super-resolved pictures, RGB in [0, 1], (N, 3, H, W), or (N, 1, H, W) of grey files.
        hr: Real pictures, of the same shape.
        border: Pixels left out on every side, by custom the scale.

    Returns:
        A number per picture, (N,).

    Raises:
        EsrganError: Pictures of different shape, of another type or range, or too small for the border.
    """
    a, b = _inner(sr, hr, border)
    return 10 * torch.log10(255**2 / (a - b).square().mean(dim=(1, 2, 3)))


def ssim_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Structural similarity of the luma, at most 1 (Wang et al. 2004, K1 = 0.01, K2 = 0.03), valid windows only.

    Args:
        sr: Super-resolved pictures, RGB in [0, 1], (N, 3, H, W), or (N, 1, H, W) of grey files.
        hr: Real pictures, of the same shape.
        border: Pixels left out on every side, by custom the scale.

    Returns:
        A number per picture, (N,).

    Raises:
        EsrganError: Pictures of different shape, of another type or range, or too small for the border.
    """
    a, b = _inner(sr, hr, border)
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise EsrganError(f"SSIM needs {SSIM_WINDOW} pixels inside the border; the picture has {min(a.shape[-2:])}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (var_a + var_b + C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _inner(sr: Tensor, hr: Tensor, border: int) -> tuple[Tensor, Tensor]:
    for image in (sr, hr):
        if not (image.is_floating_point() and image.ndim == 4 and image.shape[1] in (1, 3)):
            kind = str(image.dtype).removeprefix("torch.")
            raise EsrganError(f"scores are of float pictures in [0, 1], (N, 3, H, W), not {kind} {tuple(image.shape)}")
    if hr.amin() < -0.5 / 255 or hr.amax() > 1 + 0.5 / 255:
        raise EsrganError(f"hr goes from {hr.amin():g} to {hr.amax():g}; it must be in [0, 1]: divide levels by 255")
    if sr.amin() <= -0.75 or sr.amax() >= 1.75:  # a network may overshoot, but not by that; what is no number scores so
        raise EsrganError(f"sr goes from {sr.amin():g} to {sr.amax():g}; it must be in [0, 1]: divide levels by 255")
    if sr.shape != hr.shape:
        raise EsrganError(f"cannot compare pictures of {tuple(sr.shape[-2:])} and {tuple(hr.shape[-2:])} pixels")
    if min(hr.shape[-2:]) <= 2 * border:
        raise EsrganError(f"nothing is left of {tuple(hr.shape[-2:])} pixels without a border of {border}")
    rows, columns = (slice(border, size - border) for size in hr.shape[-2:])
    return luma(sr)[..., rows, columns], luma(hr)[..., rows, columns]


def _blur(x: Tensor) -> Tensor:
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    kernel /= kernel.sum()
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))


def colour_shift(sr: Tensor, hr: Tensor) -> Tensor:
    """Largest difference between the mean colours, over the three channels, in 8-bit levels."""
    return 255 * (_double(sr).mean(dim=(2, 3)) - _double(hr).mean(dim=(2, 3))).abs().amax(dim=1)


GRID_WINDOW = 32
GRID_STEP = 8
FLAT_SHARE = 0.25
BESIDE = 3  # bins; a Hann window spreads a grid over one bin
ROUNDING_NOISE = 1 / 12  # variance of rounding to whole levels


def grid_energy(sr: Tensor, hr: Tensor, *, period: int) -> Tensor:
    """How much more a grid of ``period`` pixels stands out in the flat areas of ``sr`` than in the real picture's.

    Flat areas are the quarter of the 32x32 windows of luma in which the real picture varies least. There, under a Hann
    window, the energy at the frequencies of the grid (rows, columns and both; those of half the period left out) is
    taken for ``sr`` over ``hr``, as a geometric mean over windows, the noise of 8-bit rounding added to both. Where
    ``sr`` also has more energy than ``hr`` three bins beside these frequencies it is merely sharper or noisier, and the
    result is divided by that. The real picture gives 1, a blurred one less; a grid of one level on top of the real
    picture gives 2 to 10 if it has flat areas, and less the more texture hides the grid.

    Args:
        sr: Super-resolved pictures.
        hr: Real pictures, at least 32 pixels high and wide.
        period: 2 or 4, the factors of the upsampling layers.
    """
    if min(hr.shape[-2:]) < GRID_WINDOW:
        raise EsrganError(f"a grid can be measured from {GRID_WINDOW} pixels on; the picture has {min(hr.shape[-2:])}")
    return torch.stack(
        [_grid_energy(_windows(a), _windows(b), period) for a, b in zip(luma(sr), luma(hr), strict=True)]
    )


def _windows(y: Tensor) -> Tensor:
    """(1, H, W) -> (windows, 32, 32)."""
    return y[0].unfold(0, GRID_WINDOW, GRID_STEP).unfold(1, GRID_WINDOW, GRID_STEP).flatten(0, 1)


def _grid_energy(sr: Tensor, hr: Tensor, period: int) -> Tensor:
    flat = hr.var(dim=(1, 2)).argsort()[: max(1, int(FLAT_SHARE * len(hr)))]
    more = (_log_energy(sr[flat], period) - _log_energy(hr[flat], period)).mean(dim=0).exp()
    return more[0] / more[1].clamp(min=1)


def _log_energy(windows: Tensor, period: int) -> Tensor:
    """Log energy at the grid's frequencies and beside them; (windows, 32, 32) -> (windows, 2)."""
    hann = torch.hann_window(GRID_WINDOW, dtype=windows.dtype, device=windows.device)
    hann = torch.outer(hann, hann)
    centred = windows - windows.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.fft2(centred * hann).abs().square() + ROUNDING_NOISE * hann.square().sum()
    beside = torch.stack([power.roll(by, dim) for by in (-BESIDE, BESIDE) for dim in (1, 2)]).mean(dim=0)
    bins = torch.arange(period, device=windows.device) * (GRID_WINDOW // period)
    u, v = torch.meshgrid(bins, bins, indexing="ij")
    coarse = 2 * GRID_WINDOW // period
    finest = (u % coarse != 0) | (v % coarse != 0)  # not also of half the period, or the mean
    return torch.stack([p[:, u[finest], v[finest]].mean(dim=1).log() for p in (power, beside)], dim=1)


def unevenness(image: Tensor, *, period: int) -> Tensor:
    """How unevenly detail is spread over the positions within ``period`` pixels: 0.01 in real photographs.

    The standard deviation over those period x period positions of the mean size of the high-pass (what a 3x3 mean takes
    away), relative to its mean: a grid in texture, whose pattern changes from place to place, shows here and not in
    ``grid_energy``. Interpolation is uneven too, having more detail near the LR pixels' centres.

    Args:
        image: Pictures cut on LR pixels, at least 16 pixels high and wide.
        period: The scale; 2 or more.
    """
    y = luma(image)
    high = (y - F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, stride=1)).abs()
    rows, columns = (side // period for side in y.shape[-2:])
    cells = high[..., : rows * period, : columns * period].reshape(len(y), rows, period, columns, period)
    profile = cells.mean(dim=(1, 3)).flatten(1)
    return profile.std(dim=1) / (profile.mean(dim=1) + ROUNDING_NOISE)


OVERSHOOT_REACH = 3  # pixels around an edge
EDGE = 48  # levels of luma between the darkest and the brightest pixel near an edge


def overshoot(sr: Tensor, hr: Tensor) -> Tensor:
    """Ringing: how far, in 8-bit levels, ``sr`` leaves the range of ``hr`` beside its edges; 0 = nowhere.

    Where the luma of ``hr`` spans at least 48 levels within 7 x 7 pixels, the mean distance of ``sr`` from that span.
    The real picture and a merely blurred one give 0, halos give more; so does invented detail of high contrast.

    Args:
        sr: Super-resolved pictures.
        hr: Real pictures.
    """
    a, b = luma(sr), luma(hr)
    side = 2 * OVERSHOOT_REACH + 1
    high = F.max_pool2d(b, side, stride=1, padding=OVERSHOOT_REACH)
    low = -F.max_pool2d(-b, side, stride=1, padding=OVERSHOOT_REACH)
    edges = high - low >= EDGE
    outside = ((a - high).clamp(min=0) + (low - a).clamp(min=0)) * edges
    return outside.sum(dim=(1, 2, 3)) / edges.sum(dim=(1, 2, 3)).clamp(min=1)
