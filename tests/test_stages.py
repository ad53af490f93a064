import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from esrgan.config import DiscriminatorConfig, PretrainOptim
from esrgan.errors import EsrganError
from esrgan.generator import RRDB, Generator
from esrgan.model_file import load_model, read_header, save_model
from esrgan.run_dir import RunDir
from esrgan.run_state import read_state
from esrgan.stages import _gan_rank, _validation, enough_memory, pretrain, train
from esrgan.team import build_team
from esrgan.training import fit

FILES = {"config.toml", "log.jsonl", "log.txt", "curves.png", "latest.safetensors", "best.safetensors", "state.pt"}


def rows(config):
    return [json.loads(line) for line in (config.run_dir / "log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    """Weights of others are neither in the cache nor to be had."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_stage_1_leaves_a_whole_run_folder(tmp_path):
    config = tiny.stage_1(tmp_path, val=(tiny.pictures(tmp_path / "val", 2, seed=7),))
    best = pretrain(config)
    assert best == config.run_dir / "best.safetensors"
    assert {path.name for path in config.run_dir.iterdir()} >= FILES
    assert len(list((config.run_dir / "samples").iterdir())) == 2
    assert load_model(best).config == tiny.SHAPE
    found = [row for row in rows(config) if "validation" in row]
    assert [row["step"] for row in found] == [6, 12]
    assert all(row["validation"]["psnr_y"] > 10 for row in found)
    assert found[0]["best"]
    about = read_header(best).provenance
    assert about["stage"] == "psnr"
    assert str(tmp_path) not in json.dumps(about)


def test_without_validation_the_latest_model_is_the_result(tmp_path):
    config = tiny.stage_1(tmp_path)
    assert pretrain(config).name == "latest.safetensors"
    assert (config.run_dir / "curves.png").is_file()


def test_stage_2_without_lpips_weights_chooses_by_psnr_and_says_so(tmp_path, capsys):
    config = tiny.stage_2(tmp_path, val=(tiny.pictures(tmp_path / "val", 1, seed=7),))
    train(config)
    assert "chosen by PSNR-Y" in capsys.readouterr().out
    assert set(next(row for row in rows(config) if "losses" in row)["losses"]) == {
        "pixel", "colour", "grid", "perceptual", "gan", "discriminator"
    }  # fmt: skip
    assert "balance" in next(row for row in rows(config) if "losses" in row)["verdict"]
    train(replace(config, steps=2 * config.steps, lpips=tiny.lpips(tmp_path / "lpips.safetensors")))
    assert [row["bicubic"]["lpips"] is None for row in rows(config) if "bicubic" in row] == [True, False]
    assert "of bicubic's" in [row for row in rows(config) if "validation" in row][-1]["verdict"]


def test_the_best_gan_model_is_that_of_the_lowest_lpips_above_the_floor():
    assert _gan_rank(25, {"psnr_y": 26, "lpips": 0.1}) > _gan_rank(25, {"psnr_y": 28, "lpips": 0.2})
    assert _gan_rank(25, {"psnr_y": 26, "lpips": 0.9}) > _gan_rank(25, {"psnr_y": 24, "lpips": 0.1})
    assert _gan_rank(25, {"psnr_y": 27, "lpips": None}) > _gan_rank(25, {"psnr_y": 26, "lpips": None})


def test_a_finished_run_is_left_as_it_is_and_more_steps_go_on(tmp_path):
    config = tiny.stage_1(tmp_path, steps=6)
    pretrain(config)
    before = (config.run_dir / "log.jsonl").read_bytes()
    pretrain(config)
    assert (config.run_dir / "log.jsonl").read_bytes() == before
    pretrain(replace(config, steps=8))
    assert rows(config)[-1]["step"] == 8


def test_a_learning_rate_that_more_steps_raise_again_is_told(tmp_path):
    config = tiny.stage_1(tmp_path, optim=PretrainOptim(learning_rate=1e-3, milestones=(), decay=0.5))

    def notes():
        log = (config.run_dir / "log.jsonl").read_text().splitlines()
        return [row["note"] for row in map(json.loads, log) if "resumed" in row.get("note", "")]

    pretrain(config)
    pretrain(replace(config, steps=24))
    assert notes() == ["resumed; with 24 steps the learning rate is 0.001 here, not 0.000167"]
    level = replace(config, run_dir=tmp_path / "level", optim=replace(config.optim, decay=0))
    pretrain(level)
    config = replace(level, steps=24)
    pretrain(config)
    assert notes() == ["resumed"]


def test_resuming_from_the_best_state_goes_back_there(tmp_path):
    config = tiny.stage_1(tmp_path, val=(tiny.pictures(tmp_path / "val", 1, seed=7),), validate_every=2, steps=10)
    pretrain(config)
    found = [row for row in rows(config) if "validation" in row]
    best = max(found, key=lambda row: row["validation"]["psnr_y"])["step"]
    assert best < 10, "the last step must not be the best, for this test to test anything"
    pretrain(replace(config, resume="best"))
    resumed = next(row for row in rows(config) if row.get("note") == "resumed")
    assert resumed["step"] == best
    assert 'resume = "last"' in (config.run_dir / "config.toml").read_text()  # or --config would go back each time


def test_the_model_to_begin_from_is_read_once(tmp_path):
    config = tiny.stage_2(tmp_path, steps=2, save_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esrgan.stages.fit", lambda *args: (config.init.rename(tmp_path / "away"), fit(*args)))
        latest = train(config)
    assert read_header(latest).provenance["step"] == 2


def test_the_discriminator_has_a_learning_rate_of_its_own(tmp_path):
    config = tiny.stage_2(tmp_path, discriminator=DiscriminatorConfig(channels=4, learning_rate=5e-4))
    players = build_team(config).players
    assert (players["generator"].rate(1), players["discriminator"].rate(1)) == (1e-3, 5e-4)


def test_a_model_to_begin_from_gives_what_fits(tmp_path):
    model = pretrain(tiny.stage_1(tmp_path))
    begun = build_team(tiny.stage_1(tmp_path, init=model)).players["generator"].net
    assert torch.equal(begun.conv_first.weight, load_model(model).conv_first.weight)


def test_what_the_model_to_begin_from_can_do_is_the_best_until_that_is_exceeded(tmp_path):
    config = tiny.stage_1(tmp_path, val=(tiny.pictures(tmp_path / "val", 1, seed=7),))
    model = pretrain(config)
    worse = replace(
        config, init=model, run_dir=tmp_path / "worse", optim=replace(config.optim, learning_rate=1.0), ema=0
    )
    best = load_model(pretrain(worse)).state_dict()
    found = [(row["step"], row["best"]) for row in rows(worse) if "validation" in row]
    assert found == [(0, True), (6, False), (12, False)]
    assert all(torch.equal(best[name], weight) for name, weight in load_model(model).state_dict().items())


def test_a_model_of_which_next_to_nothing_fits_is_refused(tmp_path):
    other = replace(tiny.SHAPE, variant="subpixel", scale=8, growth=1)
    save_model(Generator(other), tmp_path / "other.safetensors")
    with pytest.raises(EsrganError, match=r"only [\d,]+ of its [\d,]+ weights fit; give the --generator options"):
        pretrain(tiny.stage_1(tmp_path, init=tmp_path / "other.safetensors"))


def test_out_of_memory_says_what_to_do():
    with pytest.raises(EsrganError, match="halve --batch and double --accumulate"), enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="a size does not fit"), enough_memory():
        raise RuntimeError("a size does not fit")


def test_a_model_to_begin_from_may_be_named_as_it_is_listed(tmp_path, monkeypatch):
    config = tiny.stage_2(tmp_path, steps=1)
    monkeypatch.setenv("ESRGAN_MODELS", str(tmp_path))
    train(replace(config, init=Path("stage1")))
    assert f'init = "{tmp_path / "stage1.safetensors"}"' in (config.run_dir / "config.toml").read_text()
    with pytest.raises(EsrganError, match=r"lite_x4_psnr.*stage1"):
        train(replace(config, init=Path("stage2")))


def test_a_patch_that_is_no_multiple_of_the_models_scale_is_refused(tmp_path):
    with pytest.raises(EsrganError, match="multiple of the model's scale, 4"):
        train(tiny.stage_2(tmp_path, patch=34))


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_a_killed_run_ends_in_the_bytes_of_an_unbroken_one(tmp_path, stage):
    """One kill; benchmarks/kills.py does it again and again."""
    make, run = (tiny.stage_1, pretrain) if stage == "pretrain" else (tiny.stage_2, train)
    some = {"val": (tiny.pictures(tmp_path / "val", 1, seed=7),), "steps": 48, "validate_every": 24}
    whole, broken = (make(tmp_path, **some, run_dir=tmp_path / name / "run") for name in ("whole", "broken"))
    run(whole)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nimport tiny, torch\nfrom esrgan.stages import pretrain, train\n"
        "torch.set_num_threads(int(sys.argv[3]))\nfolder = Path(sys.argv[2])\n"
        f"some = {{'val': (folder / 'val',), 'steps': 48, 'validate_every': 24}}\n"
        f"{run.__name__}(tiny.{make.__name__}(folder, **some, run_dir=folder / 'broken' / 'run'))\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), str(torch.get_num_threads())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        log = broken.run_dir / "log.jsonl"
        while process.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 8):
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    run(broken)
    assert any(row.get("note") == "resumed" and 0 < row["step"] < 48 for row in rows(broken))
    for name in ("state.pt", "state-previous.pt", "state-best.pt", "latest.safetensors", "best.safetensors"):
        assert (whole.run_dir / name).read_bytes() == (broken.run_dir / name).read_bytes(), name
    assert logged(whole) == logged(broken)


def logged(config):
    kept = [row for row in rows(config) if row.get("note") != "resumed"]
    return [{name: value for name, value in row.items() if name not in ("time", "steps_per_second")} for row in kept]


def test_batch_norm_is_given_more_than_one_pixel(tmp_path):
    shape = replace(tiny.SHAPE, scale=16)
    save_model(Generator(shape), tmp_path / "stage1.safetensors")
    config = tiny.stage_2(tmp_path, batch=1, discriminator=DiscriminatorConfig(channels=4, batch_norm=True))
    with pytest.raises(
        EsrganError, match="more than one patch of 16 pixels; use --batch 2 or more, or a --patch above 32"
    ):
        build_team(config)
    build_team(replace(config, batch=2))
    build_team(replace(config, patch=48))


def test_what_a_run_begins_from_is_validated_once_also_if_it_is_killed_at_once(tmp_path, monkeypatch):
    model = pretrain(tiny.stage_1(tmp_path))
    config = tiny.stage_1(
        tmp_path, init=model, run_dir=tmp_path / "on", val=(tiny.pictures(tmp_path / "val", 1, seed=7),)
    )
    with monkeypatch.context() as patch:
        patch.setattr("esrgan.training.train_steps", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(config)
    pretrain(config)
    assert [row["step"] for row in rows(config) if "validation" in row] == [0, 6, 12]


def test_a_refused_command_leaves_the_options_and_the_log_of_a_run_as_they_were(tmp_path):
    config = replace(tiny.stage_1(tmp_path), validate_every=5, val=(tiny.pictures(tmp_path / "val", 1, seed=3),))
    pretrain(config)
    read = lambda: [(config.run_dir / name).read_text() for name in ("config.toml", "log.jsonl", "log.txt")]  # noqa: E731
    before = read()
    for refused in (
        replace(config, steps=5),
        replace(config, images=(tiny.pictures(tmp_path / "a" / "photos", 4, seed=5),)),
        replace(config, images=(tmp_path / "a" / "photos",), resume="best"),
    ):
        with pytest.raises(EsrganError, match=r"give more|other pictures"):
            pretrain(refused)
        assert read() == before
    pretrain(replace(config, steps=14))
    assert "steps = 14" in (config.run_dir / "config.toml").read_text()


def test_models_below_the_psnr_floor_are_told(tmp_path):
    config = tiny.stage_2(tmp_path, val=(tiny.pictures(tmp_path / "val", 1, seed=7),), psnr_floor=60.0)
    train(config)
    assert all(row["verdict"].endswith("below --psnr-floor 60") for row in rows(config) if "validation" in row)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # read by torch itself
def test_without_an_average_too_blocks_are_compiled_for_patches_alone(tmp_path, monkeypatch):
    config = tiny.stage_1(tmp_path, ema=0, steps=6, val=(tiny.pictures(tmp_path / "val", 1, seed=3),), engine="torch")
    pretrain(replace(config, run_dir=tmp_path / "written"))
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("esrgan.compiled.can_compile", lambda _: True)
    monkeypatch.setattr(RRDB, "compile", lambda self, **options: nn.Module.compile(self, backend=backend, **options))
    torch.compiler.reset()
    with torch._dynamo.config.patch(suppress_errors=False):
        pretrain(config)
    assert len(graphs) == 1
    best = [load_model(run / "best.safetensors").state_dict() for run in (config.run_dir, tmp_path / "written")]
    torch.testing.assert_close(*best)


def test_what_a_run_validates_and_saves_is_the_average(tmp_path):
    config = tiny.stage_1(tmp_path, steps=4)
    saved = load_model(pretrain(config)).state_dict()
    state = read_state(config.run_dir / "state.pt")
    assert all(torch.equal(saved[name], weight) for name, weight in state["average"].items())
    assert not torch.equal(saved["conv_last.weight"], state["players"]["generator"]["net"]["conv_last.weight"])
    team = build_team(config)
    assert team.result is team.ema.net


def test_the_last_step_is_logged_validated_and_saved_whatever_the_intervals(tmp_path):
    val = (tiny.pictures(tmp_path / "val", 1, seed=7),)
    config = tiny.stage_1(tmp_path, steps=7, log_every=3, validate_every=4, save_every=5, val=val)
    pretrain(config)
    assert [row["step"] for row in rows(config) if "losses" in row] == [3, 6, 7]
    assert [row["step"] for row in rows(config) if "validation" in row] == [4, 7]
    assert read_state(config.run_dir / "state.pt")["progress"]["step"] == 7
    assert read_header(config.run_dir / "latest.safetensors").provenance["step"] == 7


def test_the_best_gan_model_of_a_run_is_chosen_by_its_floor(tmp_path):
    config = tiny.stage_2(tmp_path, psnr_floor=25.0, val=(tiny.pictures(tmp_path / "val", 1, seed=7),))
    with RunDir.opened(config) as run:
        choose = _validation(config, run, Generator(tiny.SHAPE)).choose
    assert choose({"psnr_y": 25.1, "lpips": 0.9}) > choose({"psnr_y": 24.9, "lpips": 0.1})
    assert choose({"psnr_y": 25.1, "lpips": 0.3}) > choose({"psnr_y": 25.2, "lpips": 0.4})
