from dataclasses import replace

import pytest
import tiny
import torch

from esrgan.config import LossWeights, OptimConfig
from esrgan.discriminator import Discriminator
from esrgan.generator import Generator
from esrgan.losses import colour, grid, perceptual, pixel, relativistic, shifted, spectrum
from esrgan.objectives import gan_objective, psnr_objective
from esrgan.players import Player
from esrgan.vgg import VGGFeatures


def players(folder):
    torch.manual_seed(0)
    make = {"config": OptimConfig(), "steps": 10, "dtype": torch.float32}
    features = VGGFeatures(tiny.shallow_vgg(folder / "vgg.safetensors"), layers=["conv1_2"])
    return Player(Generator(tiny.SHAPE), **make), Player(Discriminator(4), **make), features


def batch():
    return torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)


def test_stage_1_has_one_turn_of_pixels(tmp_path):
    generator, _, _ = players(tmp_path)
    (terms,) = psnr_objective(generator)(*batch())
    assert set(terms) == {"pixel"}


def test_each_player_gets_only_its_own_gradient(tmp_path):
    generator, discriminator, features = players(tmp_path)
    weights = LossWeights(layers={"conv1_2": 1.0})
    turns = gan_objective(generator, discriminator, features, weights)(*batch())
    sum(next(turns).values()).backward()
    assert generator.gradient.abs().sum() > 0
    assert discriminator.gradient.abs().sum() == 0
    before = generator.gradient.clone()
    sum(next(turns).values()).backward()
    assert discriminator.gradient.abs().sum() > 0
    assert torch.equal(generator.gradient, before)


def test_a_weight_of_zero_takes_a_term_out(tmp_path):
    generator, discriminator, features = players(tmp_path)
    weights = LossWeights(pixel=1.0, perceptual=0.0, gan=0.0, layers={"conv1_2": 1.0})
    lr, hr = batch()
    losses = next(gan_objective(generator, discriminator, features, weights)(lr, hr))
    assert losses["perceptual"] == losses["gan"] == 0
    torch.testing.assert_close(losses["pixel"], (generator(lr) - hr).abs().mean())


def test_normalising_divides_by_the_magnitude_of_the_real_features(tmp_path):
    generator, discriminator, features = players(tmp_path)
    weights = LossWeights(layers={"conv1_2": 0.3}, normalise=True)
    lr, hr = batch()
    found = next(gan_objective(generator, discriminator, features, weights)(lr, hr))["perceptual"]
    fake, real = features(generator(lr))["conv1_2"], features(hr)["conv1_2"]
    torch.testing.assert_close(found, 0.3 * (fake - real).abs().mean() / real.abs().mean())


def test_a_patch_smaller_than_a_cell_of_colours_is_one_cell(tmp_path):
    _, discriminator, features = players(tmp_path)
    net = Generator(replace(tiny.SHAPE, scale=16))
    generator = Player(net, config=OptimConfig(), steps=10, dtype=torch.float32)
    weights = LossWeights(colour=1.0, layers={"conv1_2": 1.0})
    lr, hr = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 32, 32)
    losses = next(gan_objective(generator, discriminator, features, weights)(lr, hr))
    torch.testing.assert_close(losses["colour"], colour(net(lr), hr, cell=32))


@pytest.mark.parametrize("of_grid", [0.0, 0.7])
def test_in_stage_2_every_term_counts_by_its_weight_and_each_side_wants_to_score_above_the_other(tmp_path, of_grid):
    generator, discriminator, features = players(tmp_path)
    discriminator.net.logit.weight.data.mul_(100)  # so that it matters who is to win
    weights = LossWeights(
        pixel=0.1, perceptual=0.2, gan=0.3, colour=0.4, spectrum=0.5, grid=of_grid, layers={"conv1_2": 0.6}
    )
    (lr, hr), sides = batch(), []
    torch.manual_seed(1)
    for terms in gan_objective(generator, discriminator, features, weights)(lr, hr):
        sides.append(terms)
        sum(terms.values()).backward()
    sr = generator(lr)
    wanted = {
        "pixel": 0.1 * pixel(sr, hr), "colour": 0.4 * colour(sr, hr, cell=16), "spectrum": 0.5 * spectrum(sr, hr)
    }  # fmt: skip
    if of_grid:
        wanted["grid"] = 0.7 * grid(sr, hr, period=4)
        torch.manual_seed(1)
        sr, hr = shifted(sr, hr, period=4)
    fake, real = discriminator(sr), discriminator(hr)
    wanted["perceptual"] = 0.2 * perceptual(features(sr), features(hr), {"conv1_2": 0.6})
    wanted["gan"] = 0.3 * relativistic(winner=fake, loser=real)
    torch.testing.assert_close(sides, [wanted, {"discriminator": relativistic(winner=real, loser=fake)}])
