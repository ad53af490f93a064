import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from esrgan.errors import EsrganError
from esrgan.images import read_rgb
from esrgan.lpips import LPIPS
from esrgan.metrics import colour_shift, grid_energy, luma, overshoot, psnr_y, ssim_y, to_grey, unevenness
from esrgan.resize import quantise, resize

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "lpips_alex.safetensors"
SAMPLES = SHARED / "data" / "samples"
BENCH = SHARED / "data" / "bench"
needs_bench = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark pictures are not at hand")
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample pictures are not at hand")
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the LPIPS weights are not at hand")


def test_luma_goes_from_16_to_235():
    black_and_white = torch.stack((torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))
    assert luma(black_and_white).flatten().tolist() == pytest.approx([16, 235])


def test_psnr_of_a_known_difference():
    hr = torch.full((1, 3, 20, 20), 100 / 255)
    sr = torch.full((1, 3, 20, 20), 110 / 255)
    wanted = 10 * math.log10(255**2 / (10 * 219 / 255) ** 2)
    assert psnr_y(sr, hr, border=4).item() == pytest.approx(wanted, abs=1e-9)


def test_a_picture_of_one_channel_is_its_own_luma():
    hr, sr = torch.full((1, 1, 20, 20), 100 / 255), torch.full((1, 1, 20, 20), 110 / 255)
    assert psnr_y(sr, hr, border=4).item() == pytest.approx(10 * math.log10(255**2 / 100), abs=1e-9)
    assert to_grey(hr.expand(1, 3, 20, 20)).sub(hr).abs().max() < 1e-6


@pytest.mark.parametrize("scores", [psnr_y, ssim_y])
def test_pictures_of_another_type_shape_or_range_are_refused_not_scored(scores):
    hr = torch.rand(1, 3, 24, 24)
    levels = (255 * hr).round()
    for wrong in (levels.byte(), levels, hr[0], hr[:, :2], torch.cat((hr, hr[:, :1]), 1)):
        with pytest.raises(EsrganError, match=r"\[0, 1\]"):
            scores(wrong, wrong, border=4)
    assert scores(1.2 * hr - 0.1, hr, border=4).isfinite()  # networks overshoot
    for wrong in (levels, 2 * hr - 1):
        with pytest.raises(EsrganError, match=r"sr goes from .*\[0, 1\]"):
            scores(wrong, hr, border=4)


def test_psnr_is_infinite_for_the_picture_itself():
    image = torch.rand(2, 3, 16, 16)
    assert psnr_y(image, image, border=2).tolist() == [math.inf, math.inf]


def test_sr_is_rounded_and_clipped_to_8_bits_first():
    hr = quantise(torch.rand(1, 3, 16, 16))
    assert psnr_y(hr + 0.4 / 255, hr, border=0).item() == math.inf
    assert psnr_y(hr.clamp(min=1) + 0.7, hr.clamp(min=1), border=0).item() == math.inf


def test_what_lies_in_the_border_does_not_count():
    hr = torch.rand(1, 3, 24, 24)
    sr = torch.zeros_like(hr)
    sr[..., 4:-4, 4:-4] = hr[..., 4:-4, 4:-4]
    assert psnr_y(sr, hr, border=4).item() == math.inf
    assert ssim_y(sr, hr, border=4).item() == pytest.approx(1)
    assert psnr_y(sr, hr, border=3).item() < 100


def test_ssim_equals_its_definition_window_by_window():
    torch.manual_seed(0)
    hr = torch.rand(1, 3, 17, 15)
    sr = (hr + 0.2 * torch.randn_like(hr)).clamp(0, 1)
    x, y = luma(sr)[0, 0, 2:-2, 2:-2], luma(hr)[0, 0, 2:-2, 2:-2]
    window = torch.tensor(
        [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)],
        dtype=torch.float64,
    )
    window /= window.sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim_y(sr, hr, border=2).item() == pytest.approx(torch.stack(values).mean().item(), abs=1e-9)


