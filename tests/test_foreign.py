import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from esrgan import EsrganError, Generator, GeneratorConfig, load_model, read_header, save_model
from esrgan.cli import main
from esrgan.convert import old_name
from esrgan.foreign import OtherArchitectureError
from esrgan.generator import unshuffle
from esrgan.model_file import read_model
from esrgan.ncnn_export import write_ncnn

TINY = {"channels": 8, "growth": 4, "blocks": 2}
SHAPES = (
    GeneratorConfig(**TINY),
    GeneratorConfig(scale=1, **TINY),
    GeneratorConfig(scale=2, **TINY),
    GeneratorConfig(scale=8, **TINY),
    GeneratorConfig(scale=16, **TINY),
    GeneratorConfig(scale=2, unshuffle=2, **TINY),
    GeneratorConfig(scale=1, unshuffle=4, **TINY),
    GeneratorConfig(plus=True, **TINY),
)


def network(config: GeneratorConfig | None = None) -> Generator:
    torch.manual_seed(0)
    return Generator(config or GeneratorConfig(**TINY), start="paper").eval()


def old(net: Generator) -> dict[str, Tensor]:
    return {old_name(name, net.config): tensor for name, tensor in net.state_dict().items()}


def revised(net: Generator) -> dict[str, Tensor]:
    names = {"conv_body": "trunk_conv", "conv_up": "upconv", "conv_hr": "HRconv", "body": "RRDB_trunk"}
    renamed = {}
    for name, tensor in net.state_dict().items():
        layer, rest = name.split(".", 1)
        for ours, theirs in names.items():
            layer, rest = layer.replace(ours, theirs), rest.replace("rdb", "RDB")
        renamed[f"{layer}.{rest}"] = tensor
    return renamed


def pytorch_names(net: Generator) -> dict[str, Tensor]:
    names = {"conv_first": "conv1", "conv_body": "conv2", "conv_hr": "conv3.0", "conv_last": "conv4"}
    names |= {"conv_up1": "upsampling1.0", "conv_up2": "upsampling2.0"}
    renamed = {}
    for name, tensor in net.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        renamed[f"{names.get(layer, layer.replace('body', 'trunk'))}.{kind}"] = tensor
    return renamed


def assert_same_network(path: Path, net: Generator, dialect: str) -> None:
    loaded = load_model(path)
    assert loaded.config == net.config
    assert read_model(path).dialect == dialect
    lr = torch.rand(1, 3, 7, 9)
    with torch.inference_mode():
        assert torch.equal(loaded(lr), net(lr))


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_every_shape_is_told_from_basicsr_names_alone(config: GeneratorConfig, tmp_path: Path) -> None:
    net = network(config)
    torch.save({"params_ema": net.state_dict()}, tmp_path / "m.pth")
    assert_same_network(tmp_path / "m.pth", net, "BasicSR")


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_every_shape_is_told_from_the_old_architecture(config: GeneratorConfig, tmp_path: Path) -> None:
    net = network(config)
    torch.save(old(net), tmp_path / "m.pth", _use_new_zipfile_serialization=False)  # as in 2018
    assert_same_network(tmp_path / "m.pth", net, "old architecture (2018)")


@pytest.mark.parametrize("inner", ["params", "params_ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module.generator."])
def test_wrappings_and_prefixes_are_taken_off(inner: str | None, prefix: str, tmp_path: Path) -> None:
    net = network()
    weights = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    torch.save({inner: weights, "epoch": 3} if inner else weights, tmp_path / "m.pth")
    assert_same_network(tmp_path / "m.pth", net, "BasicSR")


def test_the_average_is_preferred_to_the_raw_weights(tmp_path: Path) -> None:
    net, raw = network(), Generator(GeneratorConfig(**TINY))
    torch.save({"params": raw.state_dict(), "params_ema": net.state_dict()}, tmp_path / "m.pth")
    assert_same_network(tmp_path / "m.pth", net, "BasicSR")


