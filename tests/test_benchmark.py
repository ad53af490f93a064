import json
import shutil
from pathlib import Path

import pytest
import pyvips
import tiny
import torch

from esrgan.benchmark import SCORES, evaluate, score
from esrgan.cli import main
from esrgan.config import GeneratorConfig
from esrgan.engines import BySize
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.images import read_rgb, write_rgb
from esrgan.interpolate import blend_files
from esrgan.model_file import save_model
from esrgan.pairs import each_pair, find_pairs
from esrgan.resize import make_lr
from esrgan.stand_ins import Bicubic
from esrgan.upscaler import Upscaler

SHARED = Path(__file__).parents[2] / "shared"
BENCH = SHARED / "data" / "bench"
WEIGHTS = SHARED / "weights" / "lpips_alex.safetensors"
needs_bench = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark pictures are not at hand")
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the LPIPS weights are not at hand")


def picture(rows=48, columns=64, seed=0):
    torch.manual_seed(seed)
    return torch.rand(3, rows, columns)


def write_pair(hr_path, lr_path, hr=None, scale=4):
    hr = picture() if hr is None else hr
    write_rgb(hr, hr_path)
    write_rgb(make_lr(hr, scale), lr_path)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Torch's cache without any weights, and nowhere to fetch them from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("x4/HR/a.png", "x4/LR/a.png"),
        ("HR/a.png", "LR/a.png"),
        ("HR/a.png", "LR_bicubic/X4/ax4.png"),
        ("HR/x4/a.png", "LR/x4/a.png"),
        ("GTmod12/a.png", "LRbicx4/a.png"),
        ("HR/img_001_HR.png", "LR/img_001_LR.png"),
        ("HR/a.png", "LR/a_x4.webp"),
        ("hr/A.PNG", "lr/a.png"),
        ("GT/a.png", "LQ/a.png"),
        ("HR/a.png", "LR_x4/a.png"),
        ("HR/a.png", "x4/LR/a.png"),
        ("DIV2K_valid_HR/0801.png", "DIV2K_valid_LR_bicubic/X4/0801x4.png"),
        ("Set5_HR/a.png", "Set5_LR_x4/a.png"),
    ],
)
def test_the_layouts_that_datasets_come_in_are_understood(tmp_path, hr, lr):
    write_pair(tmp_path / hr.replace("PNG", "png"), tmp_path / lr)
    (files,) = find_pairs(tmp_path, 4)
    assert files.lr == tmp_path / lr
    assert next(each_pair(tmp_path, 4)).hr.shape == (3, 48, 64)


def test_names_that_end_in_digits_are_not_confused(tmp_path):
    for i in (1, 2, 10):
        write_pair(tmp_path / "HR" / f"box{i}.png", tmp_path / "LR" / f"box{i}x4.png", picture(seed=i))
    for files in find_pairs(tmp_path, 4):
        assert files.lr.stem == f"{files.hr.stem}x4"


def test_a_plain_folder_is_hr_and_lr_is_made_from_it(tmp_path):
    write_rgb(picture(50, 67), tmp_path / "a.png")
    (pair,) = each_pair(tmp_path, 4)
    assert pair.hr.shape == (3, 48, 64)
    torch.testing.assert_close(pair.lr, make_lr(read_rgb(tmp_path / "a.png")[:, :48, :64], 4))


def test_hr_is_cropped_to_whole_lr_pixels_as_datasets_expect(tmp_path):
    write_rgb(picture(51, 66), tmp_path / "HR" / "a.png")
    write_rgb(torch.rand(3, 12, 16), tmp_path / "LR" / "a.png")
    assert next(each_pair(tmp_path, 4)).hr.shape == (3, 48, 64)


def test_sizes_that_do_not_fit_are_an_error_that_names_the_file(tmp_path):
    write_rgb(picture(48, 64), tmp_path / "HR" / "a.png")
    write_rgb(torch.rand(3, 13, 16), tmp_path / "LR" / "a.png")
    with pytest.raises(EsrganError, match=r"LR/a\.png has 16 x 13 pixels; 16 x 12 fit .*HR/a\.png at x4"):
        list(each_pair(tmp_path, 4))


def test_a_picture_without_its_lr_is_named(tmp_path):
    write_pair(tmp_path / "HR" / "a.png", tmp_path / "LR" / "a.png")
    write_rgb(picture(), tmp_path / "HR" / "b.png")
    with pytest.raises(EsrganError, match=r"HR/b\.png has no LR picture"):
        find_pairs(tmp_path, 4)


