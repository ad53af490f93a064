import math
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from esrgan.config import GeneratorConfig
from esrgan.convolutions import activate, conv_activated
from esrgan.devices import bf16_is_fast
from esrgan.engines import BySize, Ncnn, OpenVINO, Torch, pick_engine
from esrgan.errors import EsrganError, UsageError
from esrgan.extras import import_extra
from esrgan.generator import Generator
from esrgan.images import read_rgb
from esrgan.library import entries
from esrgan.parity import made_picture
from esrgan.upscaler import Upscaler
from esrgan.winograd_engine import Winograd

SHAPES = [
    GeneratorConfig(channels=8, growth=4, blocks=1),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=2, unshuffle=2),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=3),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=1),
    GeneratorConfig(channels=8, growth=4, blocks=1, variant="subpixel"),
    GeneratorConfig(channels=8, growth=4, blocks=1, plus=True),
]


PACKAGES = {"winograd": "llvmlite"}


def needs(engine):
    if engine != "torch":
        pytest.importorskip(PACKAGES.get(engine, engine))


def gpus():
    return find_spec("ncnn") and import_module("ncnn").get_gpu_count()


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
@pytest.mark.parametrize("engine", ["winograd", "ncnn", "openvino"])
def test_an_engine_gives_the_same_picture_as_torch_by_the_same_tiles(engine, config):
    needs(engine)
    if engine == "winograd" and (config.plus or config.variant != "classic"):
        with pytest.raises(UsageError, match="classic variant only"):
            Upscaler(made(config), device="cpu", engine=engine)
        return
    network, image = made(config), made_picture(101, 87)
    ours, theirs = (
        Upscaler(network, device="cpu", precision="fp32", engine=name, tile=64) for name in ("torch", engine)
    )
    assert re.match(f"x{config.scale} by {engine} on cpu in float32", theirs.about, re.IGNORECASE)
    assert psnr(ours(image), theirs(image)) > 80


@pytest.mark.parametrize("engine", ["torch", "winograd", "ncnn", "openvino"])
def test_a_picture_that_wants_gradients_is_enlarged_without(engine):
    needs(engine)
    image = made_picture(20, 20).requires_grad_()
    assert not Upscaler(made(SHAPES[0]), device="cpu", precision="fp32", engine=engine)(image).requires_grad


@pytest.mark.skipif(not bf16_is_fast(), reason="emulated here")
@pytest.mark.parametrize("engine", ["torch", "ncnn", "openvino"])
def test_bf16_stays_within_50_db(engine):
    needs(engine)
    network, image = made(SHAPES[0]), made_picture(96, 80)
    run = pick_engine(engine, network, device="cpu", precision="bf16")
    with torch.inference_mode():
        assert 50 < psnr(run(image, torch.bfloat16), network(image)) < 75  # not redone in fp32


@pytest.mark.skipif(not bf16_is_fast(), reason="emulated here")
@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("model", [entry.name for entry in entries() if entry.shipped])
def test_shipped_models_stay_within_50_db_in_bf16(model, engine):
    pytest.importorskip(engine)
    photo = read_rgb(Path(__file__).parents[1] / "docs" / "samples" / "lynx.png")[None, :, 40:136, 40:136]
    fast, exact = (Upscaler(model, device="cpu", precision=name, engine=engine) for name in ("bf16", "fp32"))
    assert psnr(fast(photo), exact(photo)) > 50


