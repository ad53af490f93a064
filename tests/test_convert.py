import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from esrgan import EsrganError, Generator, GeneratorConfig, load_model, read_header, save_model
from esrgan.cli import main
from esrgan.convert import Dialect, convert, widened
from esrgan.errors import UsageError
from esrgan.interpolate import blend_files, blend_provenance
from esrgan.model_file import sha256
from esrgan.ncnn_export import write_ncnn
from esrgan.openmodeldb import write_openmodeldb

TINY = {"channels": 8, "growth": 4, "blocks": 2}


def saved(path: Path, **shape: object) -> Generator:
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(**TINY | shape), start="paper").eval()
    save_model(net, path, provenance={"licence": "CC0-1.0", "recipe": {"steps": 5, "batch": 4}})
    return net


def test_a_model_goes_to_the_old_architecture_and_back_unchanged(tmp_path: Path) -> None:
    net = saved(tmp_path / "a.safetensors", growth=32)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth", dialect="old")
    convert(tmp_path / "b.pth", tmp_path / "c.safetensors")
    back = load_model(tmp_path / "c.safetensors").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in net.state_dict().items())
    assert read_header(tmp_path / "c.safetensors").provenance["converted_from"]["file"] == "b.pth"


def test_two_ncnn_networks_of_one_shape_are_told_apart_by_their_hash(tmp_path: Path) -> None:
    net, hashes = saved(tmp_path / "m.safetensors"), {}
    for i in range(2):
        torch.nn.init.constant_(net.conv_last.bias, i)
        write_ncnn(net, tmp_path / f"{i}.param", tmp_path / f"{i}.bin")
        for name in (f"{i}.param", f"{i}.bin"):
            convert(tmp_path / name, tmp_path / "o.safetensors")
            hashes[name] = read_header(tmp_path / "o.safetensors").provenance["converted_from"]["sha256"]
    both = (tmp_path / "0.param").read_bytes() + (tmp_path / "0.bin").read_bytes()
    assert hashes["0.param"] == hashes["0.bin"] == hashlib.sha256(both).hexdigest()
    assert hashes["1.param"] == hashes["1.bin"] != hashes["0.param"]


def test_the_header_goes_along(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", half=True)
    assert read_header(tmp_path / "b.safetensors").provenance["licence"] == "CC0-1.0"
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.get_tensor("conv_first.weight").dtype == torch.float16


@pytest.mark.parametrize("shape", [{}, {"plus": True}, {"scale": 1, "unshuffle": 4}])
def test_more_growth_changes_nothing(shape: dict[str, int]) -> None:
    net = Generator(GeneratorConfig(**TINY | shape), start="paper").eval()
    wide, lr = widened(net), torch.rand(1, 3, 9, 11)
    assert wide.config.growth == 32
    with torch.inference_mode():
        torch.testing.assert_close(wide(lr), net(lr), atol=1e-6, rtol=0)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dialect", ["basicsr", "old"])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_spandrel_loads_it_and_makes_the_same_picture(
    scale: int, dialect: Dialect, suffix: str, tmp_path: Path
) -> None:
    spandrel = pytest.importorskip("spandrel")
    net = saved(tmp_path / "a.safetensors", growth=32, scale=scale)
    convert(tmp_path / "a.safetensors", tmp_path / f"b{suffix}", dialect=dialect)
    theirs = spandrel.ModelLoader().load_from_file(tmp_path / f"b{suffix}")
    assert (theirs.architecture.id, theirs.scale) == ("ESRGAN", scale)
    lr = torch.rand(1, 3, 13, 18)
    with torch.inference_mode():
        assert torch.equal(theirs.model.eval()(lr), net(lr))


@pytest.mark.parametrize("shape", [{"scale": 2, "unshuffle": 2}, {"plus": True}, {"growth": 16}])
def test_spandrel_loads_networks_of_special_shape(shape: dict[str, int], tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    net = saved(tmp_path / "a.safetensors", **{"growth": 32} | shape)
    result = convert(tmp_path / "a.safetensors", tmp_path / "b.pth", dialect="old")
    assert ("padded from 16 to 32" in " ".join(result.notes)) == ("growth" in shape)
    theirs, lr = spandrel.ModelLoader().load_from_file(tmp_path / "b.pth"), torch.rand(1, 3, 13, 18)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.model.eval()(lr), net(lr), atol=1e-6, rtol=0)


def test_our_own_file_is_read_by_spandrel_as_it_is(tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    net, lr = saved(tmp_path / "a.safetensors", growth=32), torch.rand(1, 3, 9, 8)
    with torch.inference_mode():
        assert torch.equal(spandrel.ModelLoader().load_from_file(tmp_path / "a.safetensors").model.eval()(lr), net(lr))


@pytest.mark.parametrize(
    ("shape", "dialect", "said"),
    [
        ({"variant": "subpixel"}, "basicsr", "sub-pixel"),
        ({"scale": 3}, "old", "x3"),
        ({"plus": True}, "basicsr", "--to old"),
        ({"growth": 48}, "basicsr", "growth 32 only"),
        ({}, "esrgan", "--to basicsr"),
    ],
)
def test_what_a_dialect_cannot_hold_is_refused(
    shape: dict[str, object], dialect: Dialect, said: str, tmp_path: Path
) -> None:
    saved(tmp_path / "a.safetensors", **shape)
    with pytest.raises(EsrganError, match=said):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth", dialect=dialect)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors"]