@pytest.mark.parametrize("names", ["net_g.", "model.", "netG.module.", "g_ema.", "lightning.net."])
@pytest.mark.parametrize("dialect", ["BasicSR", "old architecture (2018)"])
def test_the_generator_is_found_among_other_networks(names: str, dialect: str, tmp_path: Path) -> None:
    net = network()
    weights = net.state_dict() if dialect == "BasicSR" else old(net)
    others = {f"net_d.{name}": torch.zeros(2, 2) for name in ("features.0.weight", "conv_first.weight")}
    raw = {f"g_raw.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()} if "ema" in names else {}
    found = {names + name: tensor for name, tensor in weights.items()}
    torch.save({"state_dict": raw | others | found, "epoch": 3}, tmp_path / "m.ckpt")
    assert_same_network(tmp_path / "m.ckpt", net, dialect)


def test_the_revision_of_2019_is_read(tmp_path: Path) -> None:
    net = network()
    assert "RRDB_trunk.1.RDB3.conv5.weight" in revised(net)
    torch.save(revised(net), tmp_path / "m.pth")
    assert_same_network(tmp_path / "m.pth", net, "RRDB_trunk (2019)")


def test_esrgan_pytorch_names_are_read(tmp_path: Path) -> None:
    net = network()
    torch.save({"epoch": 1, "state_dict": pytorch_names(net)}, tmp_path / "m.pth.tar")
    assert_same_network(tmp_path / "m.pth.tar", net, "ESRGAN-PyTorch")


def test_a_half_converted_file_is_read(tmp_path: Path) -> None:
    net = network()
    mixed = {a if "sub" in a else b: t for (a, t), b in zip(old(net).items(), net.state_dict(), strict=True)}
    assert {"model.1.sub.0.RDB1.conv1.0.weight", "conv_first.weight"} <= mixed.keys()
    save_file(mixed, tmp_path / "m.safetensors")
    assert_same_network(tmp_path / "m.safetensors", net, "old architecture (2018)")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_subpixel_network_is_told_without_a_header(scale: int, tmp_path: Path) -> None:
    net = network(GeneratorConfig(variant="subpixel", scale=scale, **TINY))
    torch.save(net.state_dict(), tmp_path / "m.pth")
    assert_same_network(tmp_path / "m.pth", net, "BasicSR")


def test_x3_is_known_by_the_header_and_by_ncnn(tmp_path: Path) -> None:
    net = network(GeneratorConfig(scale=3, **TINY))
    save_model(net, tmp_path / "m.safetensors")
    write_ncnn(net, tmp_path / "m.param", tmp_path / "m.bin")
    assert load_model(tmp_path / "m.safetensors").scale == 3
    assert load_model(tmp_path / "m.param").scale == 3


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("config", [*SHAPES, GeneratorConfig(variant="subpixel", **TINY)], ids=str)
def test_ncnn_files_come_back_as_they_were_written(config: GeneratorConfig, half: bool, tmp_path: Path) -> None:
    net = network(config)
    write_ncnn(net, tmp_path / "m.param", tmp_path / "m.bin", half=half)
    for name in ("m.param", "m.bin"):
        loaded = load_model(tmp_path / name)
        assert loaded.config == config
        assert read_model(tmp_path / name).storage == ("ncnn, float16" if half else "ncnn, float32")
        for key, tensor in loaded.state_dict().items():
            expected = net.state_dict()[key]
            rounded = expected.half().float() if half and "weight" in key and expected.ndim == 4 else expected
            assert torch.equal(tensor, rounded)


@pytest.mark.parametrize("shape", [{}, {"scale": 2, "unshuffle": 2}, {"scale": 1, "unshuffle": 4}, {"plus": True}])
def test_we_and_spandrel_see_the_same_network_bit_for_bit(shape: dict[str, int], tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    config = GeneratorConfig(channels=8, growth=32, blocks=2, **shape)
    theirs = spandrel.architectures.ESRGAN.ESRGAN(
        in_nc=3 * config.unshuffle**2,
        num_filters=8,
        num_blocks=2,
        scale=config.scale * config.unshuffle,
        plus=config.plus,
        shuffle_factor=config.unshuffle if config.unshuffle > 1 else None,
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    ours, lr = load_model(tmp_path / "m.pth"), torch.rand(1, 3, 13, 18)
    assert ours.config == config
    with torch.inference_mode():
        assert torch.equal(ours(lr), theirs(lr))


def test_pixel_unshuffle_mirrors_odd_edges_and_takes_one_pixel() -> None:
    lr = torch.rand(1, 3, 7, 5)
    padded = torch.nn.functional.pad(lr, (0, 1, 0, 1), "reflect")
    assert torch.equal(unshuffle(lr, 2), torch.nn.functional.pixel_unshuffle(padded, 2))
    assert unshuffle(torch.rand(1, 3, 1, 1), 4).shape == (1, 48, 1, 1)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["body.0.weight", "body.1.weight"], "Compact"),
        (["layers.0.residual_group.blocks.0.norm1.weight", "conv_first.weight"], "SwinIR"),
        (["block_1.c1_r.sk.weight", "x"], "SPAN"),
        (["conv0.weight", "conv9.weight"], "discriminator"),
        (["foo", "bar"], "unknown"),
    ],
)
def test_another_architecture_is_named(keys: list[str], name: str, tmp_path: Path) -> None:
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "m.pth")
    with pytest.raises(OtherArchitectureError, match=name):
        load_model(tmp_path / "m.pth")