def test_a_convolution_fused_with_its_activation_gives_the_same():
    layer = torch.nn.Conv2d(5, 7, 3, padding=1).bfloat16().requires_grad_(False)
    x = torch.randn(2, 5, 9, 11).bfloat16()
    with torch.inference_mode():
        assert torch.allclose(conv_activated(layer, x), activate(layer(x)), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif("not gpus()", reason="ncnn is missing, or a driver for Vulkan")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_vulkan_gives_the_same_picture(precision):
    network, image = made(SHAPES[0]), made_picture(60, 70)
    vulkan = Upscaler(network, device="vulkan", precision=precision)
    assert "by ncnn on vulkan (" in vulkan.about
    assert psnr(vulkan(image), Upscaler(network, device="cpu", precision="fp32", engine="torch")(image)) > 50


@pytest.mark.parametrize("engine", ["winograd", "ncnn", "openvino"])
def test_a_network_changed_later_does_not_change_a_loaded_engine(engine):
    needs(engine)
    network, image = made(SHAPES[0]), made_picture(32, 32)
    upscaler = Upscaler(network, device="cpu", engine=engine)
    before = upscaler(image)
    with torch.no_grad():
        network.conv_last.weight.mul_(2)
    assert torch.equal(upscaler(image), before)


@pytest.mark.parametrize(
    ("fast_bf16", "installed", "precision", "taken"),
    [
        (True, ("llvmlite", "ncnn", "openvino"), "auto", OpenVINO),
        (True, ("llvmlite", "ncnn"), "auto", None),
        (True, ("llvmlite", "ncnn", "openvino"), "fp32", Winograd),
        (True, ("ncnn", "openvino"), "fp32", None),
        (False, ("llvmlite", "ncnn", "openvino"), "auto", Winograd),
        (False, ("llvmlite", "ncnn", "openvino"), "bf16", OpenVINO),
        (False, ("ncnn", "openvino"), "auto", OpenVINO),
        (False, ("ncnn",), "auto", Ncnn),
        (False, ("openvino",), "auto", OpenVINO),
        (False, (), "auto", None),
        (False, ("ncnn",), "bf16", None),
    ],
)
def test_auto_takes_the_fastest_that_is_installed(fast_bf16, installed, precision, taken, monkeypatch):
    pretend(monkeypatch, fast_bf16=fast_bf16, installed=installed)
    monkeypatch.setattr("esrgan.engines.runs_fast_here", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    engine = pick_engine("auto", made(SHAPES[0]), device="cpu", precision=precision)
    if taken in (Winograd, OpenVINO):  # they leave small tiles to torch
        assert (type(engine), type(engine.large)) == (BySize, taken)
    else:
        assert type(engine) is (taken or Torch)
    assert type(pick_engine("torch", made(SHAPES[0]), device="cpu", precision=precision)) is Torch


def pretend(monkeypatch, *, fast_bf16, installed):
    for module in ("engines", "devices"):
        monkeypatch.setattr(f"esrgan.{module}.bf16_is_fast", lambda: fast_bf16)
    for module in ("engines", "openvino_network", "winograd_engine"):
        monkeypatch.setattr(f"esrgan.{module}.find_spec", lambda name: name in installed or None)


@pytest.mark.parametrize(
    ("config", "machine", "fast"),
    [(SHAPES[4], "x86_64", True), (SHAPES[5], "x86_64", True), (SHAPES[0], "arm64", True), (SHAPES[0], "AMD64", False)],
    ids=["subpixel", "plus", "ARM", "old"],
)
def test_winograd_is_not_taken_for_what_it_cannot_do_nor_where_it_was_not_measured(config, machine, fast, monkeypatch):
    pretend(monkeypatch, fast_bf16=False, installed=("llvmlite",))
    monkeypatch.setattr("esrgan.engines.runs_fast_here", lambda: fast)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert type(pick_engine("auto", made(config), device="cpu", precision="auto")) is Torch


@pytest.mark.parametrize(
    ("channels", "machine", "precision", "taken", "dtype"),
    [
        (64, "x86_64", "auto", Ncnn, torch.bfloat16),
        (64, "x86_64", "fp32", Ncnn, torch.float32),
        (63, "x86_64", "auto", BySize, torch.float32),
        (63, "arm64", "auto", Ncnn, torch.bfloat16),
    ],
)
def test_without_fast_bf16_wide_networks_are_ncnns(channels, machine, precision, taken, dtype, monkeypatch):
    pytest.importorskip("ncnn")
    monkeypatch.setattr("platform.machine", lambda: machine)
    pretend(monkeypatch, fast_bf16=False, installed=("ncnn", "openvino"))
    network = Generator(GeneratorConfig(blocks=1, channels=channels, growth=8))
    engine = pick_engine("auto", network, device="cpu", precision=precision)
    assert (type(engine), engine.dtype) == (taken, dtype)


def test_small_tiles_do_not_load_openvino():
    network = made(SHAPES[0])
    torch_only, openvino = Torch(network, torch.device("cpu"), torch.float32), pytest.importorskip("openvino")
    engine = BySize(torch_only, OpenVINO(network, torch.float32))
    small, large = (made_picture(side, side) for side in (127, 128))
    assert torch.equal(engine(small, torch.float32), torch_only(small, torch.float32))
    assert not engine.large._ready
    assert psnr(engine(large, torch.float32), torch_only(large, torch.float32)) > 80
    assert isinstance(engine.large._ready[torch.float32], openvino.InferRequest)


def break_package(monkeypatch, folder, name):
    """Let ``name`` be a package that is installed and cannot be imported, as where the system's libraries are old."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("raise ImportError('GLIBC_2.38 not found')")
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize("pictures", [1, 100])
@pytest.mark.parametrize("broken", ["openvino", "ncnn", "llvmlite"])
def test_an_engine_that_cannot_be_imported_leaves_the_work_to_torch(broken, pictures, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("esrgan.engines.runs_fast_here", lambda: True)
    # whose machine code an earlier test may have made
    monkeypatch.setattr("esrgan.winograd_engine.code", lambda _: import_extra("llvmlite.ir", "winograd"))
    pretend(monkeypatch, fast_bf16=False, installed=(broken,))
    break_package(monkeypatch, tmp_path, broken)
    network, picture = made(SHAPES[0]), made_picture(128, 128)
    engine = pick_engine("auto", network, device="cpu", precision="fp32")
    if isinstance(engine, BySize):
        engine.expect(pictures)
    wanted = Torch(network, torch.device("cpu"), torch.float32)(picture, torch.float32)
    for _ in range(2):
        assert torch.equal(engine(picture, torch.float32), wanted)
    assert "torch" in engine.about
    assert [broken in line and "GLIBC_2.38" in line for line in caplog.messages] == [True]
    with pytest.raises(EsrganError, match=rf"needs {broken}.*cannot be imported \(GLIBC_2.38.*install it anew"):
        pick_engine({"llvmlite": "winograd"}.get(broken, broken), network, device="cpu", precision="fp32")(
            picture, torch.float32
        )


def test_without_llvmlite_winograd_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setattr("esrgan.winograd_engine.find_spec", lambda name: None)
    with pytest.raises(EsrganError, match=r"needs llvmlite.*--extra winograd"):
        Upscaler(made(SHAPES[0]), device="cpu", engine="winograd")


@pytest.mark.parametrize(("pictures", "loaded"), [(8, False), (9, True)])
def test_many_small_pictures_are_worth_loading_openvino(pictures, loaded):
    pytest.importorskip("openvino")
    network = made(SHAPES[0])
    engine = BySize(Torch(network, torch.device("cpu"), torch.float32), OpenVINO(network, torch.float32))
    engine.expect(pictures)
    engine(made_picture(20, 20), torch.float32)
    assert bool(engine.large._ready) == loaded


def test_openvino_without_memory_never_gives_the_picture_before(monkeypatch):
    openvino = pytest.importorskip("openvino")
    engine = OpenVINO(made(SHAPES[0]), torch.float32)
    engine(made_picture(32, 32), torch.float32)
    monkeypatch.setattr(openvino.InferRequest, "infer", lambda *_, **__: None)  # as it does then
    with pytest.raises(torch.OutOfMemoryError, match="OpenVINO"):
        engine(made_picture(32, 32), torch.float32)


@pytest.mark.parametrize("engine", ["winograd", "ncnn", "openvino"])
def test_pictures_go_to_where_the_engine_is_not_to_the_device_that_auto_means(engine, monkeypatch):
    needs(engine)
    monkeypatch.setattr("esrgan.engines.pick_device", lambda name: torch.device("meta" if name == "auto" else name))
    upscaler = Upscaler(made(SHAPES[0]), engine=engine, precision="fp32")
    assert upscaler.device == torch.device("cpu")
    assert upscaler(made_picture(20, 30)).shape == (1, 3, 80, 120)


class Own(Generator):
    """A network that ncnn's files would not describe."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tensorrt"}, "auto, torch, winograd, ncnn or openvino"),
        ({"engine": "winograd", "precision": "bf16"}, "precision is auto, fp32, not bf16"),
        ({"engine": "winograd", "device": "vulkan"}, "winograd does not run on Vulkan"),
        ({"engine": "torch", "device": "vulkan"}, "torch does not run on Vulkan"),
        ({"engine": "ncnn", "precision": "fp16"}, "precision is auto, fp32, bf16, not fp16"),
        ({"engine": "ncnn", "device": "meta"}, "cpu or vulkan, not meta"),
        ({"engine": "ncnn", "compiled": True}, "--compile is for torch"),
        ({"engine": "openvino", "device": "vulkan"}, "openvino does not run on Vulkan"),
        ({"engine": "openvino", "device": "meta"}, "--device cpu, not meta"),
    ],
)
def test_what_an_engine_cannot_do_is_said_at_once(options, words):
    with pytest.raises(EsrganError, match=words):
        Upscaler(made(SHAPES[0]), **({"device": "cpu"} | options))


