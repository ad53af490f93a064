import gc
import os
import signal
import time
import weakref
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F

from esrgan import winograd_threads
from esrgan.config import GeneratorConfig
from esrgan.generator import Generator
from esrgan.model_file import load_model
from esrgan.stages import pretrain
from esrgan.team import build_team
from esrgan.validation import Validation
from esrgan.vgg import VGGFeatures
from esrgan.winograd import Features, Gradient
from esrgan.winograd_job import GradientJob, Job
from esrgan.winograd_kernel import Code
from esrgan.winograd_operations import Pooled, Size, from_planes, to_planes
from esrgan.winograd_threads import Threads, run
from esrgan.winograd_training import FrozenVGG, TrainedGenerator, learns_fast_here

pytest.importorskip("llvmlite")
here = pytest.mark.skipif(not learns_fast_here(Generator(GeneratorConfig(blocks=1))), reason="needs x86 with AVX2")


def close(found, wanted, within=1e-4):
    """By the largest of all: single gradients may be next to zero."""
    return (found - wanted).abs().max() <= within * wanted.abs().max()


@pytest.mark.parametrize("size", [(1, 1), (5, 12), (33, 6)])
@pytest.mark.parametrize("channels", [(3, 16), (24, 40), (64, 8)])
def test_the_gradient_of_weights_equals_torchs(size, channels):
    torch.manual_seed(0)
    inputs, outputs = channels
    x, gradient = torch.randn(3, inputs, *size), torch.randn(3, outputs, *size)
    weight = torch.zeros(outputs, inputs, 3, 3, requires_grad=True)
    (wanted,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), weight, gradient)
    source, result = (Features(*each.shape).put(each) for each in (x, gradient))
    job = Gradient(source, result, [inputs] * outputs, shares=4)
    with Threads() as threads:
        threads.run(job.work)
    assert close(job.weights()[:outputs, :inputs], wanted)


def test_of_two_sources_and_two_results_only_what_is_needed_is_made():
    torch.manual_seed(0)
    pictures = [torch.randn(2, channels, 40, 40) for channels in (8, 16, 16, 16)]
    x, grown, first, second = (Features(*each.shape).put(each) for each in pictures)
    job = Gradient(x, first, [24] * 16 + [8] * 16, grown=grown, further=second, shares=3)
    job.sums.fill(float("nan"))
    with Threads() as threads:
        threads.run(job.work)
    weight = torch.zeros(32, 24, 3, 3, requires_grad=True)
    results = F.conv2d(torch.cat(pictures[:2], 1), weight, padding=1)
    (wanted,) = torch.autograd.grad(results, weight, torch.cat(pictures[2:], 1))
    assert close(job.weights()[:16], wanted[:16])
    assert close(job.weights()[16:, :8], wanted[16:, :8])
    assert job.weights()[16:, 8:].isnan().all()


@pytest.mark.parametrize("together", [4, 8])
def test_code_for_any_number_of_registers_gives_the_same_gradient(together, monkeypatch):
    made = Code(GradientJob, together)
    monkeypatch.setattr("esrgan.winograd_threads.code", lambda kind: made)
    test_the_gradient_of_weights_equals_torchs((33, 6), (24, 40))


@here
def test_code_is_made_before_memory_is_taken(monkeypatch):
    made = []
    monkeypatch.setattr("esrgan.winograd_training.code", made.append)
    TrainedGenerator(Generator(GeneratorConfig(blocks=1)))
    assert made == [Job, GradientJob]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_while_another_thread_works_has_threads_of_its_own():
    x = Features(1, 8, 8, 8)
    work = Gradient(x, x, [8] * 8).work
    run(work)
    with winograd_threads._LOCKS[0]:
        child = os.fork()
        if not child:
            run(work)
            os._exit(0)
    for _ in range(200):
        if os.waitpid(child, os.WNOHANG) == (child, 0):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("it waits for ever")