def test_every_measure_gives_one_number_per_picture():
    hr = torch.rand(3, 3, 40, 48)
    sr = (hr + 0.1 * torch.randn_like(hr)).clamp(0, 1)
    for measure in (
        lambda a, b: psnr_y(a, b, border=4),
        lambda a, b: ssim_y(a, b, border=4),
        lambda a, b: grid_energy(a, b, period=4),
        colour_shift,
    ):
        together = measure(sr, hr)
        assert together.shape == (3,)
        torch.testing.assert_close(together[1:2], measure(sr[1:2], hr[1:2]))


def test_pictures_of_other_sizes_and_too_small_ones_are_refused():
    with pytest.raises(EsrganError, match="cannot compare"):
        psnr_y(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), border=1)
    with pytest.raises(EsrganError, match="SSIM needs 11"):
        ssim_y(torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12), border=1)
    with pytest.raises(EsrganError, match="nothing is left"):
        psnr_y(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), border=4)


class OnMps(torch.Tensor):
    """A picture that says it is on MPS and, as there, cannot become float64."""

    device = torch.device("mps")

    def double(self):
        raise TypeError("MPS has no float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_pictures_on_mps_are_measured_on_the_cpu():
    sr, hr = torch.rand(2, 1, 3, 40, 48)
    for measure in (
        lambda a, b: psnr_y(a, b, border=4),
        lambda a, b: ssim_y(a, b, border=4),
        lambda a, b: grid_energy(a, b, period=4),
        lambda a, _: unevenness(a, period=4),
        overshoot,
        colour_shift,
    ):
        assert torch.equal(measure(sr.as_subclass(OnMps), hr.as_subclass(OnMps)), measure(sr, hr))


def test_colour_shift_is_in_levels():
    hr = torch.full((1, 3, 8, 8), 0.5)
    sr = hr.clone()
    sr[:, 2] -= 3 / 255
    assert colour_shift(sr, hr).item() == pytest.approx(3, abs=1e-4)
    assert colour_shift(hr, hr).item() == 0


@needs_bench
@pytest.mark.parametrize(
    ("name", "rgb", "y", "ssim"),
    [("img_001", 20.4197, 22.4419, 0.4531), ("img_005", 20.2399, 21.7204, 0.5855)],
    ids=["baboon", "comic"],
)
def test_bicubic_figures_that_basicsr_reports(name, rgb, y, ssim):
    hr = read_rgb(BENCH / "Set14" / "x4" / "HR" / f"{name}.png")[None].double()
    lr = read_rgb(BENCH / "Set14" / "x4" / "LR" / f"{name}.png")[None].double()
    sr = quantise(resize(lr, 4))
    difference = (sr - hr)[..., 4:-4, 4:-4].square().mean()
    assert 10 * math.log10(1 / difference) == pytest.approx(rgb, abs=0.04)
    assert psnr_y(sr, hr, border=4).item() == pytest.approx(y, abs=0.04)
    assert ssim_y(sr, hr, border=4).item() == pytest.approx(ssim, abs=0.002)


def grid(kind, rows, columns):
    y, x = torch.arange(rows)[:, None], torch.arange(columns)[None]
    return {
        "columns of 4": torch.cos(math.pi / 2 * x).expand(rows, columns),
        "lattice of 4": ((x % 4 == 0) | (y % 4 == 0)).float(),
        "checks of 2": 1.0 - 2 * ((x + y) % 2),
        "columns of 2": 1.0 - 2 * (x % 2).expand(rows, columns),
    }[kind]


@needs_samples
@pytest.mark.parametrize(
    ("kind", "period"), [("columns of 4", 4), ("lattice of 4", 4), ("checks of 2", 2), ("columns of 2", 2)]
)
def test_a_faint_grid_shows_in_flat_areas(kind, period):
    hr = read_rgb(SAMPLES / "osprey.png")[None, :, :256, :256]
    values = [grid_energy(hr + level / 255 * grid(kind, 256, 256), hr, period=period).item() for level in (0, 1, 2, 3)]
    assert values[0] == 1
    assert values == sorted(values)
    assert values[1] > 1.4
    assert values[2] > 2


@needs_samples
def test_bicubic_blurred_sharpened_and_noisy_pictures_have_no_grid():
    torch.manual_seed(0)
    for path in sorted(SAMPLES.glob("*.png")):
        hr = read_rgb(path)[None, :, :256, :256]
        blurred = F.avg_pool2d(F.pad(hr, (1, 1, 1, 1), mode="replicate"), 3, 1)
        bicubic = resize(resize(hr, 1 / 4), 4)
        for sr in (bicubic, blurred):
            assert grid_energy(sr, hr, period=2).item() < 1
            assert grid_energy(sr, hr, period=4).item() < 1
        for sr in (2 * hr - blurred, hr + 4 / 255 * torch.randn_like(hr)):
            assert grid_energy(sr, hr, period=2).item() < 1.6
            assert grid_energy(sr, hr, period=4).item() < 1.6


def test_a_picture_without_any_detail_can_be_measured():
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert grid_energy(flat, flat, period=4).item() == 1
    assert grid_energy(flat + 2 / 255 * grid("lattice of 4", 64, 64), flat, period=4).item() > 20


@needs_weights
def test_lpips_is_zero_for_the_picture_itself_and_grows_with_distortion():
    torch.manual_seed(0)
    measure, hr = LPIPS(WEIGHTS), torch.rand(2, 3, 64, 48)
    noise = torch.randn_like(hr)
    values = [measure((hr + level * noise).clamp(0, 1), hr) for level in (0, 0.1, 0.3)]
    assert values[0].tolist() == [0, 0]
    assert (values[1] < values[2]).all()
    assert not any(p.requires_grad for p in measure.parameters())


@needs_weights
def test_lpips_reads_the_two_official_files_from_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    given = LPIPS(WEIGHTS)
    state = given.state_dict()
    alexnet = {name: tensor for name, tensor in state.items() if name.startswith("features")}
    linear = {name.replace(".weight", ".model.1.weight"): state[name] for name in state if name.startswith("lin")}
    torch.save(alexnet | {"classifier.1.bias": torch.zeros(1)}, cache / "alexnet-owt-7be5be79.pth")
    torch.save(linear, cache / "lpips-alex-v0.1.pth")
    sr, hr = torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40)
    assert torch.equal(LPIPS()(sr, hr), given(sr, hr))


