import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import esrgan.export
from esrgan import EsrganError, Generator, GeneratorConfig, save_model
from esrgan.export import FORMATS, export
from esrgan.extras import import_extra
from esrgan.images import write_rgb
from esrgan.parity import Parity, compare, require

TINY = {"channels": 8, "growth": 4, "blocks": 1}
NEEDS = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("openvino",), ".param": ("ncnn",), ".pt2": ()}
UNSHUFFLED: dict[str, object] = {"scale": 2, "unshuffle": 2}
CASES: list[tuple[str, dict[str, object], bool]] = [
    *((suffix, {}, half) for suffix in FORMATS for half in (False, True)),
    *((suffix, UNSHUFFLED, False) for suffix in (".onnx", ".param", ".pt2")),
    *((suffix, {"variant": "subpixel"}, False) for suffix in (".onnx", ".param")),
    *((".param", shape, False) for shape in ({"scale": 3}, {"plus": True}, {"scale": 1, "unshuffle": 4})),
]


def saved(path: Path, **shape: object) -> Generator:
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(**TINY | shape)).eval().requires_grad_(False)
    save_model(net, path)
    return net


@pytest.mark.parametrize(("suffix", "shape", "half"), CASES, ids=str)
def test_an_exported_network_gives_the_same_pictures_in_its_engine(
    suffix: str, shape: dict[str, object], half: bool, tmp_path: Path
) -> None:
    for package in NEEDS[suffix]:
        pytest.importorskip(package)
    saved(tmp_path / "m.safetensors", **shape)
    rows = export(tmp_path / "m.safetensors", tmp_path / f"m{suffix}", half=half)
    assert len(rows) == 2
    assert all(row.psnr > (50 if half else 100) for row in rows)
    report = json.loads((tmp_path / f"m{suffix}.parity.json").read_text())
    assert [row["psnr"] for row in report["sizes"]] == [row.psnr for row in rows]


def test_onnx_files_take_any_size_and_carry_their_config(tmp_path: Path) -> None:
    onnx, _, _ = (pytest.importorskip(package) for package in NEEDS[".onnx"])
    net = saved(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (model.graph.input[0],)]
    assert shapes == [[1, 3, "height", "width"]]
    assert json.loads({p.key: p.value for p in model.metadata_props}["esrgan"])["scale"] == 4
    assert b"/" + b"generator.py" not in model.SerializeToString()
    run = esrgan.export.load_onnx(tmp_path / "m.onnx")
    for size in ((2, 2), (5, 31), (40, 17)):
        lr = torch.rand(1, 3, *size)
        torch.testing.assert_close(run(lr), net(lr), atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("side", [2, 4])
def test_networks_that_begin_with_pixel_unshuffle_take_any_size_too(suffix: str, side: int, tmp_path: Path) -> None:
    for package in NEEDS[suffix]:
        pytest.importorskip(package)
    net = saved(tmp_path / "m.safetensors", scale=4 // side, unshuffle=side)
    export(tmp_path / "m.safetensors", tmp_path / f"m{suffix}")
    run = FORMATS[suffix][1](tmp_path / f"m{suffix}")
    for size in ((5, 5), (7, 12), (33, 18)):
        lr = torch.rand(1, 3, *size)
        torch.testing.assert_close(run(lr), net(lr), atol=1e-5, rtol=0)


def test_one_name_is_not_for_openvino_and_ncnn(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    saved(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "m.param")
    before = (tmp_path / "m.bin").read_bytes()
    with pytest.raises(EsrganError, match=r"would overwrite the weights of m\.param; choose another name"):
        export(tmp_path / "m.safetensors", tmp_path / "m.xml")
    assert (tmp_path / "m.bin").read_bytes() == before


def test_ncnn_files_have_the_names_that_other_programs_look_for(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    saved(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "m.param")
    lines = (tmp_path / "m.param").read_text().splitlines()
    assert lines[0] == "7767517"
    assert lines[2].split()[-1] == "data"
    assert lines[-1].split()[5] == "output"
    layers, blobs = map(int, lines[1].split())
    assert layers == len(lines) - 2
    assert blobs == sum(int(line.split()[3]) for line in lines[2:])


def test_a_failed_proof_leaves_nothing(tmp_path: Path) -> None:
    net = saved(tmp_path / "m.safetensors")
    net.conv_last.weight[0] = 1e5  # more than fp16 holds
    save_model(net, tmp_path / "m.safetensors")
    (tmp_path / "m.pt2").write_text("before")
    with pytest.raises(EsrganError, match="not written: its pictures are not those of the model"):
        export(tmp_path / "m.safetensors", tmp_path / "m.pt2", half=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.pt2", "m.safetensors"]
    assert (tmp_path / "m.pt2").read_text() == "before"


def test_values_that_are_not_finite_fail_the_proof() -> None:
    net = Generator(GeneratorConfig(**TINY)).eval()
    rows = compare(net, lambda lr: net(lr) * float("nan"))
    for half in (False, True):
        with pytest.raises(EsrganError, match="not written"):
            require(rows, half=half, what="m.onnx")


@pytest.mark.parametrize("suffix", [".pt2", ".param"])
def test_the_proof_takes_a_picture_of_yours(suffix: str, tmp_path: Path) -> None:
    for package in NEEDS[suffix]:
        pytest.importorskip(package)
    saved(tmp_path / "m.safetensors")
    write_rgb(torch.rand(3, 90, 100), tmp_path / "p.png")
    write_rgb(torch.rand(3, 20, 20), tmp_path / "small.png")
    rows = export(tmp_path / "m.safetensors", tmp_path / f"m{suffix}", picture=tmp_path / "p.png")
    assert all(row.psnr > 100 for row in rows)
    with pytest.raises(EsrganError, match="at least"):
        export(tmp_path / "m.safetensors", tmp_path / f"n{suffix}", picture=tmp_path / "small.png")


def test_an_engine_that_is_missing_names_its_extra() -> None:
    with pytest.raises(EsrganError, match=r"pip install '.\[onnx\]'"):
        import_extra("no_such_engine", "onnx")


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors")
    with pytest.raises(EsrganError, match=r"must end in one of \.onnx"):
        export(tmp_path / "m.safetensors", tmp_path / "m.trt")


def test_the_weights_that_are_read_are_not_written_over(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    saved(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "n.param")
    before = (tmp_path / "n.bin").read_bytes()
    for source, out in (("n.bin", "n.param"), ("n.param", "n.xml")):
        with pytest.raises(EsrganError, match="is read and would be overwritten"):
            export(tmp_path / source, tmp_path / out, half=True)
    assert (tmp_path / "n.bin").read_bytes() == before


@pytest.mark.parametrize(("levels", "psnr", "half", "fails"), [
    (0.9, 40, False, False), (1.1, 90, False, True), (math.nan, math.nan, False, True),
    (9, 50.1, True, False), (0.1, 49.9, True, True), (math.nan, math.nan, True, True),
])  # fmt: skip
def test_the_proof_allows_one_level_or_50_db_in_fp16(levels: float, psnr: float, half: bool, fails: bool) -> None:
    same = Parity(height=8, width=8, largest_difference=0, psnr=200)
    rows = [same, replace(same, largest_difference=levels / 255, psnr=psnr)]
    with pytest.raises(EsrganError, match="a file is not written") if fails else nullcontext():
        require(rows, half=half, what="a file")