def test_weights_too_large_for_fp16_are_not_written(tmp_path: Path) -> None:
    net = saved(tmp_path / "a.safetensors")
    with torch.no_grad():
        net.conv_last.weight[0] = 1e6
    save_model(net, tmp_path / "a.safetensors")
    with pytest.raises(EsrganError, match="not finite"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", half=True)
    assert not (tmp_path / "b.safetensors").exists()


def test_an_x3_model_without_a_header_is_read_as_such_where_it_is_said(tmp_path: Path) -> None:
    net = saved(tmp_path / "a.safetensors", scale=3)
    torch.save(net.state_dict(), tmp_path / "3x.pth")
    assert load_model(tmp_path / "3x.pth").scale == 2
    result = convert(tmp_path / "3x.pth", tmp_path / "b.safetensors", scale=3)
    assert (result.scale, result.notes) == (3, [])
    lr = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "b.safetensors")(lr), net(lr))
    assert convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", scale=3).scale == 3


def test_a_doubtful_scale_is_told_until_somebody_settles_it(tmp_path: Path) -> None:
    torch.save(saved(tmp_path / "a.safetensors", scale=2).state_dict(), tmp_path / "2x.pth")
    doubt = "taken for x2, or x3"
    assert doubt in convert(tmp_path / "2x.pth", tmp_path / "b.safetensors").notes[0]
    assert convert(tmp_path / "2x.pth", tmp_path / "b.safetensors", scale=2).notes == []
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors").notes == []
    assert not any(doubt in note for note in convert(tmp_path / "a.safetensors", tmp_path / "b.pth").notes)


def test_equal_conversions_are_equal_files(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    about = {"author": "A", "licence": "MIT", "description": "for tests"}
    for i in range(6):
        convert(tmp_path / "a.safetensors", tmp_path / f"{i}.safetensors", dialect="basicsr", about=about)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(6)}) == 1


def test_author_licence_and_description_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = saved(tmp_path / "a.safetensors")
    torch.save(net.state_dict(), tmp_path / "a.pth")
    given = ["--author", "Ann", "--license", "CC-BY-4.0", "--description", "for faces"]
    line = ["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), *given]
    assert main([*line, "--openmodeldb", str(tmp_path / "b.json")]) == 0
    about = read_header(tmp_path / "b.safetensors").provenance
    assert [about[name] for name in ("author", "licence", "description")] == ["Ann", "CC-BY-4.0", "for faces"]
    assert about["converted_from"]["file"] == "a.pth"
    entry = json.loads((tmp_path / "b.json").read_text())
    assert [entry[name] for name in ("author", "license", "description")] == ["Ann", "CC-BY-4.0", "for faces"]


@pytest.mark.parametrize("odd", ["steps 5", None, [1], {"steps": "many"}])
def test_openmodeldb_metadata_takes_no_harm_from_an_odd_header(odd: object, tmp_path: Path) -> None:
    about = {"recipe": odd, "description": None, "author": ["A"], "date": None, "licence": 3, "data": {"pictures": 7}}
    save_model(saved(tmp_path / "a.safetensors"), tmp_path / "a.safetensors", provenance=about)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    write_openmodeldb(tmp_path / "b.pth", tmp_path / "b.json", about=about)
    entry = json.loads((tmp_path / "b.json").read_text())
    assert (entry["author"], entry["license"], entry["description"]) == ("", None, "")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry["date"])
    assert entry["datasetSize"] == 7
    assert "trainingIterations" not in entry


