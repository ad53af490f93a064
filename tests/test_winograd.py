import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.images import read_rgb
from esrgan.library import find_model
from esrgan.model_file import load_model
from esrgan.parity import made_picture
from esrgan.winograd import Features, Layer, Threads, convolution
from esrgan.winograd_engine import STRIP, Winograd
from esrgan.winograd_kernel import Code, code, runs_fast_here

pytest.importorskip("llvmlite")


def convolved(layer, picture, channels, **more):
    source = Features(*picture.shape).put(picture)
    target = Features(len(picture), channels, *picture.shape[2:])
    with Threads() as threads:
        threads.run(convolution(layer, source, target, **more))
    assert not target.data[:, :, [0, -1]].any()  # the frame stays zero
    assert not target.data[:, :, :, [0, -1]].any()
    return target.take(channels)


@pytest.mark.parametrize("inputs", [3, 8, 20, 64])
@pytest.mark.parametrize("outputs", [3, 16, 40])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 51), (33, 6), (24, 24)])
def test_a_convolution_equals_torchs(inputs, outputs, size):
    torch.manual_seed(0)
    picture, weight, bias = torch.randn(3, inputs, *size), torch.randn(outputs, inputs, 3, 3), torch.randn(outputs)
    wanted = F.leaky_relu(F.conv2d(picture, weight, bias, padding=1), 0.1)
    result = convolved(Layer(weight, bias, slope=0.1), picture, outputs)
    assert (result - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("together", [6, 12])
def test_code_for_any_number_of_registers_gives_the_same(together, monkeypatch):
    torch.manual_seed(0)
    picture, weight = torch.randn(2, 24, 17, 30), torch.randn(16, 24, 3, 3)
    code = Code(together)
    monkeypatch.setattr("esrgan.winograd.code", lambda: code)
    wanted = F.conv2d(picture, weight, padding=1)
    assert (convolved(Layer(weight, None), picture, 16) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_machine_that_no_code_can_be_made_for_is_an_error_with_a_way_out(monkeypatch):
    monkeypatch.setattr("esrgan.winograd_kernel.source", lambda together: "what is this")
    with pytest.raises(EsrganError, match=r"LLVM cannot make code here.*--engine torch"):
        Code()


def test_where_no_program_may_make_code_another_engine_is_taken(monkeypatch):
    def forbidden():
        raise OSError("not allowed")

    monkeypatch.setattr("llvmlite.binding.check_jit_execution", forbidden)
    assert not runs_fast_here()
    with pytest.raises(EsrganError, match=r"cannot make code here \(not allowed\)"):
        Code()


def test_without_a_bias_and_with_a_factor():
    picture, weight = torch.randn(1, 8, 9, 9), torch.randn(16, 8, 3, 3)
    wanted = 3 * F.conv2d(picture, weight, padding=1)
    assert torch.allclose(convolved(Layer(weight, None, factor=3.0), picture, 16), wanted, atol=1e-3)


def test_what_is_added_is_added_once_even_in_place():
    torch.manual_seed(0)
    picture, weight = torch.randn(1, 16, 11, 10), torch.randn(16, 16, 3, 3)
    source, before, scaled = (Features(*x.shape).put(x) for x in (picture, picture + 1, picture - 2))
    with Threads() as threads:
        threads.run(convolution(Layer(weight, None), source, before, added=before, added_scaled=scaled))
    wanted = F.conv2d(picture, weight, padding=1) + picture + 1 + 0.2 * (picture - 2)
    assert torch.allclose(before.take(16), wanted, atol=1e-3)


def test_sources_of_odd_numbers_of_channels_have_planes_of_their_own():
    torch.manual_seed(0)
    x, y, weight = torch.randn(1, 5, 9, 9), torch.randn(1, 3, 9, 9), torch.randn(4, 8, 3, 3)
    target, other = Features(1, 4, 9, 9), Features(1, 24, 9, 9)
    other.data[:1] = Features(1, 3, 9, 9).put(y).data
    with Threads() as threads:
        threads.run(convolution(Layer(weight, None, (5, 3)), Features(1, 5, 9, 9).put(x), target, grown=other))
    assert torch.allclose(target.take(4), F.conv2d(torch.cat((x, y), 1), weight, padding=1), atol=1e-3)


def test_nearest_enlargement_within_a_convolution():
    picture, weight = torch.randn(2, 8, 7, 10), torch.randn(16, 8, 3, 3)
    target = Features(2, 16, 14, 20)
    with Threads() as threads:
        threads.run(convolution(Layer(weight, None), Features(*picture.shape).put(picture), target))
    wanted = F.conv2d(F.interpolate(picture, scale_factor=2), weight, padding=1)
    assert torch.allclose(target.take(16), wanted, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_do_not_vanish(value):
    picture = torch.zeros(1, 8, 12, 12)
    picture[0, 0, 5, 5] = value
    assert not convolved(Layer(torch.ones(16, 8, 3, 3), None), picture, 16)[..., 4:7, 4:7].isfinite().any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_number_of_threads_gives_the_same(threads):
    network = Generator(GeneratorConfig(channels=8, growth=4, blocks=1))
    picture, usual = made_picture(50, 37), torch.get_num_threads()
    wanted = Winograd(network)(picture, torch.float32)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(Winograd(network)(picture, torch.float32), wanted)
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("model", ["lite_x2_psnr", "lite_x3_gan", "lite_x4_gan", "lite_x8_psnr"])
def test_shipped_models_give_torchs_picture_over_several_strips(model):
    network = load_model(find_model(model)).eval()
    picture = read_rgb(Path(__file__).parents[1] / "docs" / "samples" / "lynx.png")[None, :, : 2 * STRIP + 3, :70]
    with torch.inference_mode():
        wanted = network(picture)
    result = Winograd(network)(torch.cat((picture, picture.flip(3))), torch.float32)
    assert (result[:1] - wanted).abs().max() < 2e-5
    assert not torch.equal(result[0], result[1])


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_without_threads_memory_is_what_lacks_and_nobody_waits_for_ever(failing, monkeypatch):
    usual, start, started = torch.get_num_threads(), threading.Thread.start, []

    def some(thread):
        started.append(thread)
        if len(started) == failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    torch.set_num_threads(3)
    monkeypatch.setattr("threading.Thread.start", some)
    try:
        with pytest.raises(MemoryError, match="threads"):
            Threads()
    finally:
        torch.set_num_threads(usual)


def test_a_part_that_fails_does_not_keep_the_others_waiting(monkeypatch):
    usual, run, calls = torch.get_num_threads(), code().run, []

    def fails_once(*args):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("here")
        run(*args)

    monkeypatch.setattr(code(), "run", fails_once)
    torch.set_num_threads(2)
    try:
        with pytest.raises(MemoryError, match="here"):
            convolved(Layer(torch.ones(16, 8, 3, 3), None), torch.zeros(1, 8, 9, 9), 16)
    finally:
        torch.set_num_threads(usual)


def test_scratch_of_an_earlier_layer_does_not_matter():
    """Squares that fill up the last block are multiplied too, with whatever lies there."""
    picture = torch.randn(1, 8, 4, 4)
    layer = Layer(torch.randn(16, 8, 3, 3), None)
    source, first, second = Features(*picture.shape).put(picture), Features(1, 16, 4, 4), Features(1, 16, 4, 4)
    with Threads() as threads:
        threads.run(convolution(layer, source, first))
        for room in threads._scratch:
            for numbers in room:
                numbers.fill(np.nan)
        threads.run(convolution(layer, source, second))
    assert torch.equal(first.take(16), second.take(16))
