from dataclasses import replace
from functools import partial

import pytest

from esrgan.config import GeneratorConfig
from esrgan.generator import Generator
from esrgan.model_file import read_header, save_model
from esrgan.plots import draw_curves
from esrgan.track import CURVES, balance, gains, load_references, trend, verdict


def validations(*values, score="psnr_y", start=100):
    return [{"step": start * (i + 1), "validation": {score: value}} for i, value in enumerate(values)]


LITE = GeneratorConfig(blocks=6, channels=32, growth=16)
BICUBIC = [{"step": 0, "bicubic": {"psnr_y": 24.0, "lpips": 0.4}}]


@pytest.mark.parametrize(
    ("loss", "said"),
    [(0.69, "balance"), (0.01, "wins outright"), (0.2, "far ahead"), (1.2, "guesses wrong"), (5.0, "diverging")],
)
def test_the_discriminators_loss_in_words(loss, said):
    assert said in balance(loss)
    assert "0.693" in balance(loss)


def test_the_trend_in_words():
    assert trend(validations(20, 21, 22), "psnr_y") == "PSNR is improving"
    assert trend(validations(25.696, 25.715, 25.733, 25.742, 25.745), "psnr_y") == "PSNR is improving"
    assert "stood still" in trend(validations(22, 22, 22, 22), "psnr_y")
    assert "stood still" in trend(validations(20, 22, 21.95), "psnr_y")
    assert "worse than at step 200" in trend(validations(20, 23, 22, 22), "psnr_y")
    assert trend(validations(0.3, 0.2, score="lpips"), "lpips") == "LPIPS is improving"
    assert trend(validations(20), "psnr_y") == "the first validation"
    assert trend([], "psnr_y") == ""


def test_a_run_is_held_against_shipped_ones_by_the_gain_over_bicubic():
    own = [*BICUBIC, *validations(24.5, 25.0)]
    other = [{"step": 0, "bicubic": {"psnr_y": 30.0}}, {"step": 0, "validation": {"psnr_y": 30.0}},
             {"step": 400, "validation": {"psnr_y": 32.0}}]  # fmt: skip
    assert gains(own) == [(100, 0.5), (200, 1.0)]
    assert verdict(own, {"lite": other}, name="psnr_y").endswith("+1.00 dB over bicubic, on track: lite had +1.00 here")
    assert verdict(own[:-1], {"lite": other[:1] + other[2:]}, name="psnr_y").endswith("+0.50 dB over bicubic")
    late = [*BICUBIC, {"step": 900, "validation": {"psnr_y": 25.0}}]
    assert "behind: lite had +2.00 at its end, step 400" in verdict(late, {"lite": other}, name="psnr_y")
    assert "+1.00 dB over bicubic" in verdict(own, {}, name="psnr_y")
    below = [{"step": 0, "bicubic": {"psnr_y": 30.0}}, {"step": 5, "validation": {"psnr_y": 28.5}}]
    assert verdict(below, {}, name="psnr_y").endswith("1.50 dB below bicubic")


def test_a_gan_run_is_held_against_shipped_ones_by_its_share_of_bicubics_lpips():
    own = [*BICUBIC, *validations(0.2, score="lpips")]
    other = [{"step": 0, "bicubic": {"lpips": 0.8}}, {"step": 100, "validation": {"lpips": 0.3}}]
    assert "LPIPS 50% of bicubic's, behind: lite had 37% here" in verdict(own, {"lite": other}, name="lpips")
    other[1]["validation"]["lpips"] = 0.5
    assert "on track: lite had 62% here" in verdict(own, {"lite": other}, name="lpips")


def test_a_run_is_not_held_against_one_that_began_from_a_far_better_model():
    def run(first, last):
        scores = [{"psnr_y": score, "lpips": score / 100} for score in (first, last)]
        rows = [{"step": 100 * i, "validation": score} for i, score in enumerate(scores)]
        return [{"step": 0, "bicubic": {"psnr_y": 20.0, "lpips": 0.5}}, *rows]

    own = run(20.5, 21.0)
    assert "behind: lite had +2.00" in verdict(own, {"lite": run(20.55, 22.0)}, name="psnr_y")
    assert "lite" not in verdict(own, {"lite": run(21.9, 22.0)}, name="psnr_y")
    assert "lite" not in verdict(own, {"lite": run(15.0, 10.0)}, name="lpips")
    assert "lite" in verdict(run(15.0, 10.0), {"lite": own}, name="lpips")


def test_reference_curves_are_read_and_a_missing_folder_is_fine(tmp_path):
    assert load_references("psnr", LITE, begun=False, folder=tmp_path / "none") == {}
    rows = '{"step": 0, "psnr_y": 24.0, "bicubic": true}\n{"step": 10, "psnr_y": 25.0, "lpips": 0.3}\n'
    for name in ("lite_x4_psnr", "lite_x4_gan", "lite_x2_psnr"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    found = load_references("psnr", LITE, begun=False, folder=tmp_path)
    assert list(found) == ["lite_x4_psnr"]
    assert gains(found["lite_x4_psnr"]) == [(10, 1.0)]


@pytest.mark.parametrize("stage", ["psnr", "gan"])
def test_the_shipped_runs_have_curves_that_rise_above_bicubic(stage):
    for path in CURVES.parent.glob(f"*_{stage}.safetensors"):
        curve = load_references(stage, read_header(path).config, begun=True)[path.stem]
        score = {"psnr": "psnr_y", "gan": "lpips"}[stage]
        last = gains(curve, score)[-1][1]
        assert last > 0.5 if stage == "psnr" else last < 0.8


def test_a_run_is_held_against_networks_no_larger_than_its_own(tmp_path):
    (tmp_path / "curves").mkdir()
    for name, blocks in (("full_x4_psnr", 23), ("lite_x4_psnr", 6)):
        save_model(Generator(replace(LITE, blocks=blocks, channels=4, growth=2)), tmp_path / f"{name}.safetensors",
                   provenance={"init": {}})  # fmt: skip
        (tmp_path / "curves" / f"{name}.jsonl").write_text('{"step": 1, "psnr_y": 25.0}\n')
    found = partial(load_references, "psnr", begun=True, folder=tmp_path / "curves")
    assert list(found(LITE)) == ["lite_x4_psnr"]
    assert list(found(GeneratorConfig())) == ["full_x4_psnr", "lite_x4_psnr"]
    assert not found(replace(LITE, scale=2))


def test_a_run_from_scratch_is_held_against_one_from_scratch():
    assert list(load_references("psnr", LITE, begun=False)) == ["lite_x4_psnr_from_scratch"]
    first, *_, last = gains(load_references("psnr", LITE, begun=False)["lite_x4_psnr_from_scratch"])
    assert (first[0], last[0]) == (500, 6800)
    assert first[1] < 0.7 < last[1]


def test_curves_are_drawn_the_same_way_each_time(tmp_path):
    log = [{"step": s, "losses": {"pixel": 1 / s}, "learning_rate": 1e-3} for s in range(1, 5)]
    log += [*BICUBIC, *validations(20, 21, start=2)]
    for name in ("one.png", "two.png"):
        draw_curves(log, tmp_path / name, title="a run", references={"lite": [*BICUBIC, *validations(24, 25)]})
    content = (tmp_path / "one.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "two.png").read_bytes()


def test_an_empty_log_makes_an_empty_picture(tmp_path):
    draw_curves([], tmp_path / "curves.png", title="a run")
    assert (tmp_path / "curves.png").is_file()
