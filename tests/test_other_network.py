import copy
import sys
from pathlib import Path

import pytest
import torch

from esrgan import EsrganError, Generator, GeneratorConfig, Upscaler, save_model
from esrgan.cli import main
from esrgan.other_network import OtherNetwork, load_network

spandrel = pytest.importorskip("spandrel")


def compact(path: Path) -> torch.nn.Module:
    from spandrel.architectures.Compact import Compact  # noqa: PLC0415

    torch.manual_seed(0)
    net = Compact(num_feat=8, num_conv=2, upscale=2).eval()
    torch.save({"params": net.state_dict()}, path)
    return net


def test_a_network_of_another_architecture_enlarges_as_in_spandrel(tmp_path: Path) -> None:
    net, lr = compact(tmp_path / "m.pth"), torch.rand(1, 3, 9, 7)
    loaded = load_network(tmp_path / "m.pth")
    assert isinstance(loaded, OtherNetwork)
    assert loaded.scale == 2
    with torch.inference_mode():
        assert torch.equal(loaded(lr), net(lr).clamp(0, 1))
        assert copy.deepcopy(loaded).to(torch.float64)(lr.double()).dtype == torch.float64


def test_a_network_that_only_begins_and_ends_like_esrgan_goes_to_spandrel_too(tmp_path: Path) -> None:
    from spandrel.architectures.MMRealSR import MMRealSR  # noqa: PLC0415

    torch.manual_seed(0)
    small = {"num_feats": [8, 8], "num_blocks": [1, 1], "downscales": [2, 1]}
    net = MMRealSR(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, num_grow_ch=4, **small).eval()
    torch.save({"params": net.state_dict()}, tmp_path / "m.pth")
    loaded, lr = load_network(tmp_path / "m.pth"), torch.rand(1, 3, 24, 32)
    assert isinstance(loaded, OtherNetwork)
    assert loaded.architecture == "MMRealSR"
    with torch.inference_mode():
        assert torch.equal(loaded(lr), net(lr)[0].clamp(0, 1))


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # spandrel's
def test_a_network_that_only_runs_in_fp32_is_run_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spandrel.architectures.SwinIR import SwinIR  # noqa: PLC0415

    torch.manual_seed(0)
    options = {"img_size": 16, "window_size": 8, "depths": [1], "num_heads": [2], "embed_dim": 8, "mlp_ratio": 2}
    net = SwinIR(upscale=2, upsampler="pixelshuffledirect", **options).eval()
    torch.save({"params": net.state_dict()}, tmp_path / "m.pth")
    monkeypatch.setattr("esrgan.devices.bf16_is_fast", lambda: True)
    upscaler = Upscaler(tmp_path / "m.pth", device="cpu")
    assert upscaler.dtype == torch.float32
    assert upscaler(torch.rand(1, 3, 21, 35)).shape == (1, 3, 42, 70)
    with pytest.raises(EsrganError, match="SwinIR does not run in bf16; use --precision fp32"):
        Upscaler(tmp_path / "m.pth", device="cpu", precision="bf16")


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(tmp_path / "m.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(EsrganError, match=r"Compact.*pip install '.\[spandrel\]'"):
        load_network(tmp_path / "m.pth")


@pytest.mark.parametrize("line", ["convert M o.pth", "export M o.onnx", "upscale a.png --model M --alpha 0.5"])
def test_what_only_enlarging_takes_is_said_of_the_other_commands(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m_gan.pth", "m_psnr.pth"):
        compact(tmp_path / name)
    assert main(line.replace("M", "m_gan.pth").split()) == 1
    said = capsys.readouterr().err
    assert "Compact" in said
    assert "only `esrgan upscale`, without --alpha, and `esrgan test`" in said
    assert "install" not in said


def test_our_own_networks_do_not_need_spandrel(tmp_path: Path) -> None:
    save_model(Generator(GeneratorConfig(channels=8, growth=4, blocks=1)), tmp_path / "m.safetensors")
    assert isinstance(load_network(tmp_path / "m.safetensors"), Generator)


def test_what_spandrel_does_not_know_either_is_one_line(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(EsrganError, match="spandrel cannot read") as error:
        load_network(tmp_path / "m.pth")
    assert "\n" not in str(error.value)


def test_whatever_spandrel_stumbles_over_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(tmp_path / "m.pth")
    monkeypatch.setattr(spandrel.ModelLoader, "load_from_state_dict", lambda *_: 1 // 0)
    with pytest.raises(EsrganError, match=r"m\.pth: spandrel cannot read this network either \(.*division"):
        load_network(tmp_path / "m.pth")