def with_other_borders():
    network = made(SHAPES[0])
    network.conv_hr.padding_mode = "replicate"
    return network


@pytest.mark.parametrize("make", [lambda: Own(SHAPES[0]), with_other_borders], ids=["subclass", "borders"])
def test_other_networks_than_esrgan_are_for_torch(make, monkeypatch):
    with pytest.raises(EsrganError, match="ESRGAN networks only"):
        Upscaler(make(), device="cpu", engine="ncnn")
    monkeypatch.setattr("esrgan.engines.bf16_is_fast", lambda: False)
    assert type(pick_engine("auto", make(), device="cpu", precision="fp32")) is Torch


@pytest.mark.skipif("gpus() != 0", reason="ncnn is missing, or there is a driver for Vulkan")
def test_vulkan_without_a_driver_is_an_error_with_a_way_out():
    with pytest.raises(EsrganError, match="no GPU with a Vulkan driver"):
        Upscaler(made(SHAPES[0]), device="vulkan")


def test_a_compiled_network_gives_the_same_picture():
    network, image = made(SHAPES[0]), made_picture(70, 90)
    compiled = Upscaler(network, device="cpu", precision="fp32", compiled=True, tile=64)
    assert "compiled" in compiled.about
    assert psnr(compiled(image), Upscaler(network, device="cpu", precision="fp32", engine="torch")(image)) > 80


