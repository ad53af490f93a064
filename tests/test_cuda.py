"""What only a CUDA device can show; the rest of the suite runs on the CPU."""

import copy
from dataclasses import replace

import pytest
import torch

from esrgan.config import GeneratorConfig, LossWeights, OptimConfig
from esrgan.discriminator import Discriminator
from esrgan.generator import Generator
from esrgan.losses import shifted
from esrgan.objectives import gan_objective, psnr_objective
from esrgan.players import EMA, Player
from esrgan.steps import train_steps
from esrgan.upscaler import Upscaler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SHAPE = GeneratorConfig(blocks=1, channels=8, growth=4, scale=4)
ALL_TERMS = LossWeights(gan=0.1, colour=1, grid=1, spectrum=0.1, layers={"conv1_1": 1}, normalise=True)


class Features(torch.nn.Module):
    def forward(self, image):
        return {"conv1_1": image.diff(dim=3)}


def team(stage, algorithm="muon"):
    torch.manual_seed(0)
    optim = OptimConfig(learning_rate=1e-3, algorithm=algorithm, warmup=3)
    generator = Player(Generator(SHAPE).cuda(), optim, steps=20, dtype=torch.bfloat16)
    if stage == "psnr":
        return [generator], psnr_objective(generator)
    critic = Player(Discriminator(4, batch_norm=True).cuda(), replace(optim, algorithm="adam"), steps=20,
                    dtype=torch.bfloat16)  # fmt: skip
    return [generator, critic], gan_objective(generator, critic, Features(), ALL_TERMS)


def batches(count, bad=None):
    torch.manual_seed(1)
    for number in range(1, count + 1):
        hr = torch.rand(4, 3, 64, 64, device="cuda")
        yield number, hr[..., ::4, ::4] * (torch.nan if number == bad else 1), hr


def trained(stage, algorithm="muon", bad=None):
    players, objective = team(stage, algorithm)
    steps = list(train_steps(objective, players, batches(8, bad)))
    return players, steps


def weights(player):
    return torch.cat([w.detach().flatten() for w in player.parameters])


@pytest.mark.parametrize("stage", ["psnr", "gan"])
@pytest.mark.parametrize("algorithm", ["adam", "muon"])
def test_recorded_steps_do_what_steps_as_written_do(monkeypatch, caplog, stage, algorithm):
    recorded, steps = trained(stage, algorithm)
    assert not caplog.messages
    monkeypatch.setattr("esrgan.steps.Recorded", lambda work: work)
    written, others = trained(stage, algorithm)
    for mine, theirs in zip(steps, others, strict=True):
        assert mine.losses.keys() == theirs.losses.keys()
        for name, loss in mine.losses.items():
            torch.testing.assert_close(loss, theirs.losses[name], rtol=0.05, atol=1e-3)
    for mine, theirs in zip(recorded, written, strict=True):
        found, wanted = weights(mine), weights(theirs)
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_a_recorded_step_that_is_not_finite_changes_nothing():
    players, objective = team("gan")
    history = []
    for step in train_steps(objective, players, batches(8, bad=6)):
        assert bool(step.finite) == (step.number != 6)
        history.append([weights(player) for player in players])
    for fifth, sixth, last in zip(history[4], history[5], history[7], strict=True):
        assert torch.equal(fifth, sixth)
        assert last.isfinite().all()
        assert not torch.equal(sixth, last)


def test_a_run_goes_from_the_gpu_to_the_cpu_and_back():
    players, _ = trained("psnr", "adam")
    state = copy.deepcopy(players[0].state_dict())
    here = Player(Generator(SHAPE), OptimConfig(), steps=20, dtype=torch.float32)
    here.load_state_dict(state)
    hr = torch.rand(2, 3, 64, 64)
    steps = train_steps(psnr_objective(here), [here], [(9, hr[..., ::4, ::4], hr)])
    assert all(step.finite for step in steps)
    back, objective = team("psnr", "adam")
    back[0].load_state_dict(copy.deepcopy(here.state_dict()))
    assert all(step.finite for step in train_steps(objective, back, batches(5)))


def test_shifted_crops_are_the_same_of_both():
    seen = set()
    for number in range(40):
        torch.manual_seed(number)
        places = torch.arange(64, device="cuda").view(8, 8).expand(1, 3, 8, 8).float()
        sr, hr = shifted(places, places.clone(), period=4)
        assert sr.shape == (1, 3, 4, 4)
        assert sr.equal(hr)
        seen.add(int(sr[0, 0, 0, 0]))
    assert len(seen) > 8


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_pictures_are_those_of_the_cpu(precision):
    torch.manual_seed(0)
    generator = Generator(replace(SHAPE, channels=32, growth=16)).eval()
    picture = torch.rand(1, 3, 70, 90)
    wanted = Upscaler(generator, device="cpu", precision="fp32")(picture)
    found = Upscaler(generator, device="cuda", precision=precision)(picture.cuda()).cpu()
    assert (found - wanted).abs().max() < {"fp16": 0.01, "bf16": 0.06, "fp32": 1e-4}[precision]


def test_the_average_follows_recorded_steps():
    players, objective = team("psnr")
    net = players[0].net
    ema = EMA(net, copy.deepcopy(net), 0.5)
    for step in train_steps(objective, players, batches(8)):
        ema.update(step.number, step.finite)
    distance = sum((a - b).abs().sum() for a, b in zip(ema.net.parameters(), net.parameters(), strict=True))
    assert 0 < distance < 10


def test_a_long_job_goes_on_compiled(monkeypatch, caplog):
    caplog.set_level("INFO", "esrgan")
    monkeypatch.setattr("esrgan.engines.LONG", 1e-9)
    torch.manual_seed(0)
    generator = Generator(replace(SHAPE, channels=32, growth=16)).eval()
    upscaler = Upscaler(generator, device="cuda", precision="fp16")
    for side in (70, 90, 96):
        picture = torch.rand(1, 3, side, 90)
        wanted = Upscaler(generator, device="cpu", precision="fp32")(picture)
        assert (upscaler(picture.cuda()).cpu() - wanted).abs().max() < 0.01
    assert [message for message in caplog.messages if "compiled from here on" in message]
    assert upscaler._engine._ready[torch.float16].body[0]._compiled_call_impl