def test_a_folder_of_datasets_is_not_taken_for_a_dataset(tmp_path):
    write_pair(tmp_path / "Set5" / "HR" / "a.png", tmp_path / "Set5" / "LR" / "a.png")
    with pytest.raises(EsrganError, match="nor in a folder HR or x4/HR"):
        find_pairs(tmp_path, 4)


def test_broken_and_tiny_pictures_are_named_and_the_others_go_on(tmp_path):
    write_rgb(picture(), tmp_path / "good.png")
    write_rgb(picture(8, 8), tmp_path / "tiny.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:100])
    skipped = []
    assert [pair.name for pair in each_pair(tmp_path, 4, skipped=skipped)] == ["good"]
    report = evaluate(Bicubic(4), [tmp_path])
    assert len(report.errors) == len(skipped) == 2
    assert "broken.png" in report.errors[0]
    assert "tiny.png" in report.errors[1]
    (dataset,) = report.datasets
    assert dataset.measured == 1
    assert dataset.mean("psnr_y") == dataset.rows[1].scores["psnr_y"]


def test_grey_files_count_and_are_measured_on_their_own_values(tmp_path):
    for folder, bands in (("grey", 1), ("rgb", 3)):
        (tmp_path / folder).mkdir()
        values = (picture()[:1] * 255).round().to(torch.uint8).permute(1, 2, 0).expand(-1, -1, bands).contiguous()
        pyvips.Image.new_from_array(values.numpy()).write_to_file(tmp_path / folder / "a.png")
    grey, rgb = (evaluate(Bicubic(4), [tmp_path / folder]).datasets[0] for folder in ("grey", "rgb"))
    assert rgb.mean("psnr_y") - grey.mean("psnr_y") == pytest.approx(1.3219, abs=0.02)


def test_a_score_is_a_mean_over_pictures(tmp_path):
    for i in range(3):
        write_rgb(picture(seed=i), tmp_path / f"{i}.png")
    report = evaluate(Bicubic(4), [tmp_path])
    (dataset,) = report.datasets
    assert dataset.mean("ssim_y") == pytest.approx(sum(row.scores["ssim_y"] for row in dataset.rows) / 3)


def test_score_has_every_measure_and_lpips_only_with_its_network():
    hr = picture()[None]
    scores = score(hr, hr, border=4)
    assert set(scores) == {"psnr_y", "ssim_y", "lpips", "grid2", "grid4", "unevenness", "overshoot", "colour_shift"}
    assert scores["lpips"] is None
    assert scores["ssim_y"] == pytest.approx(1)
    assert scores["grid4"] == pytest.approx(1)


def test_an_infinite_score_is_null_in_json(tmp_path):
    hr = torch.full((3, 32, 32), 0.5)
    write_rgb(hr, tmp_path / "a.png")
    report = evaluate(Bicubic(1), [tmp_path])
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["datasets"][0]["images"][0]["psnr_y"] is None


def test_an_upscaler_is_evaluated(tmp_path):
    write_rgb(picture(), tmp_path / "a.png")
    upscaler = Upscaler(Generator(GeneratorConfig(channels=8, growth=4, blocks=1)), device="cpu", precision="fp32")
    (dataset,) = evaluate(upscaler, [tmp_path], name="tiny").datasets
    assert dataset.mean("psnr_y") > 5
    assert dataset.mean("seconds") > 0


def test_the_report_calls_the_model_by_its_name(tmp_path):
    write_rgb(picture(), tmp_path / "a.png")
    net = Generator(tiny.SHAPE)
    save_model(net, tmp_path / "tiny.safetensors")
    upscaler = Upscaler(tmp_path / "tiny.safetensors", device="cpu", precision="fp32")
    assert upscaler.name == "tiny"
    assert evaluate(upscaler, [tmp_path]).model == "tiny"
    assert evaluate(upscaler, [tmp_path], name="mine").model == "mine"
    assert evaluate(Upscaler(net, device="cpu", precision="fp32"), [tmp_path]).model == "Upscaler"


def test_the_command_prints_a_table_and_the_protocol_and_writes_json(tmp_path, capsys, offline):
    write_pair(tmp_path / "Mine" / "x4" / "HR" / "a.png", tmp_path / "Mine" / "x4" / "LR" / "a.png")
    save_model(Generator(GeneratorConfig(channels=8, growth=4, blocks=1)), tmp_path / "tiny.safetensors")
    code = main(
        ["test", "--data", str(tmp_path / "Mine"), "--model", str(tmp_path / "tiny.safetensors"), "--device", "cpu",
         "--json", str(tmp_path / "out" / "scores.json")]
    )  # fmt: skip
    assert code == 0
    shown = capsys.readouterr().out
    assert "tiny on Mine" in shown
    assert "mean of 1" in shown
    assert "Protocol: x4" in shown
    assert "LPIPS is left out" in shown
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(report) == ["model", "protocol", "datasets"]
    (dataset,) = report["datasets"]
    assert list(dataset) == ["name", *SCORES, "seconds", "images"]
    assert dataset["grid4"] == dataset["images"][0]["grid4"]
    assert dataset["name"] == "Mine"
    assert dataset["lpips"] is None
    assert {"name", "psnr_y", "ssim_y", "lpips", "seconds"} <= dataset["images"][0].keys()


def test_the_command_exits_with_1_if_a_picture_could_not_be_measured(tmp_path, capsys, offline):
    write_rgb(picture(), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    assert main(["test", "--data", str(tmp_path), "--model", "bicubic"]) == 1
    out, err = capsys.readouterr()
    assert "mean of 1" in out
    assert "bad.png" in err


@pytest.mark.parametrize(
    ("options", "named", "code"),
    [
        (["--model", "nosuch"], "nosuch", 1),
        (["--model", "bicubic", "--scale", "0"], "--scale", 2),
        (["--model", "bicubic", "--tile", "0"], "--tile", 2),
        (["--model", "bicubic", "--lpips", "absent.safetensors"], "absent.safetensors", 1),
        (["--model", "MODEL", "--scale", "2"], "enlarges 4 times, not 2", 2),
        (["--model", "MODEL", "--engine", "openvino", "--precision", "fp16"], "openvino cannot do this", 2),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, offline, options, named, code):
    write_rgb(picture(), tmp_path / "a.png")
    save_model(Generator(GeneratorConfig(channels=4, growth=2, blocks=1)), tmp_path / "MODEL.safetensors")
    options = [f"{tmp_path / option}.safetensors" if option == "MODEL" else option for option in options]
    assert main(["test", "--data", str(tmp_path / "a.png"), *options]) == code
    assert named in capsys.readouterr().err


@needs_bench
@pytest.mark.parametrize(
    ("name", "scale", "psnr", "ssim"),
    [("Set5", 4, 28.42, 0.8104), ("Set14", 4, 26.00, 0.7027), ("Set5", 3, 30.39, 0.8682), ("Set5", 2, 33.66, 0.9299)],
)
def test_bicubic_scores_what_papers_report(name, scale, psnr, ssim):
    (dataset,) = evaluate(Bicubic(scale), [BENCH / name]).datasets
    assert dataset.mean("psnr_y") == pytest.approx(psnr, abs=0.02)
    assert dataset.mean("ssim_y") == pytest.approx(ssim, abs=0.002)


@needs_bench
def test_lr_made_from_hr_scores_like_the_published_lr(tmp_path):
    shutil.copytree(BENCH / "Set5" / "x4" / "HR", tmp_path / "Set5")
    published, made = (evaluate(Bicubic(4), [folder]).datasets[0] for folder in (BENCH / "Set5", tmp_path / "Set5"))
    assert made.mean("psnr_y") == pytest.approx(published.mean("psnr_y"), abs=0.01)


def test_hr_and_lr_side_by_side_are_told_apart(tmp_path):
    write_pair(tmp_path / "img_001_SRF_4_HR.png", tmp_path / "img_001_SRF_4_LR.png")
    write_rgb(picture(), tmp_path / "img_001_SRF_4_bicubic.png")  # another method's result, as SelfExSR has them
    (files,) = find_pairs(tmp_path, 4)
    assert files.lr == tmp_path / "img_001_SRF_4_LR.png"


def test_an_lr_folder_of_an_unknown_name_is_not_passed_over(tmp_path):
    write_pair(tmp_path / "HR" / "a.png", tmp_path / "LR_unknown" / "X4" / "a.png")
    with pytest.raises(EsrganError, match="LR_unknown may hold the LR pictures"):
        find_pairs(tmp_path, 4)


@pytest.mark.parametrize("folder", ["small", "bicubic/X4", "LQ_other"])
def test_pictures_of_lr_size_under_any_name_are_not_passed_over(tmp_path, folder):
    write_pair(tmp_path / "HR" / "a.png", tmp_path / folder / "ax4.png")
    with pytest.raises(EsrganError, match=f"{folder.split('/')[0]} may hold the LR pictures"):
        find_pairs(tmp_path, 4)


def test_results_of_other_methods_beside_hr_are_not_taken_for_lr(tmp_path):
    for folder in ("HR", "EDSR"):
        write_rgb(picture(), tmp_path / folder / "a.png")
    assert [files.lr for scale in (1, 4) for files in find_pairs(tmp_path, scale)] == [None, None]


def test_two_folders_of_hr_are_told_from_one(tmp_path):
    for part in ("train", "valid"):
        write_rgb(picture(), tmp_path / f"DIV2K_{part}_HR" / "a.png")
    with pytest.raises(EsrganError, match="has DIV2K_train_HR and DIV2K_valid_HR"):
        find_pairs(tmp_path, 4)


@pytest.mark.parametrize("twice", ["HR/a.webp", "LR/a.webp"])
def test_a_name_that_two_pictures_have_is_an_error(tmp_path, twice):
    write_pair(tmp_path / "HR" / "a.png", tmp_path / "LR" / "a.png")
    write_rgb(picture(), tmp_path / twice)
    with pytest.raises(EsrganError, match=r"a\.(png|webp) and a\.(png|webp) have one name"):
        find_pairs(tmp_path, 4)


def test_pictures_that_were_saved_score_as_the_model_did(tmp_path, capsys, offline):
    for name in ("Mine", "Other"):
        write_pair(tmp_path / name / "HR" / "a.png", tmp_path / name / "LR" / "a.png", picture(seed=len(name)))
    words = ["test", "--data", str(tmp_path / "Mine"), str(tmp_path / "Other"), "--json", str(tmp_path / "one.json")]
    assert main([*words, "--model", "bicubic", "--save", str(tmp_path / "sr")]) == 0
    assert read_rgb(tmp_path / "sr" / "Other" / "a.png").shape == (3, 48, 64)
    (tmp_path / "sr" / "Other" / "a.png").rename(tmp_path / "sr" / "Other" / "a_x4_SR.png")
    words[-1] = str(tmp_path / "two.json")
    assert main([*words, "--model", str(tmp_path / "sr")]) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert [row["psnr_y"] for row in one["datasets"]] == [row["psnr_y"] for row in two["datasets"]]
    assert two["model"] == "sr"
    assert main([*words, "--overwrite", "--model", "bicubic", "--save", str(tmp_path / "Mine")]) == 0
    assert (tmp_path / "Mine" / "Mine" / "a.png").is_file()
    assert main([*words[:-2], "--model", "bicubic", "--save", str(tmp_path / "sr")]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_two_pictures_that_would_be_saved_under_one_name_are_refused_before_any_is_measured(tmp_path):
    for parent in ("one", "two"):
        write_pair(tmp_path / parent / "Set" / "HR" / "a.png", tmp_path / parent / "Set" / "LR" / "a.png")
    folders = [tmp_path / "one" / "Set", tmp_path / "two" / "Set"]
    assert len(evaluate(Bicubic(4), folders).datasets) == 2
    with pytest.raises(EsrganError, match=r"one.*a\.png and .*two.*a\.png would both be saved as"):
        evaluate(Bicubic(4), folders, save=tmp_path / "sr")
    assert not (tmp_path / "sr").exists()


def test_pictures_of_another_program_that_do_not_fit_are_named(tmp_path, capsys, offline):
    write_pair(tmp_path / "Mine" / "HR" / "a.png", tmp_path / "Mine" / "LR" / "a.png")
    write_rgb(picture(40, 64), tmp_path / "sr" / "a.png")
    words = ["test", "--data", str(tmp_path / "Mine"), "--model", str(tmp_path / "sr")]
    assert main(words) == 1
    assert "a.png has 64 x 40 pixels; HR, as far as LR goes, has 64 x 48" in capsys.readouterr().err
    (tmp_path / "sr" / "a.png").rename(tmp_path / "sr" / "ab.png")
    assert main(words) == 1
    assert "sr has no pictures called a;" in capsys.readouterr().err
    assert main([*words, "--alpha", "0.5"]) == 2


def test_a_blend_is_measured_as_its_file_is(tmp_path, capsys, offline):
    write_pair(tmp_path / "Mine" / "HR" / "a.png", tmp_path / "Mine" / "LR" / "a.png")
    for seed, kind in enumerate(("psnr", "gan")):
        torch.manual_seed(seed)
        save_model(Generator(GeneratorConfig(channels=8, growth=4, blocks=1)), tmp_path / f"m_{kind}.safetensors")
    psnr, gan, blend = (tmp_path / f"{name}.safetensors" for name in ("m_psnr", "m_gan", "b"))
    blend_files([psnr, gan], (0.3, 0.7), blend)
    found = []
    for i, model in enumerate((["m_gan.safetensors", "--alpha", "0.7"], ["b.safetensors"])):
        words = ["test", "--data", str(tmp_path / "Mine"), "--json", str(tmp_path / f"{i}.json"), "--precision", "fp32"]
        assert main([*words, "--model", str(tmp_path / model[0]), *model[1:]]) == 0
        found.append(json.loads((tmp_path / f"{i}.json").read_text()))
    assert found[0]["datasets"][0]["psnr_y"] == pytest.approx(found[1]["datasets"][0]["psnr_y"], abs=1e-4)
    assert [report["model"] for report in found] == ["m_gan, alpha 0.7", "b"]


def test_one_engine_computes_every_picture_however_small(tmp_path):
    upscaler = Upscaler(Generator(tiny.SHAPE), device="cpu")
    if not isinstance(upscaler._engine, BySize):
        pytest.skip("one engine computes all here")
    write_rgb(picture(), tmp_path / "a.png")
    evaluate(upscaler, [tmp_path])
    assert upscaler._engine.small is upscaler._engine.large


def test_the_report_says_whose_lr_it_was_and_who_computed(tmp_path):
    write_pair(tmp_path / "Own" / "x4" / "HR" / "a.png", tmp_path / "Own" / "x4" / "LR" / "a.png")
    upscaler = Upscaler(Generator(tiny.SHAPE), device="cpu", precision="fp32", engine="torch")
    report = evaluate(upscaler, [tmp_path / "Own", tmp_path / "Own" / "x4" / "HR"]).to_dict()
    assert [found["name"] for found in report["datasets"]] == ["Own", "Own"]
    assert "; LR of Own made from HR by bicubic" in report["protocol"]
    assert "; computed: x4 by torch on cpu in float32" in report["protocol"]


def test_a_mean_that_leaves_pictures_out_says_so(tmp_path, capsys):
    write_rgb(torch.zeros(3, 48, 64), tmp_path / "black.png")
    write_rgb(picture(48, 64), tmp_path / "photo[final].png")
    assert main(["test", "--data", str(tmp_path), "--model", "bicubic"]) == 0
    said = capsys.readouterr().out
    assert "psnr_y: mean of 1 pictures" in said
    assert "made from HR by bicubic" in said
    assert "photo[final]" in said


def test_a_report_replaces_no_picture(tmp_path):
    write_rgb(picture(48, 64), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert main(["test", "--data", str(tmp_path), "--model", "bicubic", "--json", str(tmp_path / "a.png")]) == 2
    assert (tmp_path / "a.png").read_bytes() == before


def test_scores_replace_those_of_another_model_only_when_asked(tmp_path, capsys, offline):
    write_rgb(picture(48, 64), tmp_path / "a.png")
    out = tmp_path / "s.json"
    out.write_text("of another model")
    words = ["test", "--data", str(tmp_path / "a.png"), "--model", "bicubic", "--json", str(out)]
    assert main(words) == 2
    shown, said = capsys.readouterr()
    assert "--overwrite" in said
    assert not shown  # nothing was scored
    assert out.read_text() == "of another model"
    assert main([*words, "--overwrite"]) == 0
    assert json.loads(out.read_text())["model"] == "bicubic"


def test_a_name_that_ends_in_hr_has_its_partner(tmp_path):
    write_pair(tmp_path / "HR" / "Uhr.png", tmp_path / "LR" / "Uhrx4.png")
    assert find_pairs(tmp_path, 4)[0].lr == tmp_path / "LR" / "Uhrx4.png"


def test_a_folder_without_lr_of_this_scale_is_named(tmp_path):
    write_pair(tmp_path / "HR" / "a.png", tmp_path / "LR_bicubic" / "X4" / "a.png")
    with pytest.raises(EsrganError, match=r"no LR pictures for x2 in .*LR_bicubic$"):
        find_pairs(tmp_path, 2)