@needs_bench
@needs_weights
def test_lpips_of_bicubic_is_the_published_one():
    measure, values = LPIPS(WEIGHTS), []
    for path in sorted((BENCH / "Set5" / "x4" / "HR").iterdir()):
        hr, lr = read_rgb(path)[None], read_rgb(BENCH / "Set5" / "x4" / "LR" / path.name)[None]
        values.append(measure(quantise(resize(lr, 4)), hr).item())
    assert sum(values) / len(values) == pytest.approx(0.340, abs=0.002)


def test_unevenness_sees_a_grid_in_texture_and_not_texture():
    torch.manual_seed(0)
    noise = torch.randn(1, 1, 240, 240).expand(1, 3, -1, -1) / 10
    checks = (0.5 + 0.5 * ((torch.arange(240)[:, None] // 2 + torch.arange(240) // 2) % 2)).float()
    even, uneven = (unevenness((0.5 + x).clamp(0, 1), period=4).item() for x in (noise, checks * noise))
    assert even < 0.03
    assert uneven > 5 * even


def test_overshoot_is_nothing_for_the_real_and_a_blurred_picture_and_grows_with_halos():
    hr = torch.full((1, 3, 40, 40), 0.3)
    hr[..., 20:] = 0.7
    blurred = F.avg_pool2d(F.pad(hr, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    assert overshoot(hr, hr).item() == overshoot(blurred, hr).item() == 0
    halos = [overshoot(quantise(hr + k * (hr - blurred)), hr).item() for k in (0.2, 0.4)]
    assert 1 < halos[0] < halos[1]


def test_dark_halos_count_as_bright_ones():
    hr = torch.full((1, 3, 40, 40), 0.3)
    hr[..., 20:] = 0.7
    bright, dark = hr.clone(), hr.clone()
    bright[..., 20] += 0.2
    dark[..., 19] -= 0.2
    assert overshoot(bright, hr).item() == pytest.approx(overshoot(dark, hr).item(), rel=0.02)
    assert overshoot(dark, hr).item() > 1


def test_each_channel_counts_in_luma_as_bt_601_has_it():
    primaries = torch.eye(3).view(3, 3, 1, 1)
    assert luma(primaries).flatten().tolist() == pytest.approx([81.481, 144.553, 40.966])
