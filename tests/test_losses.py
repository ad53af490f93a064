import pytest
import torch
import torch.nn.functional as F

from esrgan.losses import colour, grid, perceptual, pixel, relativistic, shifted, spectrum


def test_relativistic_equals_its_form_with_binary_cross_entropy():
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    above = F.binary_cross_entropy_with_logits(real - fake.mean(), torch.ones(5, 1))
    below = F.binary_cross_entropy_with_logits(fake - real.mean(), torch.zeros(5, 1))
    torch.testing.assert_close(relativistic(winner=real, loser=fake), (above + below) / 2)


def test_relativistic_is_log_two_when_nobody_wins_and_falls_when_the_winner_wins():
    even = relativistic(torch.zeros(4, 1), torch.zeros(4, 1))
    assert even.item() == pytest.approx(0.6931, abs=1e-4)
    assert relativistic(torch.full((4, 1), 3.0), torch.zeros(4, 1)) < even
    assert relativistic(torch.full((4, 1), -3.0), torch.zeros(4, 1)) > even


def test_relativistic_survives_logits_that_overflow_an_exponential():
    loss = relativistic(torch.full((2, 1), -1e4), torch.full((2, 1), 1e4))
    assert loss.item() == pytest.approx(2e4)


def test_the_gradient_reaches_both_sides_of_the_relativistic_loss():
    winner, loser = torch.zeros(3, 1, requires_grad=True), torch.zeros(3, 1, requires_grad=True)
    relativistic(winner, loser).backward()
    assert (winner.grad < 0).all()
    assert (loser.grad > 0).all()


def test_pixel_is_the_mean_absolute_difference():
    assert pixel(torch.tensor([0.0, 0.5]), torch.tensor([0.25, 0.25])).item() == 0.25


def test_perceptual_sums_the_layers_by_weight():
    fake = {"conv1_2": torch.ones(1, 2, 2, 2), "conv5_4": torch.ones(1, 2, 1, 1)}
    real = {"conv1_2": torch.full((1, 2, 2, 2), 3.0), "conv5_4": torch.full((1, 2, 1, 1), -4.0)}
    assert perceptual(fake, real, {"conv5_4": 1.0}).item() == 5
    assert perceptual(fake, real, {"conv1_2": 0.1, "conv5_4": 1.0}).item() == pytest.approx(5.2)


def test_no_gradient_flows_into_the_real_features():
    fake, real = torch.ones(1, 1, 1, 1, requires_grad=True), torch.zeros(1, 1, 1, 1, requires_grad=True)
    perceptual({"conv5_4": fake}, {"conv5_4": real}, {"conv5_4": 1.0}).backward()
    assert fake.grad is not None
    assert real.grad is None


def test_the_grid_loss_is_nothing_between_equal_pictures_and_rises_with_a_grid():
    hr = torch.rand(2, 3, 48, 48)
    assert grid(hr, hr, period=4).item() == 0
    pattern = torch.zeros(1, 1, 48, 48)
    pattern[..., ::4] = 0.1
    faint, strong = (grid(hr + share * pattern, hr, period=4).item() for share in (0.5, 1.0))
    assert 0 < faint < strong


def test_the_grid_loss_sees_detail_that_repeats_though_its_pattern_does_not():
    torch.manual_seed(0)
    noise = torch.randn(2, 3, 96, 96) / 10
    columns = torch.tensor([1.0, 1.0, 0.2, 0.2]).repeat(24)
    even, uneven = 0.5 + 0.6 * noise, 0.5 + columns * noise
    assert grid(uneven, 0.5 + noise, period=4) > 3 * grid(even, 0.5 + noise, period=4)


def test_shifted_cuts_the_same_place_from_both_and_moves_off_the_grid():
    sr, hr = torch.rand(2, 3, 32, 32), torch.arange(32.0).expand(2, 3, 32, 32)
    torch.manual_seed(0)
    seen, above = set(), set()
    for _ in range(40):
        a, b = shifted(sr, hr, period=4)
        assert a.shape == b.shape == (2, 3, 28, 28)
        left = int(b[0, 0, 0, 0])
        seen.add(left)
        top = next(i for i in range(4) if torch.equal(a, sr[..., i : i + 28, left : left + 28]))
        above.add(top)
    assert seen == above == {0, 1, 2, 3}


