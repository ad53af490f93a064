from pathlib import Path

import pytest
import torch

from esrgan import Generator, GeneratorConfig, load_model, read_header, save_model
from esrgan.cli import main
from esrgan.describe import megaflops
from esrgan.errors import EsrganError
from esrgan.export import export
from esrgan.images import write_rgb

TINY = GeneratorConfig(channels=8, growth=4, blocks=1)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Three networks of one shape, in three dialects."""
    paths = []
    for i, licence in enumerate(("CC0-1.0", "MIT", "CC-BY-4.0")):
        torch.manual_seed(i)
        save_model(Generator(TINY), tmp_path / f"{i}.safetensors", provenance={"licence": licence, "data": {"n": 3}})
        paths.append(tmp_path / f"{i}.safetensors")
    torch.save({"params_ema": load_model(paths[1]).state_dict()}, tmp_path / "b.pth")
    torch.save({f"module.{k}": v for k, v in load_model(paths[2]).state_dict().items()}, tmp_path / "c.pth")
    return [str(paths[0]), str(tmp_path / "b.pth"), str(tmp_path / "c.pth")]


def test_convert_writes_and_reports(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", models[0], str(tmp_path / "o.pth"), "--to", "old", "--half",
                 "--openmodeldb", str(tmp_path / "o.json")]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "o.pth: old" in said
    assert said.count("largest difference") == 2
    assert "growth was padded from 4 to 32" in said
    assert (tmp_path / "o.json").is_file()
    assert load_model(tmp_path / "o.pth").config.growth == 32


@pytest.mark.parametrize("verb", ["convert", "export", "interpolate"])
def test_what_is_there_is_replaced_only_when_asked(
    verb: str, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / {"export": "o.param"}.get(verb, "o.safetensors")
    rest = ["--out", str(out), "--alpha", "0.5"] if verb == "interpolate" else [str(out)]
    words = [verb, *models[: 2 if verb == "interpolate" else 1], *rest]
    out.write_text("mine")
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert out.read_bytes() != b"mine"
    (tmp_path / "folder.param").mkdir()
    assert main(["export", models[0], str(tmp_path / "folder.param"), "--overwrite"]) == 2
    assert not (tmp_path / "folder.bin").exists()


def test_a_report_of_an_export_is_replaced_only_when_asked(models: list[str], tmp_path: Path) -> None:
    report = tmp_path / "o.pt2.parity.json"
    report.write_text("mine")
    words = ["export", models[0], str(tmp_path / "o.pt2")]
    assert main(words) == 2
    assert report.read_text() == "mine"
    assert not (tmp_path / "o.pt2").exists()
    assert main([*words, "--overwrite"]) == 0
    assert "sizes" in report.read_text()


def test_metadata_replaces_no_model_and_nothing_filled_in(models: list[str], tmp_path: Path) -> None:
    out, data = tmp_path / "o.pth", tmp_path / "o.json"
    assert main(["convert", models[0], str(out), "--openmodeldb", str(out), "--overwrite"]) == 2
    data.write_text("filled in")
    assert main(["convert", models[0], str(out), "--openmodeldb", str(data)]) == 2
    assert data.read_text() == "filled in"
    assert not out.exists()
    before = Path(models[0]).read_bytes()
    assert main(["convert", models[0], str(out), "--openmodeldb", models[0], "--overwrite"]) == 2
    assert Path(models[0]).read_bytes() == before


def test_export_writes_and_reports(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", models[1], str(tmp_path / "o.pt2")]) == 0
    assert capsys.readouterr().out.count("PSNR") == 2
    assert (tmp_path / "o.pt2.parity.json").is_file()


def test_show_tells_network_licence_origin_and_speed(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", models[0]]) == 0
    said = capsys.readouterr().out
    for part in (
        "1 blocks, 8 channels, growth 4",
        "x4",
        "CC0-1.0",
        "data.n",
        "s per megapixel",
        "safetensors, float32",
    ):
        assert part in said
    assert main(["models", "show", models[1], "--no-speed"]) == 0
    assert "not stated in the file" in capsys.readouterr().out


def test_show_tells_the_model_that_it_began_from_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {"name": "a", "stage": "psnr", "step": 7, "data": {"pictures": 12345}}
    save_model(Generator(TINY), tmp_path / "b.safetensors", provenance={"stage": "gan", "init": first})
    show = ["models", "show", str(tmp_path / "b.safetensors"), "--no-speed"]
    assert main(show) == 0
    said = capsys.readouterr().out
    assert "a, psnr, step 7 (--full tells all of it)" in said
    assert "12345" not in said
    assert main([*show, "--full"]) == 0
    assert "init.data.pictures 12345" in capsys.readouterr().out


def test_show_tells_the_models_of_a_blend_and_scores_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"datasets": [{"name": "Set5", "psnr_y": 29.8863189, "lpips": 0.07159}, "odd"]}
    for name in ("a", "b"):
        about = {"stage": "gan", "step": 7, "scores": scores, "data": {"pictures": 12345}}
        save_model(Generator(TINY), tmp_path / f"{name}.safetensors", provenance=about)
    files = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b", "c")]
    assert main(["models", "show", files[0], "--no-speed"]) == 0
    assert "Set5 psnr_y 29.89 lpips 0.07159; odd\n" in capsys.readouterr().out
    assert main(["interpolate", *files[:2], "--alpha", "0.25", "--out", files[2]]) == 0
    capsys.readouterr()
    assert main(["models", "show", files[2], "--no-speed"]) == 0
    said = capsys.readouterr().out
    assert "75% of a, gan, step 7; 25% of b, gan, step 7 (--full tells all of them)\n" in said
    assert "12345" not in said
    assert main(["models", "show", files[2], "--no-speed", "--full"]) == 0
    assert "12345" in capsys.readouterr().out


def test_show_tells_what_a_file_is_not_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(Generator(TINY), tmp_path / "b.safetensors", provenance={"scale": "x16", "parameters": "5"})
    assert main(["models", "show", str(tmp_path / "b.safetensors"), "--no-speed"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["scale", "x4"] in lines
    assert ["scale", "(says", "the", "file)", "x16"] in lines


def test_a_scale_that_the_file_does_not_tell_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Generator(GeneratorConfig(scale=3, channels=8, growth=4, blocks=1))
    torch.save(net.state_dict(), tmp_path / "m.pth")
    assert main(["models", "show", str(tmp_path / "m.pth"), "--no-speed"]) == 0
    assert "x2 (or x3" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "m.pth"), str(tmp_path / "m.safetensors"), "--scale", "3"]) == 0
    assert "m.safetensors: esrgan, x3" in capsys.readouterr().out
    assert main(["models", "show", str(tmp_path / "m.safetensors"), "--no-speed"]) == 0
    assert "or x3" not in capsys.readouterr().out


def test_show_obeys_nothing_that_a_header_says_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"licence": "MIT\x1b[2J", "author": "Ann Ångström\nlicence         CC0", "no\x07te": {"\x1b]0;x": 1}}
    save_model(Generator(TINY), tmp_path / "m.safetensors", provenance=about)
    assert main(["models", "show", str(tmp_path / "m.safetensors"), "--no-speed"]) == 0
    said = capsys.readouterr().out
    assert "MIT\\x1b[2J" in said
    assert "Ann Ångström\\nlicence         CC0" in said
    assert not {"\x1b", "\x07"} & set(said)
    with pytest.raises(EsrganError):  # and the error is printed by the same rule
        export(tmp_path / "\x1b.safetensors", tmp_path / "o.onnx")
    assert main(["models", "show", str(tmp_path / "\x1b[2Jm.pth")]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_too_small_a_picture_to_compare_with_is_told_the_size_that_is_needed(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rgb(torch.rand(3, 50, 70), tmp_path / "p.png")
    line = ["export", models[0], str(tmp_path / "o.pt2"), "--picture", str(tmp_path / "p.png")]
    assert main(line) == 1
    assert "is 70 x 50; it must be at least 64 x 72" in capsys.readouterr().err
    write_rgb(torch.rand(3, 72, 64), tmp_path / "p.png")
    assert main(line) == 0


def test_models_without_a_common_origin_blend_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = GeneratorConfig(channels=16, growth=8, blocks=1)
    for seed, name in enumerate(("a_psnr", "a_gan")):
        torch.manual_seed(seed)
        save_model(Generator(shape), tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"a_{kind}.safetensors") for kind in ("psnr", "gan")]
    assert main(["interpolate", *files, "--alpha", "0.5", "--out", str(tmp_path / "o.safetensors")]) == 0
    assert "model 2 seems not to be trained from model 1" in capsys.readouterr().err
    assert main(["interpolate", files[0], files[0], "--alpha", "0.5", "--out", str(tmp_path / "p.safetensors")]) == 0
    assert not capsys.readouterr().err
    write_rgb(torch.rand(3, 9, 9), tmp_path / "p.png")
    upscale = ["upscale", str(tmp_path / "p.png"), "--out", str(tmp_path), "--model", files[1], "--alpha", "0.5"]
    assert main(upscale) == 0
    assert "seems not to be trained" in capsys.readouterr().err
    write_rgb(torch.rand(3, 96, 96), tmp_path / "set" / "p.png")
    assert main(["test", "--data", str(tmp_path / "set"), "--model", files[1], "--alpha", "0.5"]) == 0
    assert "seems not to be trained" in capsys.readouterr().err


def test_enlarging_three_times_by_what_may_be_an_x3_model_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Generator(GeneratorConfig(scale=3, channels=8, growth=4, blocks=1))
    torch.save(net.state_dict(), tmp_path / "m.pth")
    write_rgb(torch.full((3, 9, 9), 0.5), tmp_path / "p.png")
    for scale, said in (("3", True), ("2", False)):
        upscale = ["upscale", str(tmp_path / "p.png"), "--out", str(tmp_path), "--model", str(tmp_path / "m.pth")]
        main([*upscale, "--scale", scale])
        assert ("m.pth is taken for an x2 model (or x3" in capsys.readouterr().err) == said


@pytest.mark.parametrize("verb", ["interpolate", "models push", "test", "data check", "pretrain", "train", "upscale"])
def test_no_option_empties_a_list(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert "--empty" not in capsys.readouterr().out


def test_models_of_two_dialects_blend(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    assert main(["interpolate", models[0], models[1], "--alpha", "0.25", "--out", str(out)]) == 0
    a, b, found = (load_model(path).conv_first.weight for path in (models[0], models[1], out))
    torch.testing.assert_close(found, 0.75 * a + 0.25 * b)
    assert read_header(out).provenance["alpha"] == 0.25


def test_more_than_two_models_blend_by_weights(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    assert main(["interpolate", *models, "--weights", "1", "1", "2", "--out", str(out)]) == 0
    a, b, c, found = (load_model(path).conv_first.weight for path in (*models, out))
    torch.testing.assert_close(found, 0.25 * a + 0.25 * b + 0.5 * c)
    assert [model["share"] for model in read_header(out).provenance["models"]] == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--alpha", "0.5"], "--alpha blends two models"),
        (["--alpha", "0.5", "--weights", "1", "1", "1"], "either --alpha, the share"),
        (["--weights", "1", "1"], "3 models need as many weights"),
        ([], "give either --alpha, the share"),
    ],
)
def test_shares_that_do_not_fit_are_one_line(
    arguments: list[str], said: str, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", *models, *arguments, "--out", str(tmp_path / "o.safetensors")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


def test_a_blend_is_a_file_of_ours(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpolate", *models[:2], "--alpha", "0.5", "--out", str(tmp_path / "o.pth")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "o.pth").exists()


@pytest.mark.parametrize("line", ["convert MODEL o.txt", "convert MODEL o.pth --to esrgan", "export MODEL o.txt"])
def test_a_suffix_that_does_not_fit_is_a_wrong_command(
    line: str, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.replace("MODEL", models[0]).split()) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "no_such_model", str(tmp_path / "o.pth")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_work_of_the_papers_network_is_known() -> None:
    assert megaflops(GeneratorConfig()) == pytest.approx(35.854, abs=0.001)


def test_exporting_replaces_no_weights_of_something_else(tmp_path: Path, models: list[str]) -> None:
    (tmp_path / "pytorch.bin").write_bytes(b"mine")
    with pytest.raises(EsrganError, match=r"pytorch\.bin, which goes with pytorch\.param, is there"):
        export(Path(models[0]), tmp_path / "pytorch.param")
    assert (tmp_path / "pytorch.bin").read_bytes() == b"mine"