@pytest.mark.parametrize("shape", [{"scale": 4}, {"scale": 2}, {"scale": 2, "unshuffle": 2}])
def test_a_scale_that_the_file_belies_is_refused(shape: dict[str, int], tmp_path: Path) -> None:
    net = saved(tmp_path / "a.safetensors", **shape)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    headless = shape != {"scale": 2}  # which may be x3
    with pytest.raises(EsrganError, match=f"holds an x{shape['scale']} network, not x3"):
        convert(tmp_path / ("a.pth" if headless else "a.safetensors"), tmp_path / "b.safetensors", scale=3)
    assert not (tmp_path / "b.safetensors").exists()


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    with pytest.raises(EsrganError, match="esrgan export"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.onnx")


def test_openmodeldb_metadata_has_what_the_data_base_requires(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", growth=32)
    result = convert(tmp_path / "a.safetensors", tmp_path / "4x_tiny.pth")  # which has no header to tell it
    write_openmodeldb(tmp_path / "4x_tiny.pth", tmp_path / "m.json", about=result.provenance)
    entry = json.loads((tmp_path / "m.json").read_text())
    required = {"name", "author", "license", "tags", "description", "date", "architecture", "size", "scale",
                "inputChannels", "outputChannels", "resources", "images"}  # fmt: skip
    assert required <= entry.keys()
    assert (entry["architecture"], entry["scale"], entry["size"]) == ("esrgan", 4, ["8nf", "2nb"])
    assert entry["license"] == "CC0-1.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
    assert (entry["trainingIterations"], entry["trainingBatchSize"]) == (5, 4)
    (resource,) = entry["resources"]
    assert resource["sha256"] == sha256(tmp_path / "4x_tiny.pth")
    assert resource["size"] == (tmp_path / "4x_tiny.pth").stat().st_size
    assert (resource["platform"], resource["type"]) == ("pytorch", "pth")


def test_what_is_read_is_never_overwritten(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    saved(tmp_path / "b.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
    for out in ("a.safetensors", "link.safetensors"):
        with pytest.raises(UsageError, match="would be overwritten"):
            convert(tmp_path / "a.safetensors", tmp_path / out, half=True)
        with pytest.raises(UsageError, match="would be overwritten"):
            blend_files([tmp_path / "b.safetensors", tmp_path / "a.safetensors"], (1, 1), tmp_path / out)
    command = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "c.pth"), "--openmodeldb"]
    assert main([*command, str(tmp_path / "a.safetensors")]) == 2
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_author_and_licence_go_along_both_ways(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", growth=32)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dialect="basicsr")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "license": "CC0-1.0"}
    assert oct((tmp_path / "b.safetensors").stat().st_mode) == oct((tmp_path / "a.safetensors").stat().st_mode)
    assert read_header(tmp_path / "b.safetensors").provenance == {"licence": "CC0-1.0"}
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    about = read_header(tmp_path / "c.safetensors").provenance
    assert (about["licence"], about["converted_from"]["file"]) == ("CC0-1.0", "b.safetensors")


def test_a_config_of_another_program_in_the_header_does_no_harm(tmp_path: Path) -> None:
    net = saved(tmp_path / "a.safetensors")
    save_file(net.state_dict(), tmp_path / "b.safetensors", {"config": "neosr.toml", "author": "me"})
    assert read_header(tmp_path / "b.safetensors").provenance == {"author": "me"}


@pytest.mark.parametrize("key", ["ema_state_dict", "net_g_ema", "modelEMA", "params_ema", "g-ema"])
@pytest.mark.parametrize("beside", ["state_dict", "params", "model", "generator"])
def test_an_average_is_taken_under_any_key(tmp_path: Path, key: str, beside: str) -> None:
    raw, mean = saved(tmp_path / "raw.safetensors"), saved(tmp_path / "mean.safetensors")
    mean.conv_last.bias.data += 1
    torch.save({beside: raw.state_dict(), "optimizer": {}, key: mean.state_dict()}, tmp_path / "a.pth")
    assert torch.equal(load_model(tmp_path / "a.pth").conv_last.bias, mean.conv_last.bias)


def test_the_generator_is_found_beside_a_larger_network_under_any_key(tmp_path: Path) -> None:
    net = saved(tmp_path / "raw.safetensors")
    other = {f"layers.{i}.weight": torch.zeros(2, 2) for i in range(500)}
    torch.save({"disc": other, "model": other, "gen": net.state_dict()}, tmp_path / "a.pth")
    assert torch.equal(load_model(tmp_path / "a.pth").conv_last.bias, net.conv_last.bias)


def test_licences_of_a_blend_are_joined_as_spdx_says() -> None:
    sources = [{"licence": "MIT OR Apache-2.0"}, {"licence": "CC-BY-4.0"}, {"licence": "CC0-1.0"}]
    assert blend_provenance("abc", sources, (1, 1, 0))["licence"] == "(MIT OR Apache-2.0) AND CC-BY-4.0"


def test_what_another_program_would_read_as_another_network_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = saved(tmp_path / "a.safetensors", growth=32)
    with torch.no_grad():
        net.conv_last.weight.mul_(2)
    monkeypatch.setattr("esrgan.convert.widened", lambda _: net)
    for out in ("b.pth", "b.safetensors"):
        with pytest.raises(EsrganError, match="not written: its pictures are not those of the model"):
            convert(tmp_path / "a.safetensors", tmp_path / out, dialect="basicsr")
        assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_a_header_cannot_say_in_words_is_left_out_of_it(tmp_path: Path) -> None:
    net = saved(tmp_path / "a.safetensors")
    save_model(net, tmp_path / "a.safetensors", provenance={"licence": ["MIT", "CC0"], "author": "me"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dialect="basicsr")
    assert read_header(tmp_path / "b.safetensors").provenance == {"author": "me"}


def test_a_pth_file_has_its_weights_where_real_esrgan_looks_first(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", growth=32)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    assert torch.load(tmp_path / "b.pth").keys() == {"params_ema"}
    convert(tmp_path / "a.safetensors", tmp_path / "c.pth", dialect="old")
    assert torch.load(tmp_path / "c.pth").keys() >= {"model.0.weight", "model.1.sub.2.bias", "model.10.weight"}
