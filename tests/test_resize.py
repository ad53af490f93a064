from pathlib import Path

import pytest
import torch

from esrgan.errors import EsrganError
from esrgan.images import read_rgb
from esrgan.resize import cubic, make_lr, quantise, resize

BENCH = Path(__file__).parents[2] / "shared" / "data" / "bench"
SETS = [("Set5", 2), ("Set5", 3), ("Set5", 4), ("Set14", 4), ("BSD100", 4)]


@pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark pictures are not at hand")
@pytest.mark.parametrize(("name", "scale"), SETS)
def test_lr_is_matlabs_within_one_level_at_every_pixel(name, scale):
    folder = BENCH / name / f"x{scale}"
    paths = sorted((folder / "HR").iterdir())
    assert paths
    for path in paths:
        wanted = read_rgb(folder / "LR" / path.name)
        found = make_lr(read_rgb(path), scale)
        assert (255 * (found - wanted)).abs().max() < 1.01, path.name


@pytest.mark.parametrize("border", ["replicate", "symmetric"])
@pytest.mark.parametrize("factor", [0.1, 1 / 3, 0.5, 0.77, 1, 1.5, 4])
def test_a_flat_picture_stays_flat(border, factor):
    out = resize(torch.full((3, 20, 31), 0.3, dtype=torch.float64), factor, border=border)
    assert (out - 0.3).abs().max() < 1e-12


@pytest.mark.parametrize(("factor", "size"), [(1 / 3, (4, 7)), (0.5, (5, 10)), (2.5, (25, 50)), (8, (80, 160))])
def test_the_output_has_matlabs_size(factor, size):
    assert resize(torch.rand(2, 3, 10, 20), factor).shape == (2, 3, *size)


def test_a_size_can_be_asked_for():
    assert resize(torch.rand(3, 10, 20), size=(7, 33)).shape == (3, 7, 33)


def test_factor_one_changes_nothing():
    image = torch.rand(3, 9, 7)
    torch.testing.assert_close(resize(image, 1), image)


def test_a_ramp_is_reproduced_away_from_the_border():
    ramp = torch.arange(32, dtype=torch.float64).expand(1, 32, 32)
    up = resize(ramp, 4)[0, 0]
    wanted = (torch.arange(128, dtype=torch.float64) + 0.5) / 4 - 0.5
    torch.testing.assert_close(up[12:-12], wanted[12:-12])


def test_shrinking_antialiases():
    stripes = (torch.arange(64) % 2).double().expand(1, 64, 64)
    assert (resize(stripes, 0.25)[..., 4:-4] - 0.5).abs().max() < 0.01


def test_mirrored_and_repeated_borders_differ_only_at_the_border():
    image = torch.rand(1, 40, 40)
    difference = (resize(image, 0.25) - resize(image, 0.25, border="symmetric")).abs()
    assert difference.max() > 1e-3
    assert difference[..., 2:-2, 2:-2].max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 90)])
def test_tiny_pictures_are_resized(size):
    image = torch.rand(3, *size)
    assert resize(image, 4).shape == (3, 4 * size[0], 4 * size[1])
    assert resize(image, 0.25).isfinite().all()


def test_levels_round_to_the_nearest():
    image = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.3])
    assert (quantise(image) * 255).round().tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("bad", [{}, {"factor": 0.0}, {"factor": -1.0}, {"size": (0, 4)}])
def test_what_cannot_be_done_is_refused(bad):
    with pytest.raises(EsrganError):
        resize(torch.rand(3, 8, 8), **bad)


@pytest.mark.parametrize("factor", [0.25, 3])
def test_a_mirrored_border_is_that_of_the_picture_with_its_mirror_images_around_it(factor):
    image = torch.rand(1, 40, 24, dtype=torch.float64)
    wide = torch.cat((image.flip(2), image, image.flip(2)), 2)
    whole = torch.cat((wide.flip(1), wide, wide.flip(1)), 1)
    found, rows, columns = resize(image, factor, border="symmetric"), int(40 * factor), int(24 * factor)
    torch.testing.assert_close(found, resize(whole, factor)[:, rows : 2 * rows, columns : 2 * columns])


def test_the_kernel_is_keys_with_a_slope_of_minus_a_half():
    places = torch.tensor([0, 0.25, 0.5, 1, 1.25, 1.5, 2, 2.5], dtype=torch.float64)
    wanted = [1, 0.8671875, 0.5625, 0, -0.0703125, -0.0625, 0, 0]
    assert cubic(places).tolist() == cubic(-places).tolist() == pytest.approx(wanted, abs=1e-12)


def test_lr_is_rounded_to_8_bits_after_each_dimension():
    hr = quantise(torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)).double())
    rows_first = quantise(resize(quantise(resize(hr, size=(6, 32))), size=(6, 8)))
    assert torch.equal(make_lr(hr, 4), rows_first)
    assert not torch.equal(quantise(resize(hr, 1 / 4)), rows_first)