def test_the_colour_loss_sees_a_cast_and_not_detail():
    hr = torch.rand(2, 3, 32, 32)
    detail = torch.tensor([0.1, -0.1]).repeat(16)
    assert colour(hr + detail, hr, cell=16).item() == pytest.approx(0, abs=1e-6)
    assert colour(hr + 0.02, hr, cell=16).item() == pytest.approx(0.02, rel=1e-4)


def test_the_colour_loss_sees_colour_noise():
    hr = torch.full((1, 3, 32, 32), 0.5)
    noise = torch.zeros(1, 3, 32, 32)
    noise[:, 0, ::2], noise[:, 0, 1::2] = 0.1, -0.1
    assert colour(hr + noise, hr, cell=16).item() == pytest.approx(0.05, rel=1e-4)


def test_the_grid_loss_sees_detail_at_some_positions_only_though_rows_and_columns_are_alike():
    torch.manual_seed(0)
    noise = torch.randn(2, 3, 96, 96) / 10
    checks = 0.2 + 0.8 * ((torch.arange(96)[:, None] + torch.arange(96)) % 2)
    even, uneven = 0.5 + 0.6 * noise, 0.5 + checks * noise
    assert grid(uneven, 0.5 + noise, period=4) > 100 * grid(even, 0.5 + noise, period=4)


def test_spectrum_is_nothing_between_equals_and_sees_lost_detail_and_hatching():
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 64, 64)
    blurred = F.avg_pool2d(F.pad(hr, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    hatched = blurred + 0.1 * (torch.arange(64) % 3 - 1)
    assert spectrum(hr, hr) == 0
    assert spectrum(blurred, hr) > 0.5
    assert spectrum(hatched, blurred) > 0.1


def test_spectrum_treats_rows_and_columns_alike():
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 1, 3, 32, 32)
    torch.testing.assert_close(spectrum(sr.mT, hr.mT), spectrum(sr, hr))
    stripes = 0.5 + 0.1 * torch.sin(torch.arange(32) * torch.pi / 4).expand(1, 3, 32, 32)
    torch.testing.assert_close(spectrum(stripes.mT, 0 * hr), spectrum(stripes, 0 * hr))


def test_spectrum_does_not_mind_where_detail_lies():
    torch.manual_seed(0)
    hr = torch.rand(1, 3, 128, 128)
    assert spectrum(hr.roll((5, 9), dims=(2, 3)), hr) < 0.1


def test_the_grid_loss_sees_a_pattern_fainter_than_the_detail_that_it_lies_in():
    torch.manual_seed(0)
    hr = 0.5 + torch.randn(4, 3, 96, 96) / 10
    pattern = torch.tensor([0.02, -0.02, 0.02, -0.02]).repeat(24)
    assert grid(hr + pattern, hr, period=4) > 3 * grid(hr + pattern[torch.randperm(96)], hr, period=4)


def test_spectrum_leaves_coarse_waves_to_the_other_terms_and_takes_finer_ones():
    flat = torch.full((1, 3, 64, 64), 0.5)
    coarse, finer = (flat + 0.1 * torch.sin(torch.arange(64) * periods * torch.pi / 16) for periods in (1, 4))
    assert spectrum(coarse, flat) < 0.01
    assert spectrum(finer, flat) > 0.05


def test_spectrum_is_of_luma():
    torch.manual_seed(0)
    hr = 0.5 + torch.randn(1, 3, 64, 64) / 10
    unseen = torch.randn(64, 64)[None] * torch.tensor([1 / 0.299, -1 / 0.587, 0]).view(3, 1, 1) / 50
    assert spectrum(hr + unseen, hr) < 1e-3
    assert spectrum(hr + unseen.flip(0), hr) > 1e-2


def test_spectrum_of_a_patch_of_one_colour_is_finite_and_so_is_its_gradient():
    flat = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    loss = spectrum(flat, torch.rand(1, 3, 32, 32))
    loss.backward()
    assert loss.isfinite()
    assert flat.grad.isfinite().all()
