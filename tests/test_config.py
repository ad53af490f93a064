import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from esrgan.cli import main
from esrgan.commands_train import train_command
from esrgan.config import (
    DiscriminatorConfig,
    GeneratorConfig,
    LossWeights,
    PretrainConfig,
    PretrainOptim,
    TrainConfig,
)
from esrgan.config_file import differences, flattened, plain, to_toml
from esrgan.errors import EsrganError

ONE = PretrainConfig(images=(Path("photos"),), run_dir=Path("here"))
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def saved(config):
    return flattened(tomllib.loads(to_toml(config)))


def test_a_config_survives_its_toml_file():
    odd = replace(ONE, cache=Path('a "quoted" \\ and\nbroken'), optim=PretrainOptim(clip=0.5, milestones=(3, 7)))
    assert saved(odd) == plain(odd)


def test_a_config_does_not_differ_from_itself():
    assert differences(saved(ONE), ONE) == []


def test_what_changed_is_listed():
    changed = replace(ONE, batch=8, generator=GeneratorConfig(blocks=3), optim=PretrainOptim(clip=1.0))
    assert differences(saved(ONE), changed) == [
        "batch x accumulate: 16 before, 8 now", "generator.blocks: 23 before, 3 now", "optim.clip: none before, 1.0 now"
    ]  # fmt: skip


def test_steps_and_places_may_change():
    assert differences(saved(ONE), replace(ONE, steps=5, run_dir=Path("x"), images=(Path("/other/photos"),))) == []
    assert differences(saved(ONE), replace(ONE, images=(Path("/other/faces"),)))
    assert differences(saved(ONE) | {"images": ["C:\\\\other\\\\photos"]}, ONE) == []  # from a machine with Windows


def test_options_younger_than_the_run_count_as_their_default():
    old = {name: value for name, value in saved(ONE).items() if name != "generator.plus"}
    assert differences(old, ONE) == []
    assert differences(old, replace(ONE, generator=GeneratorConfig(plus=True)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 0}, "steps"), ({"patch": 30}, "patch"), ({"subset": 0.0}, "subset"), ({"ema": 1.0}, "ema"),
        ({"seed": -1}, "seed"), ({"images": ()}, "images"), ({"precision": "fp16"}, "precision"),
        ({"resume": "first"}, "resume"), ({"start": "warm"}, "start"), ({"run_dir": Path("x/../photos")}, "run_dir"),
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"), ({"batch": "8"}, "batch is 8"),
        ({"generator": {"blocks": 1}}, "generator is .* of the class esrgan.GeneratorConfig"),
        ({"optim": "adam"}, "esrgan.PretrainOptim"), ({"cache": 3}, "cache is 3; it must be a path"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named(options, named):
    with pytest.raises(EsrganError, match=named):
        replace(ONE, **options)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: PretrainOptim(betas=(0.9, 1.0)), "optim.betas"),
        (lambda: PretrainOptim(milestones=(-5,)), "optim.milestones"),
        (lambda: LossWeights(gan=-1.0), "weights.gan"),
        (lambda: DiscriminatorConfig(channels=0), "discriminator.channels"),
        (lambda: TrainConfig(images=(Path("a"),), init=Path("b"), patch=16), "patch is 16; it must be at least 32"),
        (lambda: TrainConfig(images="a", init="b", weights={"pixel": 1}), "weights is .* esrgan.LossWeights"),
        (lambda: TrainConfig(images="a", init="b", optim={}), "optim is .* esrgan.TrainOptim"),
        (lambda: TrainConfig(images="a", init=object()), "init is .* it must be a path"),
    ],
)
def test_a_value_that_would_stop_the_first_step_is_named_before_it(make, named):
    with pytest.raises(EsrganError, match=named):
        make()


def test_paths_may_be_strings_and_one_picture_folder_stands_alone():
    config = TrainConfig(images="photos", val=["a", Path("b")], init="model.pth", run_dir="run", vgg="vgg.pth")
    assert config == TrainConfig(
        images=(Path("photos"),), val=(Path("a"), Path("b")), init=Path("model.pth"), run_dir=Path("run"),
        vgg=Path("vgg.pth"),
    )  # fmt: skip


def test_milestones_stay_numbers():
    assert TrainConfig(images=(Path("a"),), init=Path("b")).optim.milestones == (50_000, 100_000, 200_000, 300_000)
    assert saved(ONE)["optim.milestones"] == [200_000, 400_000, 600_000, 800_000]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_understood(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stage = ["train", "--init", "missing.safetensors"] if "esrgan" in path.stem else ["pretrain"]
    assert main([*stage, "--config", str(path), "--images", "nowhere"]) == 1
    assert "missing.safetensors" in (err := capsys.readouterr().err) or "nowhere" in err


def test_what_a_toml_file_turns_on_the_command_line_turns_off(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("tensorboard = true\n[discriminator]\nbatch_norm = true\n")
    words = ["--config", str(file), "--images", "a", "--init", "b"]
    for off, on in (([], True), (["--no-tensorboard", "--discriminator.no-batch-norm"], False)):
        _, bound, _ = train_command.parse_args([*words, *off])
        config = bound.arguments["config"]
        assert (config.tensorboard, config.discriminator.batch_norm) == (on, on)


@pytest.mark.parametrize(
    ("text", "named", "code"),
    [
        ("stepps = 3", "stepps", 2), ("[optim]\nlearning_rat = 1", "learning_rat", 2), ("steps = 'many'", "steps", 2),
        ("steps = ", "cannot read the options", 1), ("test = 3", "test", 2), ("[generator]\nscale = 5", "scale", 1),
    ],
)  # fmt: skip
def test_a_bad_toml_file_is_named(text, named, code, tmp_path, capsys):
    (tmp_path / "my.toml").write_text(text)
    assert main(["pretrain", "--config", str(tmp_path / "my.toml"), "--images", str(tmp_path)]) == code
    out, err = capsys.readouterr()
    assert named in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("verb", "text", "said"),
    [
        ("pretrain", "[weights]\ngan = 0.1", "is for `esrgan train`: `esrgan pretrain` knows no weights"),
        ("train", "start = 'paper'\n[generator]", "is for `esrgan pretrain`: `esrgan train` knows no generator, start"),
        ("pretrain", "config = 'other.toml'", "config is for the command line alone, as --config"),
        ("train", "dry_run = true", "dry_run is for the command line alone, as --dry-run"),
    ],
)
def test_a_toml_file_for_something_else_says_for_what(verb, text, said, tmp_path, capsys):
    (tmp_path / "my.toml").write_text(text)
    assert main([verb, "--config", str(tmp_path / "my.toml"), "--images", str(tmp_path), "--init", "a"]) == 1
    assert f"my.toml{' ' if said.startswith('is') else ': '}{said}" in " ".join(capsys.readouterr().err.split())
