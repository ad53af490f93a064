import _thread
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

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
from esrgan.winograd import Features, Layer, convolution
from esrgan.winograd_engine import Winograd
from esrgan.winograd_job import Job
from esrgan.winograd_kernel import Code, code, runs_fast_here
from esrgan.winograd_threads import Threads

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
    code = Code(Job, together)
    monkeypatch.setattr("esrgan.winograd_threads.code", lambda kind: code)
    wanted = F.conv2d(picture, weight, padding=1)
    assert (convolved(Layer(weight, None), picture, 16) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_machine_that_no_code_can_be_made_for_is_an_error_with_a_way_out(monkeypatch):
    def fails(_):
        raise RuntimeError("what is this")

    monkeypatch.setattr("llvmlite.binding.parse_assembly", fails)
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
def test_shipped_models_give_torchs_picture_over_several_parts(model, monkeypatch):
    monkeypatch.setattr("esrgan.winograd_engine.PART", 48)
    network = load_model(find_model(model)).eval()
    picture = read_rgb(Path(__file__).parents[1] / "docs" / "samples" / "lynx.png")[None, :, :111, :70]
    with torch.inference_mode():
        wanted = network(picture)
    result = Winograd(network)(torch.cat((picture, picture.flip(3))), torch.float32)
    assert (result[:1] - wanted).abs().max() < 2e-5
    assert not torch.equal(result[0], result[1])


@pytest.fixture
def three_threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(usual)


@pytest.mark.parametrize("model", ["lite_x3_gan", "lite_x4_gan"])
def test_what_lay_in_memory_before_does_not_matter(model, monkeypatch):
    """Parts of a picture follow each other in the same memory."""
    network = load_model(find_model(model)).eval()
    picture = torch.rand(1, 3, 29, 42)
    clean = Winograd(network)(picture, torch.float32)
    monkeypatch.setattr("esrgan.winograd_engine.mapped", lambda numbers: np.full(numbers, np.nan, np.float32))
    assert torch.equal(Winograd(network)(picture, torch.float32), clean)


def plain():
    """Whether a convolution comes out right."""
    picture, weight = torch.ones(1, 8, 40, 40), torch.ones(16, 8, 3, 3)
    return convolved(Layer(weight, None), picture, 16)[0, 0, 5, 5].item() == 72


@pytest.mark.parametrize("granted", [0, 1])
def test_where_the_system_gives_no_more_threads_fewer_do(granted, monkeypatch, three_threads):
    start, started = _thread.start_new_thread, []

    def some(*call):
        started.append(call)
        if len(started) > granted:
            raise RuntimeError("can't start new thread")
        return start(*call)

    monkeypatch.setattr("_thread.start_new_thread", some)
    assert plain()
    assert len(started) == granted + 1


def test_a_thread_that_never_begins_is_done_without(monkeypatch, three_threads):
    monkeypatch.setattr("_thread.start_new_thread", lambda *call: None)
    monkeypatch.setattr("esrgan.winograd_threads.START", 0.05)
    assert plain()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_while_threads_start_leaves_none_behind(error, monkeypatch, three_threads):
    start, stopped = _thread.start_new_thread, threading.Event()

    def interrupted(work, _):
        if work.__self__ not in seen:
            seen.append(work.__self__)
        if len(seen) == 2:
            raise error

        def to_its_end():
            work()
            stopped.set()

        return start(to_its_end, ())

    seen = []
    monkeypatch.setattr("_thread.start_new_thread", interrupted)
    with pytest.raises(error):
        Threads()
    assert stopped.wait(10)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_part_that_fails_does_not_keep_the_others_waiting(failing, monkeypatch, three_threads):
    run, calls = code(Job).run, []

    def fails_once(*args):
        calls.append(args)
        if len(calls) == failing:
            raise MemoryError("here")
        run(*args)

    monkeypatch.setattr(code(Job), "run", fails_once)
    with pytest.raises(MemoryError, match="here"):
        plain()
    assert plain()


def test_the_first_calls_of_many_threads_share_one_code(monkeypatch):
    """Whose owner would else be thrown away while it runs."""
    monkeypatch.setattr("esrgan.winograd_kernel._MADE", {})
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: plain(), range(4)))
        assert len({id(each) for each in pool.map(lambda _: code(Job), range(4))}) == 1


def test_what_machine_code_works_on_outlives_an_interruption(monkeypatch, three_threads):
    """Ctrl+C in the caller while helpers are still in it."""
    freed, going, entered = [], threading.Event(), threading.Event()
    caller, run = threading.get_ident(), code(Job).run

    def slow(*args):
        if threading.get_ident() == caller:
            entered.wait(10)
            raise KeyboardInterrupt
        entered.set()
        going.wait(10)

    monkeypatch.setattr(code(Job), "run", slow)
    source, target = Features(1, 8, 9, 9), Features(1, 16, 9, 9)
    work = convolution(Layer(torch.ones(16, 8, 3, 3), None), source, target)
    weakref.finalize(source, freed.append, "source")
    threads = Threads()
    with pytest.raises(KeyboardInterrupt):
        threads.run(work)
    del source, target, work, threads
    gc.collect()
    assert not freed
    going.set()
    for _ in range(100):
        gc.collect()
        if freed:
            break
        time.sleep(0.05)
    assert freed == ["source"]
    monkeypatch.setattr(code(Job), "run", run)
    assert plain()


def test_an_llvmlite_that_does_not_load_or_is_too_old_is_as_none(monkeypatch):
    monkeypatch.setattr("esrgan.winograd_kernel.import_extra", lambda *_: SimpleNamespace())
    assert not runs_fast_here()

    def broken(*_):
        raise OSError("libLLVM.so: cannot open shared object file")

    monkeypatch.setattr("esrgan.winograd_kernel.import_extra", broken)
    assert not runs_fast_here()


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
