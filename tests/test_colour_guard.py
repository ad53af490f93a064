from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from esrgan.colour_guard import MOST, Balance, hold_colours
from esrgan.config import GeneratorConfig
from esrgan.enlarge import enlarge_tile
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.resize import resize
from esrgan.upscale_one import upscale
from esrgan.upscaler import LEVEL, Upscaler


def mean_colours(image, scale=1):
    """Over 9 x 9 LR pixels."""
    return F.avg_pool2d(F.avg_pool2d(image, scale), 9, stride=1)


def coarse(height=40, width=56):
    torch.manual_seed(0)
    return 0.2 + 0.6 * torch.rand(1, 3, height, width)


def test_colours_within_a_level_are_left_alone_bit_for_bit():
    lr = coarse()
    texture = 0.1 * torch.tensor([1.0, -1.0]).repeat(112)
    sr = F.interpolate(lr, scale_factor=4) + 0.9 * LEVEL + texture
    assert torch.equal(hold_colours(lr, sr.clone(), 4), sr)


def test_an_area_whose_colour_is_off_comes_back_and_the_rest_stays():
    lr = coarse()
    sr = F.interpolate(lr, scale_factor=4)
    off = sr.clone()
    off[:, 0, :, 112:] += 20 * LEVEL
    held = hold_colours(lr, off, 4)
    assert (mean_colours(held, 4) - mean_colours(lr)).abs().max() < 2 * LEVEL
    assert torch.equal(held[..., :60], sr[..., :60])
    assert torch.equal(held[:, 1:], sr[:, 1:])
    steps = (held - sr)[:, 0].diff(dim=-1)
    assert steps[..., :108].abs().max() < 3 * LEVEL  # no seam but the one that was there
    assert steps[..., 116:].abs().max() < 3 * LEVEL


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 9), (3, 5), (24, 31)])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_one_round_takes_what_pooling_says_away_as_interpolation_spreads_it(monkeypatch, scale, size, rows):
    monkeypatch.setattr("esrgan.colour_guard.ROUNDS", 1)
    monkeypatch.setattr("esrgan.colour_guard.STRIP", rows * size[1] * scale**2)
    torch.manual_seed(0)
    lr = 0.4 + 0.2 * torch.rand(2, 3, *size)
    sr = F.interpolate(lr, scale_factor=scale) + 0.04 * torch.rand(2, 3, size[0] * scale, size[1] * scale)
    off = F.avg_pool2d(lr - F.avg_pool2d(sr, scale), 9, stride=1, padding=4, count_include_pad=False)
    excess = off - off.clamp(-LEVEL, LEVEL)
    assert excess.any()
    step = 1.5 * F.avg_pool2d(excess, 9, stride=1, padding=4, count_include_pad=False)
    expected = sr + F.interpolate(step, scale_factor=scale, mode="bilinear")
    assert (hold_colours(lr, sr, scale) - expected).abs().max() < 1e-6


def test_what_clips_at_white_comes_back_too():
    torch.manual_seed(0)
    lr = torch.full((1, 3, 32, 32), 0.5)
    sr = (torch.rand(1, 3, 128, 128) > 0.45).float()
    assert (hold_colours(lr, sr, 4).mean((2, 3)) - 0.5).abs().max() < 2 * LEVEL


def test_a_network_that_is_wide_off_stays_so():
    lr = torch.full((1, 3, 32, 32), 0.3)
    held = hold_colours(lr, F.interpolate(lr, scale_factor=4) + MOST + 0.1, 4)
    assert (held - 0.4).abs().max() < 1e-5


def test_a_network_that_is_wide_off_stays_so_on_the_grain_of_photos_too():
    lr = 0.3 + 0.2 * (coarse() - 0.5)
    held = hold_colours(lr, F.interpolate(lr, scale_factor=4) + MOST + 0.1, 4)
    assert (mean_colours(held, 4) - mean_colours(lr)).min() > 0.07


def checks(period: int = 2) -> np.ndarray:
    y, x = np.mgrid[:48, :48]
    return np.where((x + y) % period == 0, 255, 0).astype(np.uint8)


DITHERED = {
    "checks": checks(),
    "sparse checks": checks(5),
    "stripes": np.tile(np.array([0, 255], np.uint8), (48, 24)),
    "red and green stripes": np.tile(np.array([[255, 0, 0], [0, 255, 0]], np.uint8), (48, 24, 1)),
    **{f"grey {grey}": np.asarray(Image.new("L", (48, 48), grey).convert("1").convert("L")) for grey in (20, 64, 218)},
}


@pytest.mark.parametrize("model", ["lite_x4_gan", "lite_x4_psnr"])
@pytest.mark.parametrize("name", DITHERED)
def test_dithered_pictures_keep_their_mean_colour(model, name):
    picture = DITHERED[name]
    large = upscale(picture, Upscaler(model, device="cpu", precision="fp32"))  # raises where it is not held
    assert np.abs(large.mean((0, 1)) - picture.mean((0, 1))).max() <= 2