def test_a_long_job_goes_on_compiled(monkeypatch, caplog):
    caplog.set_level("INFO", "esrgan")
    monkeypatch.setattr("esrgan.engines.can_compile", lambda device: True)
    monkeypatch.setattr("esrgan.engines.LONG", 1e-9)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    network, image = made(SHAPES[0]), made_picture(24, 24)
    run = pick_engine("torch", network, device="cpu", precision="bf16")
    first, second = (run(image, torch.bfloat16) for _ in range(2))
    assert (first - second).square().mean() < 1e-5
    assert [message for message in caplog.messages if "compiled from here on" in message]
    assert run._ready[torch.bfloat16].body[0]._compiled_call_impl
    assert not network.body[0]._compiled_call_impl


def test_a_network_that_torch_cannot_compile_goes_on_as_it_is(monkeypatch):
    monkeypatch.setattr("esrgan.engines.can_compile", lambda device: True)
    monkeypatch.setattr("esrgan.engines.LONG", 1e-9)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda *_, **__: 1 / 0)
    torch.compiler.reset()
    run = pick_engine("torch", made(SHAPES[0]), device="cpu", precision="bf16")
    first, second = (run(made_picture(24, 24), torch.bfloat16) for _ in range(2))
    assert (first - second).abs().max() < 0.01  # CPUs round otherwise in parts that torch tried to compile


def test_measurements_are_made_in_one_way_to_their_end(monkeypatch):
    monkeypatch.setattr("esrgan.engines.can_compile", lambda device: True)
    monkeypatch.setattr("esrgan.engines.LONG", 1e-9)
    upscaler = Upscaler(made(SHAPES[0]), device="cpu", precision="bf16", engine="torch")
    upscaler.steady()
    upscaler(made_picture(24, 24))
    assert not upscaler._engine._ready[torch.bfloat16].body[0]._compiled_call_impl