@here
def test_a_validation_keeps_no_weights_that_will_be_old(tmp_path):
    net = Generator(GeneratorConfig(channels=8, growth=4, blocks=1))
    validation = Validation(tmp_path, net, [], dtype=torch.float32, lpips=None, choose=lambda _: 0.0, winograd=True)
    kept = []
    validation._validated = lambda step, stopped: kept.append(weakref.ref(validation.run.func))
    validation(0, lambda: False)
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_sums_are_the_same_with_any_number_of_threads(threads):
    torch.manual_seed(0)
    x, gradient = (Features(4, 16, 32, 32).put(torch.randn(4, 16, 32, 32)) for _ in range(2))

    def sums():
        job = Gradient(x, gradient, [16] * 16, shares=4)
        with Threads() as team:
            team.run(job.work)
        return job.sums

    usual, wanted = torch.get_num_threads(), sums()
    torch.set_num_threads(threads)
    try:
        assert all((sums() == wanted).all() for _ in range(5))
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"blocks": 2, "channels": 32, "growth": 16}, (13, 9)),
        ({"channels": 20, "growth": 10, "scale": 3}, (8, 8)),  # planes that are not full
        ({"channels": 16, "growth": 8, "scale": 2}, (9, 14)),
        ({"channels": 16, "growth": 8, "scale": 2, "unshuffle": 2}, (9, 14)),
        ({"channels": 16, "growth": 8, "scale": 8}, (8, 6)),
    ],
)
def test_a_generator_learns_what_torch_would_teach_it(config, size):
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(**{"blocks": 1} | config)).train()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    lr = torch.rand(3, 3, *size, requires_grad=True)
    wanted = net(lr)
    direction, learn = torch.randn_like(wanted), [lr, *net.parameters()]
    result = TrainedGenerator(net)(lr)
    assert close(result, wanted, 1e-5)
    gradients = (torch.autograd.grad((each * direction).sum(), learn) for each in (result, wanted))
    assert all(close(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


def test_vgg_gives_its_features_and_the_gradient_to_the_picture(monkeypatch):
    torch.manual_seed(0)
    layers = ("conv1_1", "conv2_2", "conv3_4")
    monkeypatch.setattr("esrgan.pretrained.read", lambda _: {})
    monkeypatch.setattr("esrgan.pretrained.pick", lambda found, shapes, path: made(shapes))
    vgg = VGGFeatures("none", layers=layers)
    image = torch.rand(2, 3, 37, 30, dtype=torch.float32, requires_grad=True)
    result, wanted = FrozenVGG(vgg)(image), vgg.double()(image.double())
    assert set(result) == set(layers)
    assert all(close(result[layer], wanted[layer].float(), 1e-5) for layer in layers)
    sums = (sum(each[layer].square().mean() for layer in layers) for each in (result, wanted))
    ours, theirs = (torch.autograd.grad(each, image)[0] for each in sums)
    # a rounding error decides on which side of zero few features are
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def made(shapes):
    """Random weights that keep the size of features."""
    found = {name: torch.randn(shape) for name, shape in shapes.items()}
    return {name: each * (2 / each[0].numel()) ** 0.5 if each.ndim == 4 else 0.1 * each for name, each in found.items()}


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 3)])
def test_poolings_are_torchs_where_pixels_are_alike_too(size):
    torch.manual_seed(0)
    x = torch.randint(3, (2, 16, *size)).float().requires_grad_()
    planes, places = to_planes(x)
    result, wanted = from_planes(Pooled.apply(planes, places), places.halved(), 16), F.max_pool2d(x, 2)
    assert torch.equal(result, wanted)
    direction = torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad(each, x, direction)[0] for each in (result, wanted))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sides", [(5, 7), (8, 4), (1, 1)])
def test_room_has_frames_of_zeros(sides, monkeypatch):
    monkeypatch.setattr("torch.empty", torch.ones)
    data = Size(2, *sides).room(16)
    inner = data[:, :, 1 : sides[0] + 1, 1 : sides[1] + 1]
    assert inner.all()
    assert data.count_nonzero() == inner.numel()


def test_planes_and_back():
    x = torch.randn(2, 11, 5, 6)
    planes, size = to_planes(x)
    assert planes.shape == (2, 2, 10, 10, 8)
    assert torch.equal(from_planes(planes, size, 11), x)


@here
def test_a_run_by_torch_ends_nearly_the_same(tmp_path):
    config = tiny.stage_1(tmp_path, steps=6)
    assert build_team(config).engine == "winograd"
    assert build_team(replace(config, engine="torch")).engine == "torch"
    ours = load_model(pretrain(config)).state_dict()
    theirs = load_model(pretrain(replace(config, engine="torch", run_dir=tmp_path / "torch"))).state_dict()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("shape", "fits"), [({}, True), ({"variant": "subpixel"}, False), ({"plus": True}, False)])
def test_only_what_winograd_can_run_is_trained_by_it(shape, fits, monkeypatch):
    monkeypatch.setattr("esrgan.winograd_training.runs_fast_here", lambda: True)
    assert learns_fast_here(Generator(GeneratorConfig(channels=8, growth=4, blocks=1, **shape))) is fits


def test_elsewhere_than_on_a_cpu_torch_trains(monkeypatch, tmp_path):
    monkeypatch.setattr("esrgan.team.pick_device", lambda _: torch.device("meta"))
    monkeypatch.setattr("esrgan.team.learns_fast_here", lambda _: True)
    assert build_team(tiny.stage_1(tmp_path)).engine == "torch"