def test_held_colours_show_no_seams_between_tiles():
    stripes = np.zeros((80, 120, 3), np.uint8)
    for i, colour in enumerate([(255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 255, 0)]):
        stripes[:, 30 * i : 30 * (i + 1)] = colour
    stripes[50:] = np.random.default_rng(0).integers(0, 256, (30, 120, 3))
    small, whole = (
        upscale(stripes, Upscaler(device="cpu", precision="fp32", tile=tile, overlap=32)).astype(int)
        for tile in (80, 256)
    )
    assert np.abs(small - whole).max() <= 1
    assert np.abs(whole[40:160, 40:80].mean((0, 1)) - (255, 0, 0)).max() < 1.1  # flat colours are exact to a level


def drawn(width: int) -> np.ndarray:
    """Lines of golden stripes, ``width`` pixels wide, on nothing."""
    icon = np.zeros((48, 48, 4), np.uint8)
    icon[..., :3] = np.where(np.arange(48)[:, None, None] % 6 < 3, (230, 180, 20), (90, 60, 10))
    for middle in (10, 24, 38):
        icon[4:44, middle : middle + width, 3] = icon[middle : middle + width, 4:44, 3] = 255
    return icon


@pytest.mark.parametrize("model", ["lite_x4_gan", "lite_x4_psnr"])
@pytest.mark.parametrize("width", [1, 2])
def test_thin_lines_on_nothing_keep_their_colours_and_have_no_haze(model, width):
    icon = drawn(width)
    large = upscale(icon, Upscaler(model, device="cpu", precision="fp32"))  # raises where colours are not held
    cells = F.avg_pool2d(torch.from_numpy(large).permute(2, 0, 1)[None].float(), 4)[0].numpy()
    seen = icon[..., 3] > 0
    moved = (cells[:3, seen] - icon[seen].T[:3]).mean(1)
    assert np.abs(moved).max() < 2
    near = F.max_pool2d(torch.from_numpy(seen)[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    assert cells[3, ~near.numpy()].mean() < 2  # levels of opacity two pixels away from a line and farther


class WithoutFloat64(TorchDispatchMode):
    """Stands for MPS, which has no float64: no sum of fp32 is in it, and nothing of it goes to another device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            assert not out.is_meta
            assert func.overloadpacket is not torch.ops.aten.sum or args[0].dtype == torch.float64
        return out


@pytest.mark.parametrize("bands", [3, 4])
def test_a_device_without_float64_will_do(bands):
    tile, balance = torch.rand(bands, 9, 9), Balance()
    with WithoutFloat64():
        balance.add(tile, tile)
        resize(tile.to("meta"), 0.5)
    balance.check()


@pytest.mark.parametrize(
    ("levels", "refused"), [(1.9, False), (-1.9, False), (2.1, True), (-2.1, True), (torch.nan, True)]
)
def test_a_mean_colour_that_moves_by_more_than_two_levels_is_refused(levels, refused):
    balance, lr = Balance(), torch.full((3, 9, 9), 0.5)
    sr = F.interpolate(lr[None], scale_factor=4)[0]
    sr[2] += levels * LEVEL
    balance.add(lr, sr)
    with pytest.raises(EsrganError, match="mean colour moved") if refused else nullcontext():
        balance.check()


def test_colours_that_nobody_sees_do_not_count_in_the_mean():
    lr = torch.full((4, 8, 8), 0.5)
    lr[3, :, :4], lr[3, :, 4:] = 0, 1
    clear, opaque = (lr.repeat_interleave(2, 1).repeat_interleave(2, 2) for _ in range(2))
    clear[0, :, :8] += 0.2
    opaque[0, :, 8:] += 3 * LEVEL  # 1.5 of the whole
    for sr in (clear, opaque):
        balance = Balance()
        balance.add(lr, sr)
        with pytest.raises(EsrganError, match=r"moved by 3\.0 of 255") if sr is opaque else nullcontext():
            balance.check()


def test_where_a_network_misses_what_nobody_sees_the_colours_beside_it_stay():
    class Off(Generator):
        def forward(self, lr):
            sr = F.interpolate(lr, scale_factor=4)
            sr[..., 48:] += 40 * LEVEL
            return sr

    tile = torch.full((4, 20, 24), 0.5)
    tile[3, :, :12], tile[3, :, 12:] = 1, 0
    upscaler = Upscaler(Off(GeneratorConfig(channels=3, growth=1, blocks=1)), device="cpu", precision="fp32")
    sr = enlarge_tile(upscaler, tile, exact=True, transparency="bicubic")
    assert (sr[:3, :, :44] == 0.5).all()
