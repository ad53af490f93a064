import subprocess
import sys
import tomllib

import pytest
import tiny

from esrgan.__main__ import main as started
from esrgan.cli import MODELS_VERBS, VERBS, main


def test_help_answers_without_importing_torch():
    code = (
        "import sys\n"
        "from esrgan.cli import VERBS, main\n"
        "main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'pyvips'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("command", [[verb] for verb in VERBS] + [["models", verb] for verb in MODELS_VERBS])
def test_every_command_explains_itself(command, capsys):
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"esrgan {' '.join(command)}" in shown
    assert len(shown.splitlines()) > 3


def test_help_of_a_command_is_its_whole_docstring(capsys):
    assert main(["upscale", "--help"]) == 0
    assert "The same command again continues" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    "argv", [["enlarge"], ["upscale", "x.png", "--sclae", "4"], ["pretrain", "--steps", "many"], ["interpolate"]]
)
def test_a_command_that_is_not_understood_exits_with_2(argv, capsys):
    assert main(argv) == 2
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["upscale", ""], "nothing after upscale"),
        (["upscale", "x.png", "-o", ""], "nothing after -o"),
        (["test", "--data=", "--model", "bicubic"], "nothing after --data"),
        (["test", "--data", "x", "--scale", "3.5"], "--scale is 3.5"),
        (["pretrain", "--images", "x", "--steps", "2.6"], "--steps is 2.6"),
        (["pretrain", "--images", "x", "--generator.blocks", "1.5"], "--generator.blocks is 1.5"),
        (["test", "--data", "x", "--json", "/"], "is a folder"),
        (["test", "--data", "x", "--jpeg", "0"], "--jpeg"),
        (["test", "--data", "x", "--json", "report.txt"], "is no .json file"),
    ],
)
def test_what_would_be_taken_for_something_else_is_refused(argv, named, capsys):
    assert main(argv) == 2
    assert named in capsys.readouterr().err


def test_a_fraction_in_a_file_of_options_is_refused(capsys, tmp_path):
    (tmp_path / "run.toml").write_text("seed = 1.5")
    assert main(["pretrain", "--config", str(tmp_path / "run.toml"), "--images", "x"]) == 2
    assert "--seed is 1.5" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text("optim = 3")
    assert main(["pretrain", "--config", str(tmp_path / "run.toml"), "--images", "x"]) != 0
    assert "optim is a table of options; write [optim]" in capsys.readouterr().err


def test_closed_output_ends_no_work(tmp_path):
    tiny.pictures(tmp_path / "set", 1)
    command = f'"{sys.executable}" -m esrgan test --data set --model bicubic --json r.json >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "r.json").is_file()


def test_help_says_of_every_command_what_it_does(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(summary.split()[0] in said for _, summary in VERBS.values())


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["upscale", "missing.png"], "missing.png"),
        (["test", "--data", "missing", "--model", "bicubic"], "missing"),
        (["pretrain", "--images", "missing"], "missing"),
        (["train", "--init", "missing.safetensors", "--images", "missing"], "missing.safetensors"),
        (["models", "show", "missing.safetensors"], "missing.safetensors"),
        (
            ["interpolate", "a.safetensors", "b.safetensors", "--alpha", "0.5", "--out", "c.safetensors"],
            "a.safetensors",
        ),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exits_with_1(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert named in out + err
    assert "Traceback" not in out + err


def test_a_training_runs_by_a_config_that_the_command_line_overrides(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.pictures(tmp_path / "photos", 2)
    options = ["steps = 5", "batch = 2", "patch = 32", 'device = "cpu"', "[generator]", "channels = 4", "growth = 4"]
    (tmp_path / "run.toml").write_text("\n".join([*options, "blocks = 1"]))
    words = ["pretrain", "--config", "run.toml", "--images", "photos", "--cache", "cache", "--steps", "3"]
    kept = []
    monkeypatch.setattr("esrgan.memory.keep_buffers", lambda: kept.append(True))
    assert main([*words, "--dry-run"]) == 0
    assert "steps/s" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert main(words) == 0
    assert len(kept) == 2
    begun = tomllib.loads((tmp_path / "runs" / "run" / "config.toml").read_text())
    assert (begun["steps"], begun["batch"], begun["generator"]["channels"]) == (3, 2, 4)
    assert (tmp_path / "runs" / "run" / "latest.safetensors").is_file()


def test_an_unknown_option_value_of_a_config_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--images", ".", "--optim.learning-rate", "-1"]) == 1
    assert "optim.learning_rate is -1.0" in "".join(capsys.readouterr())


def test_a_toml_key_that_does_not_exist_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text("stepps = 3\n")
    assert main(["pretrain", "--config", "my.toml", "--images", "."]) in (1, 2)
    assert "stepps" in "".join(capsys.readouterr())


def test_torchrun_can_start_the_module():
    done = subprocess.run([sys.executable, "-m", "esrgan", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


def test_an_interrupt_while_the_program_is_imported_is_said_too(capsys, monkeypatch):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "esrgan.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "esrgan.cli")
    monkeypatch.setattr("sys.meta_path", [Interrupted(), *sys.meta_path])
    assert started() == 130
    assert capsys.readouterr().err == "esrgan: interrupted\n"


def test_an_interrupt_is_said_and_exits_with_130(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("esrgan.commands_library.list_command", interrupted)
    assert main(["models"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--scale", "--patch"])
def test_a_check_of_no_size_is_not_understood(option, capsys):
    assert main(["data", "check", ".", option, "0"]) == 2
    assert option in capsys.readouterr().err
