import math

import pytest
import torch

from esrgan.config import GeneratorConfig
from esrgan.devices import bf16_is_fast
from esrgan.engines import Ncnn, pick_engine
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.parity import made_picture
from esrgan.upscaler import Upscaler

ncnn = pytest.importorskip("ncnn")

SHAPES = [
    GeneratorConfig(channels=8, growth=4, blocks=1),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=2, unshuffle=2),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=3),
    GeneratorConfig(channels=8, growth=4, blocks=1, variant="subpixel"),
    GeneratorConfig(channels=8, growth=4, blocks=1, plus=True),
]


def psnr(a, b):
    return -10 * math.log10((a - b).square().mean().item())


def made(config):
    """A network that gives a picture: the sub-pixel one begins with weights so small that it gives one colour."""
    torch.manual_seed(0)
    network = Generator(config)
    if config.variant == "subpixel":
        with torch.no_grad():
            for name in ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_last"):
                network.get_submodule(name).weight.mul_(8)
    return network


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_ncnn_gives_the_same_picture_as_torch_by_the_same_tiles(config):
    network, image = made(config), made_picture(101, 87)
    ours, theirs = (
        Upscaler(network, device="cpu", precision="fp32", engine=name, tile=64) for name in ("torch", "ncnn")
    )
    assert theirs.about.startswith(f"x{config.scale} by ncnn on cpu in float32")
    assert psnr(ours(image), theirs(image)) > 80


@pytest.mark.skipif(not bf16_is_fast(), reason="emulated here")
def test_ncnn_in_bf16_stays_within_50_db():
    network, image = made(SHAPES[0]), made_picture(96, 80)
    exact = Upscaler(network, device="cpu", precision="fp32", engine="torch")
    assert psnr(Upscaler(network, device="cpu", precision="bf16", engine="ncnn")(image), exact(image)) > 50


@pytest.mark.skipif("not ncnn.get_gpu_count()")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_vulkan_gives_the_same_picture(precision):
    network, image = made(SHAPES[0]), made_picture(60, 70)
    vulkan = Upscaler(network, device="vulkan", precision=precision)
    assert "by ncnn on vulkan (" in vulkan.about
    assert psnr(vulkan(image), Upscaler(network, device="cpu", precision="fp32", engine="torch")(image)) > 50


def test_a_network_changed_later_does_not_change_a_loaded_engine():
    network, image = made(SHAPES[0]), made_picture(32, 32)
    upscaler = Upscaler(network, device="cpu", engine="ncnn")
    before = upscaler(image)
    with torch.no_grad():
        network.conv_last.weight.mul_(2)
    assert torch.equal(upscaler(image), before)


def test_auto_takes_ncnn_on_a_cpu_without_fast_bf16_only(monkeypatch):
    network = made(SHAPES[0])
    fast = pick_engine("auto", network, device="cpu", precision="auto")
    assert isinstance(fast, Ncnn) != bf16_is_fast()
    monkeypatch.setattr("esrgan.engines.bf16_is_fast", lambda: False)
    assert isinstance(pick_engine("auto", network, device="cpu", precision="fp32"), Ncnn)
    assert not isinstance(pick_engine("auto", network, device="cpu", precision="bf16"), Ncnn)
    assert not isinstance(pick_engine("torch", network, device="cpu", precision="fp32"), Ncnn)


class Own(Generator):
    """A network that ncnn's files would not describe."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tensorrt"}, "auto, torch or ncnn"),
        ({"engine": "torch", "device": "vulkan"}, "torch does not run on Vulkan"),
        ({"engine": "ncnn", "precision": "fp16"}, "precision is auto, fp32, bf16, not fp16"),
        ({"engine": "ncnn", "device": "meta"}, "cpu or vulkan, not meta"),
        ({"engine": "ncnn", "compiled": True}, "--compile is for torch"),
    ],
)
def test_what_an_engine_cannot_do_is_said_at_once(options, words):
    with pytest.raises(EsrganError, match=words):
        Upscaler(made(SHAPES[0]), **({"device": "cpu"} | options))


def test_other_networks_than_esrgan_are_for_torch():
    network = Own(SHAPES[0])
    with pytest.raises(EsrganError, match="ESRGAN networks only"):
        Upscaler(network, device="cpu", engine="ncnn")


@pytest.mark.skipif("ncnn.get_gpu_count()")
def test_vulkan_without_a_driver_is_an_error_with_a_way_out():
    with pytest.raises(EsrganError, match="no GPU with a Vulkan driver"):
        Upscaler(made(SHAPES[0]), device="vulkan")


def test_a_compiled_network_gives_the_same_picture():
    network, image = made(SHAPES[0]), made_picture(70, 90)
    compiled = Upscaler(network, device="cpu", precision="fp32", compiled=True, tile=64)
    assert "compiled" in compiled.about
    assert psnr(compiled(image), Upscaler(network, device="cpu", precision="fp32", engine="torch")(image)) > 80
