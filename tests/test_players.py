import copy

import pytest
import torch
from torch import nn

from esrgan.config import GeneratorConfig, OptimConfig
from esrgan.discriminator import Discriminator
from esrgan.generator import Generator
from esrgan.muon import Muon
from esrgan.players import EMA, Player, rate

SHAPE = GeneratorConfig(channels=8, growth=4, blocks=1)
FINE, BAD = torch.tensor(True), torch.tensor(False)


def player(net=None, **options):
    torch.manual_seed(0)
    return Player(net or nn.Conv2d(3, 3, 3, padding=1), OptimConfig(**options), steps=10, dtype=torch.float32)


def learn(p, number=1, *, finite=FINE, factor=1.0):
    (factor * p(torch.ones(1, 3, 8, 8)).square().mean()).backward()
    norm = p.average_gradient()
    p.set_rate(number)
    p.step(finite)
    return norm


def weights(p):
    return [w.detach().clone() for w in p.parameters]


def test_the_learning_rate_rises_halves_and_falls():
    config = OptimConfig(learning_rate=1.0, warmup=4, milestones=(6,), decay=0.2)
    rates = [rate(config, step, 10) for step in range(1, 11)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.5, 0.25])


def test_frozen_lets_gradient_through_to_the_input_alone():
    p = player()
    x = torch.ones(1, 3, 8, 8, requires_grad=True)
    with p.frozen():
        p(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert p.gradient.abs().sum() == 0
    assert all(w.requires_grad for w in p.parameters)


def test_clipping_bounds_the_gradient_and_tells_its_norm():
    p = player(clip=1e-3)
    (1e3 * p(torch.ones(1, 3, 8, 8)).square().mean()).backward()
    assert p.average_gradient() > 1
    assert p.gradient.norm() == pytest.approx(1e-3, rel=1e-3)


def test_the_flat_gradient_is_autograds():
    p = player(Discriminator(4))
    other = copy.deepcopy(p.net)
    for w in other.parameters():
        w.grad = None
    x = torch.rand(2, 3, 32, 32)
    p(x).sum().backward()
    other(x).sum().backward()
    for mine, theirs in zip(p.parameters, other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("algorithm", ["adam", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(algorithm):
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)))
    net.add_module("last", nn.Conv2d(3, 3, 1))
    p, steps = player(net, algorithm=algorithm), []
    ema = EMA(net, copy.deepcopy(net), 0.9)
    learn(p)
    ema.update(1, FINE)
    before, state, mean = weights(p), copy.deepcopy(p.state_dict()), copy.deepcopy(ema.net.state_dict())
    p(torch.full((1, 3, 8, 8), float("nan"))).sum().backward()
    steps.append(p.average_gradient())
    assert not steps[-1].isfinite()
    p.set_rate(2)
    p.step(BAD)
    ema.update(2, BAD)
    assert all(map(torch.equal, before, weights(p)))
    torch.testing.assert_close(p.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(ema.net.state_dict(), mean, rtol=0, atol=0)
    learn(p, 3)
    assert not all(map(torch.equal, before, weights(p)))


@pytest.mark.parametrize("algorithm", ["adam", "muon"])
def test_a_restored_player_goes_on_bit_for_bit(algorithm):
    one = player(algorithm=algorithm)
    learn(one)
    other = player(algorithm=algorithm)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    learn(one, 2)
    learn(other, 2)
    assert all(map(torch.equal, weights(one), weights(other)))


def test_a_player_from_a_device_without_fused_adam_goes_on_here():
    p = player()
    learn(p)
    state = copy.deepcopy(p.state_dict())
    for group in state["optimizers"][0]["param_groups"]:
        group["fused"] = False
    q = player()
    q.load_state_dict(state)
    for one in (p, q):
        learn(one, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights(p), weights(q), strict=True))


def test_the_average_follows_and_is_young_at_first():
    net = nn.Linear(1, 1, bias=False)
    ema = EMA(net, copy.deepcopy(net), 0.999)
    with torch.no_grad():
        start = net.weight.item()
        net.weight += 1
    ema.update(1, FINE)
    assert ema.net.weight.item() - start == pytest.approx(10 / 11)


@pytest.mark.parametrize("algorithm", ["adam", "muon"])
def test_a_state_laid_out_otherwise_in_memory_goes_on_as_it_was(algorithm):
    """As a run on Apple's GPU saves it."""
    ones, others = (player(Generator(SHAPE), algorithm=algorithm) for _ in range(2))
    for number in (1, 2):
        learn(ones, number)
    state = copy.deepcopy(ones.state_dict())
    for optimizer in state["optimizers"]:
        for kept in optimizer["state"].values():
            kept |= {name: value.contiguous() for name, value in kept.items()}
    others.load_state_dict(state)
    for p in (ones, others):
        learn(p, 3)
    for mine, theirs in zip(weights(ones), weights(others), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)


def test_a_gradient_shorter_than_the_largest_is_left_as_it_is():
    p = player(clip=1e6)
    p(torch.ones(1, 3, 8, 8)).square().mean().backward()
    before = p.gradient.clone()
    assert p.average_gradient() == before.norm()
    assert torch.equal(p.gradient, before)


def test_the_average_has_its_memory_once_it_is_old():
    net = nn.Linear(1, 1, bias=False)
    ema = EMA(net, copy.deepcopy(net), 0.9)
    start = net.weight.item()
    with torch.no_grad():
        net.weight += 1
    ema.update(10_000, FINE)
    assert ema.net.weight.item() - start == pytest.approx(0.1, rel=1e-4)


def test_muon_moves_the_convolutions_of_the_body_and_adam_all_else_with_its_betas():
    p = player(Generator(SHAPE), algorithm="muon", betas=(0.5, 0.9))
    adam, muon = p.optimizers
    assert isinstance(muon, Muon)
    names = {id(weight): name for name, weight in p.net.named_parameters()}
    mine = {names[id(weight)] for weight in muon.param_groups[0]["params"]}
    assert mine == {name for name in names.values() if name.startswith("body.") and name.endswith("weight")}
    assert {names[id(weight)] for weight in adam.param_groups[0]["params"]} == set(names.values()) - mine
    assert adam.param_groups[0]["betas"] == (0.5, 0.9)