def test_a_network_with_layers_that_esrgan_does_not_have_is_of_another_architecture(tmp_path: Path) -> None:
    steps = {"steps": torch.tensor(3)}  # a counter is no layer
    torch.save(network().state_dict() | steps, tmp_path / "m.pth")
    load_model(tmp_path / "m.pth")
    torch.save(network().state_dict() | {"extra": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(OtherArchitectureError, match=r"weights that ESRGAN does not have \(extra\) among its own"):
        load_model(tmp_path / "m.pth")
    torch.save(network().state_dict() | {"am_list.0.fc.0.weight": torch.zeros(2, 2)}, tmp_path / "m.pth")
    with pytest.raises(OtherArchitectureError, match="MMRealSR"):
        load_model(tmp_path / "m.pth")


def test_weights_of_another_shape_than_the_rest_are_named(tmp_path: Path) -> None:
    weights = old(network())
    weights["model.1.sub.1.RDB2.conv3.0.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(EsrganError, match=r"body\.1\.rdb2\.conv3\.weight does not fit"):
        load_model(tmp_path / "m.pth")


def of_channels(inputs: int, outputs: int, names: str, folder: Path) -> tuple[Generator, Path]:
    """A network of other channels than RGB, and its file."""
    net = network()
    net.conv_first = torch.nn.Conv2d(inputs, 8, 3, padding=1)
    net.conv_last = torch.nn.Conv2d(8, outputs, 3, padding=1)
    path = folder / ("m.param" if names == "ncnn" else "m.pth")
    if names == "ncnn":
        write_ncnn(net, path, path.with_suffix(".bin"))
    else:
        torch.save(old(net) if names == "old" else net.state_dict(), path)
    return net, path


@pytest.mark.parametrize("names", ["basicsr", "old", "ncnn"])
def test_a_network_for_grey_pictures_makes_the_same_of_them(names: str, tmp_path: Path) -> None:
    net, path = of_channels(1, 1, names, tmp_path)
    grey = torch.rand(1, 1, 9, 11)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(path)(grey.expand(-1, 3, -1, -1)), net(grey).expand(-1, 3, -1, -1))


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (1, 3)])
@pytest.mark.parametrize("names", ["basicsr", "old", "ncnn"])
def test_networks_of_neither_rgb_nor_grey_are_one_line_at_every_verb(
    inputs: int, outputs: int, names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = of_channels(inputs, outputs, names, tmp_path)
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    for line in (f"convert {path} {tmp_path}/o.pth", f"models show {path}", f"upscale {tmp_path}/a.png --model {path}"):
        assert main(line.split()) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"it takes {inputs} channels and gives {outputs}" in error
        assert "choose an RGB model" in error


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weights = old(network())
    weights["model.0.bias"][3] = float("nan")
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(EsrganError, match=r"conv_first\.bias has values that are not finite"):
        load_model(tmp_path / "m.pth")


def test_a_header_that_belies_the_weights_is_refused(tmp_path: Path) -> None:
    net = network()
    for lie in ({"blocks": 10**9}, {"growth": 5}, {"blocks": 1.5}, {"colour": 3}):
        config = {"variant": "classic", "scale": 4, **TINY} | lie
        save_file(net.state_dict(), tmp_path / "m.safetensors", {"format": "esrgan", "config": json.dumps(config)})
        with pytest.raises(EsrganError, match=r"m\.safetensors"):
            load_model(tmp_path / "m.safetensors")


def test_headers_of_foreign_files_tell_the_shape(tmp_path: Path) -> None:
    net = network(SHAPES[7])
    torch.save(old(net), tmp_path / "m.pth")
    assert read_header(tmp_path / "m.pth").config == net.config
    assert read_header(tmp_path / "m.pth").provenance == {}
