import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError, UsageError
from esrgan.generator import Generator
from esrgan.model_file import load_model, model_bytes, read_header, save_model

CONFIGS = [
    GeneratorConfig(channels=8, growth=4, blocks=1),
    GeneratorConfig(channels=8, growth=4, blocks=2, scale=3),
    GeneratorConfig(variant="subpixel", channels=8, growth=4, blocks=1, scale=2),
]


@pytest.fixture
def saved(tmp_path):
    net = Generator(CONFIGS[0])
    save_model(net, tmp_path / "net.safetensors", provenance={"stage": "psnr", "licence": "CC0"})
    return net, tmp_path / "net.safetensors"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.variant} x{config.scale}")
def test_a_model_comes_back_as_it_was(tmp_path, config):
    net = Generator(config)
    save_model(net, tmp_path / "net.safetensors")
    found = load_model(tmp_path / "net.safetensors")
    assert found.config == config
    assert not found.training
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def test_the_header_tells_config_and_provenance(saved):
    header = read_header(saved[1])
    assert header.config == CONFIGS[0]
    assert header.provenance == {"stage": "psnr", "licence": "CC0"}


def test_files_may_be_named_by_text_too(tmp_path):
    save_model(Generator(CONFIGS[0]), str(tmp_path / "net.safetensors"))
    assert read_header(str(tmp_path / "net.safetensors")).config == CONFIGS[0]
    with pytest.raises(EsrganError, match=r"absent\.safetensors"):
        read_header(str(tmp_path / "absent.safetensors"))


def test_a_half_file_is_half_as_large_and_is_used_in_fp32(saved, tmp_path):
    net, path = saved
    save_model(net, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * path.stat().st_size
    weight = load_model(tmp_path / "half.safetensors").conv_first.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, net.conv_first.weight, atol=1e-3, rtol=1e-3)


def test_a_loaded_model_can_be_trained_further(saved):
    net = load_model(saved[1])
    net(torch.rand(1, 3, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_missing_file_is_an_error_and_never_random_weights(tmp_path):
    with pytest.raises(EsrganError, match=r"absent\.safetensors"):
        load_model(tmp_path / "absent.safetensors")


def test_a_model_is_written_under_no_suffix_that_is_read_in_another_way(saved, tmp_path):
    with pytest.raises(UsageError, match=r"m\.pth must end in .*esrgan convert"):
        save_model(saved[0], tmp_path / "m.pth")
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"text, not weights"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    (tmp_path / "odd.safetensors").write_bytes(content)
    with pytest.raises(EsrganError, match=r"odd\.safetensors"):
        load_model(tmp_path / "odd.safetensors")


def test_a_truncated_file_is_named(saved, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(saved[1].read_bytes()[:-1000])
    with pytest.raises(EsrganError, match=r"cut\.safetensors"):
        load_model(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("fault", ["missing", "misshapen", "nan", "infinite"])
def test_weights_that_do_not_fit_or_are_not_finite_are_refused(saved, tmp_path, fault):
    weights = load_file(saved[1])
    if fault == "missing":
        del weights["conv_hr.bias"]
    elif fault == "misshapen":
        weights["conv_hr.bias"] = torch.zeros(3)
    else:
        weights["conv_hr.bias"][0] = float(fault[:3])
    metadata = {"format": "esrgan", "config": json.dumps(vars(CONFIGS[0]))}
    save_file(weights, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(EsrganError, match=r"bad\.safetensors"):
        load_model(tmp_path / "bad.safetensors")


def test_a_failed_write_leaves_the_old_file_and_no_litter(saved, tmp_path):
    before = saved[1].read_bytes()
    with pytest.raises(TypeError):
        save_model(saved[0], saved[1], provenance={"not json": object()})
    assert saved[1].read_bytes() == before
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EsrganError, match="cannot write"):
        save_model(saved[0], blocked / "net.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"net.safetensors", "file"}


def test_equal_models_are_equal_files_whose_weights_begin_at_a_multiple_of_8_bytes():
    net = Generator(CONFIGS[0])
    for licence in ("CC0", "CC0-1.0", "MIT OR CC0"):
        (content,) = {model_bytes(net, {"licence": licence, "stage": "psnr"}, half=False) for _ in range(20)}
        assert int.from_bytes(content[:8], "little") % 8 == 0
