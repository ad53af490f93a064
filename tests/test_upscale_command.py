"""The verb ``upscale`` as people and scripts use it."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import photo, red_disc, waves
from PIL import Image

from esrgan.cli import main
from esrgan.commands_options import Upscaling
from esrgan.commands_upscale import _key, _load
from esrgan.config import GeneratorConfig
from esrgan.enlarge_file import Enlargement
from esrgan.folders import Naming
from esrgan.generator import Generator
from esrgan.model_file import save_model
from esrgan.record import RECORD
from esrgan.resize import resize


@pytest.fixture
def run(model_file, capsys):
    """Runs ``esrgan upscale`` with the tiny model; gives the exit code, the lines printed, and those of errors."""

    def call(*args):
        code = main(["upscale", *map(str, args), "--model", str(model_file), "--device", "cpu", "--precision", "fp32"])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return call


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != RECORD)


def test_a_folder_is_done_and_the_same_command_again_skips_it(run, tmp_path):
    for i in range(3):
        (tmp_path / "in" / f"{i}").mkdir(parents=True)
        photo().save(tmp_path / "in" / f"{i}" / "a.png")
    code, out, err = run(tmp_path / "in", "--out", tmp_path / "out", "--json", tmp_path / "r.json")
    assert (code, len(out), err) == (0, 3, ["3 done"])
    assert names(tmp_path / "out") == ["0/a_x4.png", "1/a_x4.png", "2/a_x4.png"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["done"], report["failed"], report["pictures"][0]["size"]) == (3, 0, [256, 192])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    code, out, err = run(tmp_path / "in", "--out", tmp_path / "out")
    assert (code, out, err[-1]) == (0, [], "3 skipped")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_changed_is_done_again(run, tmp_path):
    photo().save(tmp_path / "a.png")
    args = (tmp_path / "a.png", "--out", tmp_path / "out", "--name", "{stem}")
    assert run(*args)[1] != []
    assert run(*args)[1] == []
    assert run(*args, "--scale", "2")[1] != []  # other options
    assert opened(tmp_path / "out" / "a.png").size == (128, 96)
    assert run(*args, "--scale", "2")[1] == []
    assert run(*args, "--scale", "2", "--overwrite")[1] != []
    assert run(*args, "--scale", "2", "--overlap", "20")[1] != []
    photo().rotate(180).save(tmp_path / "a.png")  # another input
    assert run(*args, "--scale", "2")[1] != []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_results_are_told_on_standard_output_though_a_bar_is_on_the_terminal(model_file, tmp_path):
    photo().save(tmp_path / "a.png")
    terminal, end = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "esrgan", "upscale", tmp_path / "a.png", "--out", tmp_path / "out",
         "--model", model_file, "--device", "cpu", "--precision", "fp32"],
        stdout=subprocess.PIPE, stderr=end, text=True, check=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(end)
    assert "a.png" in os.read(terminal, 10_000).decode()  # the bar
    os.close(terminal)
    assert done.stdout == f"{tmp_path / 'a.png'} -> {tmp_path / 'out' / 'a_x4.png'} (256 x 192)\n"


def test_files_of_others_are_not_replaced_unless_asked(run, tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a_x4.png").write_text("mine")
    code, _, err = run(tmp_path / "a.png", "--out", tmp_path)
    assert code == 1
    assert "--overwrite replaces it" in err[0]
    assert (tmp_path / "a_x4.png").read_text() == "mine"
    assert run(tmp_path / "a.png", "--out", tmp_path, "--overwrite")[0] == 0
    assert opened(tmp_path / "a_x4.png").size == (256, 192)


def test_failures_are_one_line_each_and_the_others_go_on(run, tmp_path):
    photo().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:-400])
    (tmp_path / "text.jpg").write_text("hello")
    code, out, err = run(tmp_path, "--out", tmp_path / "out")
    assert code == 1
    assert len(out) == 1
    assert sorted(line.split("/")[-1].split(":")[0] for line in err[:-1]) == ["bad.png", "text.jpg"]
    assert err[-1] == "1 done, 2 failed"
    assert names(tmp_path / "out") == ["good_x4.png"]


FAILS = [
    "nothing.png", "a.png --out a.png/out", "a.png --psnr-model no --alpha .5", "a.png --limit-pixels 100",
]  # fmt: skip
MISUSED = [
    "--bogus", "", "a.png --scale -1", "a.png --scale x", "a.png --scale 2 --width 9", "a.png --scale nan",
    "a.png --height 9 --megapixels 1", "a.png --format bmp", "a.png --format jpg -o b.png", "a.png --tile 20",
    "a.png --tile 1..2", "a.png --tile 64.5", "a.png --tile a.b",
    "a.png --overlap -1", "a.png --device toaster", "a.png --precision fp8", "a.png --engine steam",
    "a.png --transparency none", "a.png --name {x}", "a.png --name a/b", "a.png --alpha 2", "a.png --alpha nan",
    "a.png --psnr-model no", "a.png --limit-pixels 0", "a.png -o - --compare", "a.png a.webp -o b.png",
    "a.png a.webp --format png", "a.png --out . --name {stem}",
]  # fmt: skip


@pytest.mark.parametrize(("line", "code"), [*((line, 1) for line in FAILS), *((line, 2) for line in MISUSED)])
def test_exit_codes(model_file, tmp_path, monkeypatch, capsys, line, code):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.webp"):
        photo().save(tmp_path / name)
    options = [] if "--device" in line else ["--device", "cpu"]
    assert main(["upscale", *line.split(), "--model", str(model_file), *options]) == code
    error = capsys.readouterr().err
    if code == 1 or error.startswith("esrgan: "):  # what cyclopts refuses is in a box
        assert error.startswith("esrgan: ")
        assert error.count("\n") == 1
    assert names(tmp_path) == ["a.png", "a.webp"]
    assert code == 1 or not (tmp_path / "upscaled").exists()


def test_a_file_may_be_named_for_the_result(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "new" / "b.jpg")[0] == 0
    assert opened(tmp_path / "new" / "b.jpg").format == "JPEG"


def test_compare_shows_both(run, tmp_path):
    red_disc().save(tmp_path / "a.png")
    photo(3, 2).save(tmp_path / "tiny.png")
    assert run(tmp_path, "--out", tmp_path / "out", "--compare", "--scale", "3")[0] == 0
    picture = np.asarray(opened(tmp_path / "out" / "a_x3_compare.png"))
    assert picture.shape == (32 + 144, 2 * 192 + 8, 3)
    assert picture[32 + 72, 96].tolist() == picture[32 + 72, 192 + 8 + 96].tolist() == [255, 0, 0]


def test_a_report_never_replaces_a_result(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "b.png", "--json", tmp_path / "b.png")[0] == 2
    assert names(tmp_path) == ["a.png"]


def test_a_report_replaces_an_earlier_one_and_nothing_else(run, tmp_path):
    photo().save(tmp_path / "a.png")
    report = tmp_path / "r.json"
    for before in ('{"name": "mine"}', "[1]", "{"):
        report.write_text(before)
        code, _, errors = run(tmp_path / "a.png", "--out", tmp_path / "out", "--json", report)
        assert (code, report.read_text()) == (2, before)
        assert "not a report of this command" in errors[0]
    assert not (tmp_path / "out").exists()
    report.write_text("")
    for skipped in (0, 1):
        assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--json", report)[0] == 0
        assert json.loads(report.read_text())["skipped"] == skipped


def test_a_reader_of_the_names_who_goes_away_does_not_end_the_work(model_file, tmp_path):
    for i in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        photo(16, 16).save(tmp_path / "in" / f"{i}.png")
    args = command(model_file, tmp_path / "in", "--out", tmp_path / "out")
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"3 done" in process.stderr.read()
    assert process.returncode == 0
    assert len(names(tmp_path / "out")) == 3


def test_options_may_stand_between_pictures(run, tmp_path):
    for name in ("a", "b"):
        photo(8, 8).save(tmp_path / f"{name}.png")
    code, out, _ = run(tmp_path / "a.png", "--out", tmp_path / "out", tmp_path / "b.png")
    assert (code, len(out)) == (0, 2)


def test_the_report_has_names_as_they_are(run, tmp_path):
    photo(8, 8).save(tmp_path / "new\nline.png")
    code, out, _ = run(tmp_path / "new\nline.png", "--out", tmp_path / "out", "--json", tmp_path / "r.json")
    assert (code, len(out)) == (0, 1)
    assert json.loads((tmp_path / "r.json").read_text())["pictures"][0]["input"] == f"{tmp_path}/new\nline.png"


def test_the_longest_name_leaves_room_for_the_comparisons(run, tmp_path):
    photo(8, 8).save(tmp_path / f"{'n' * 250}.png")
    assert run(tmp_path / f"{'n' * 250}.png", "--out", tmp_path / "out", "--compare")[0] == 0
    assert len(names(tmp_path / "out")) == 2


def test_a_comparison_never_replaces_an_input(run, tmp_path):
    photo().save(tmp_path / "a.png")
    photo().rotate(180).save(tmp_path / "a_x4_compare.png")
    before = (tmp_path / "a_x4_compare.png").read_bytes()
    code, _, err = run(tmp_path, "--out", tmp_path, "--compare", "--overwrite")
    assert (code, (tmp_path / "a_x4_compare.png").read_bytes()) == (2, before)
    assert "is an input" in err[0]


def test_compare_also_shows_what_was_done_before(run, tmp_path):
    photo().save(tmp_path / "a.png")
    args, made = (tmp_path / "a.png", "--out", tmp_path / "out"), tmp_path / "out" / "a_x4_compare.png"
    assert run(*args)[0] == 0
    assert run(*args, "--compare") == (0, [], [f"{tmp_path / 'a.png'}: done before"])
    assert opened(made).width == 2 * 256 + 8
    before = made.stat().st_mtime_ns
    run(*args, "--compare")
    assert made.stat().st_mtime_ns == before
    assert run(*args, "--alpha", "0")[0] == 0
    assert made.stat().st_mtime_ns == before  # of the result before
    run(*args, "--alpha", "0", "--compare")
    assert made.stat().st_mtime_ns > before


def test_a_result_is_never_taken_for_that_of_another_picture(run, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        photo().save(tmp_path / folder / "p.png")
        os.utime(tmp_path / folder / "p.png", ns=(1, 1))  # as from an archive: same size, same time
    args = ("--out", tmp_path / "out")
    assert run(tmp_path / "a", *args)[0] == 0
    code, _, err = run(tmp_path / "b", *args)
    assert code == 1
    assert "was made from" in err[0]
    assert run(tmp_path / "b", *args, "--overwrite")[0] == 0
    (tmp_path / "a").rename(tmp_path / "c")  # a folder that moved is not another one
    (tmp_path / "b").rename(tmp_path / "a")
    assert run(tmp_path / "a", *args)[0] == 0


def fed(data, *args, monkeypatch, run):
    """Runs the command with ``data`` as its standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    return run("-", *args)


def test_what_comes_through_standard_input_never_replaces_the_result_of_another_picture(run, tmp_path, monkeypatch):
    for name, angle in (("a.png", 0), ("b.png", 180)):
        photo().rotate(angle).save(tmp_path / name)
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    feed, out = partial(fed, monkeypatch=monkeypatch, run=run), tmp_path / "out.png"

    def refused(code, _, err):
        return code == 1 and "was made from" in err[0] and out.read_bytes() == before

    assert feed(a, "-o", out)[0] == 0
    before = out.read_bytes()
    assert feed(a, "-o", out)[2] == ["-: done before"]
    assert refused(*feed(b, "-o", out))
    assert refused(*run(tmp_path / "b.png", "-o", out))
    assert refused(*run(tmp_path / "a.png", "-o", out))  # a copy, but who knows
    assert feed(a, "-o", out, "--scale", "2")[1] != []  # the same one, other options
    assert run(tmp_path / "a.png", "-o", out, "--overwrite")[0] == 0
    before = out.read_bytes()
    assert refused(*feed(b, "-o", out))
    assert feed(b, "-o", out, "--overwrite")[0] == 0


def test_a_result_of_which_no_source_was_noted_is_not_replaced(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--out", tmp_path, "--compare")[0] == 0
    code, _, err = run(tmp_path / "a.png", "--out", tmp_path / "a_x4_compare.png")
    assert code == 1
    assert "was made from another picture" in err[0]


def test_an_edit_of_equal_size_is_not_replaced(run, tmp_path):
    photo().save(tmp_path / "a.png")
    args, made = (tmp_path / "a.png", "-o", tmp_path / "b.png"), tmp_path / "b.png"
    assert run(*args)[0] == 0
    edited = made.read_bytes()[:-1] + b"!"
    made.write_bytes(edited)
    assert run(*args, "--scale", "2")[0] == 1
    assert made.read_bytes() == edited


def test_comparisons_are_not_enlarged_themselves(run, tmp_path):
    photo().save(tmp_path / "a.png")
    for _ in range(2):
        assert run(tmp_path, "--out", tmp_path, "--compare")[0] == 0
    assert names(tmp_path) == ["a.png", "a_x4.png", "a_x4_compare.png"]


def test_a_comparison_replaces_no_file_that_is_not_ours_nor_another(run, tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_x4_compare.png").write_bytes(b"mine")
    code, _, err = run(tmp_path / "a.png", "--out", tmp_path / "out", "--compare")
    assert code == 1
    assert "--overwrite" in err[0]
    assert (tmp_path / "out" / "a_x4_compare.png").read_bytes() == b"mine"
    photo().save(tmp_path / "a.jpg")
    code, _, err = run(tmp_path, "--out", tmp_path / "new", "--compare")
    assert code == 2
    assert "share one comparison" in err[-1]


def test_a_target_that_cannot_be_looked_at_fails_alone(run, tmp_path):
    for name in "abc":
        photo().save(tmp_path / f"{name}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_x4.png").symlink_to(tmp_path / "nowhere" / "at all")
    code, _, err = run(
        *(tmp_path / f"{name}.png" for name in "abc"), "-o", tmp_path / "out", "--json", tmp_path / "r.json"
    )
    assert code == 1
    assert err[-1] == "2 done, 1 failed"
    assert "was not made by this command" in err[0]
    assert json.loads((tmp_path / "r.json").read_text())["failed"] == 1


def test_names_that_begin_with_a_dash(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo().save("-a.png")
    assert run("-a.png")[0] == 0
    assert run("./-a.png", "-o", "b.png")[0] == 0


def test_an_option_in_the_place_of_the_output_is_said_to_be_one(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo().save("a.png")
    code, out, err = run("a.png", "-o", "--scale", "2")
    assert code == 2
    assert "--scale is an option" in " ".join((*out, *err))
    assert [path.name for path in Path.cwd().iterdir()] == ["a.png"]


def test_a_list_that_names_itself_is_an_error_and_one_from_notepad_is_read(run, tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-8-sig")
    assert run(tmp_path / "list.txt", "--out", tmp_path / "out")[0] == 0
    (tmp_path / "list.txt").write_text("list.txt\n")
    code, _, err = run(tmp_path / "list.txt", "--out", tmp_path / "out")
    assert code == 1
    assert "names itself" in err[0]


def test_alpha_blends_two_models(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--alpha", "0.5")[0] == 0
    assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--alpha", "0.5")[1] == []
    assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--alpha", "0.6")[1] != []


def test_what_a_format_loses_is_said(run, tmp_path):
    red_disc().save(tmp_path / "a.png")
    _, _, err = run(tmp_path / "a.png", "--out", tmp_path / "out", "--format", "jpg")
    assert any("transparency over white" in line for line in err)
    assert opened(tmp_path / "out" / "a_x4.jpg").getpixel((2, 2))[1] > 250


def test_what_gif_cannot_keep_is_said(run, tmp_path):
    photo().save(tmp_path / "a.png")
    _, _, err = run(tmp_path / "a.png", "--out", tmp_path / "out", "--format", "gif")
    assert any("reduced to 256 colours" in line for line in err)


def command(model_file: Path, *args: object) -> list[str]:
    return [sys.executable, "-m", "esrgan", "upscale", *map(str, args), "--model", str(model_file), "--device", "cpu"]


def test_pictures_flow_from_stdin_to_stdout(model_file):
    file = io.BytesIO()
    photo().save(file, "WEBP")
    done = subprocess.run(command(model_file, "-"), input=file.getvalue(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    image = Image.open(io.BytesIO(done.stdout))
    assert (image.format, image.size) == ("WEBP", (256, 192))
    done = subprocess.run(command(model_file, "-"), input=file.getvalue()[:-50], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("kill", [getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGINT])
def test_a_killed_run_leaves_whole_files_and_goes_on(model_file, tmp_path, kill):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        killed_and_done_again(model_file, tmp_path, kill)
    finally:
        signal.signal(signal.SIGINT, before)


def killed_and_done_again(model_file, tmp_path, kill):
    (tmp_path / "in").mkdir()
    for i in range(30):
        Image.fromarray(np.roll(waves(200, 200), i, 0)).save(tmp_path / "in" / f"{i:02d}.png")
    args = command(model_file, tmp_path / "in", "--out", tmp_path / "out", "--json", tmp_path / "r.json")
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        limit = time.time() + 60
        while len(list((tmp_path / "out").glob("*_x4.png"))) < 3:
            assert process.poll() is None
            assert time.time() < limit
            time.sleep(0.01)  # until there is something to interrupt
        process.send_signal(kill)
        _, error = process.communicate(timeout=30)
    done = list((tmp_path / "out").glob("*_x4.png"))
    assert 3 <= len(done) < 30
    for path in done:
        opened(path).load()
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command again goes on" in error
        assert "Traceback" not in error
        assert len(names(tmp_path / "out")) == len(done)
        assert json.loads((tmp_path / "r.json").read_text())["done"] == len(done)
    whole = {path: path.stat().st_mtime_ns for path in done}
    again = subprocess.run(args, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["done"], report["skipped"], report["failed"]) == (30 - len(done), len(done), 0)
    assert names(tmp_path / "out") == [f"{i:02d}_x4.png" for i in range(30)]
    assert all(path.stat().st_mtime_ns == before for path, before in whole.items())


def test_what_was_finished_behind_a_slow_picture_is_told_after_ctrl_c(run, tmp_path):
    photo(2000, 2000).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    for name in "cde":
        photo(8, 8).save(tmp_path / f"{name}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c_x4.png").write_bytes(b"mine")

    def interrupt():
        limit = time.time() + 60
        while not (tmp_path / "out" / "e_x4.png").exists() and time.time() < limit:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's jobs in the background lack
    thread.start()
    code, out, err = run(tmp_path, "--out", tmp_path / "out", "--json", tmp_path / "r.json")
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert (code, len(out), err[2]) == (130, 2, "2 done, 2 failed")
    told = {
        Path(picture["input"]).stem: picture["status"]
        for picture in json.loads((tmp_path / "r.json").read_text())["pictures"]
    }
    assert told == {"b": "failed", "c": "failed", "d": "done", "e": "done"}
    assert names(tmp_path / "out") == ["c_x4.png", "d_x4.png", "e_x4.png"]


@pytest.fixture
def disk(tmp_path):
    """Makes a disk of so many kilobytes."""
    made = tmp_path / "disk"
    made.mkdir()

    def call(size):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", made]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        return made

    yield call
    if made.is_mount():
        subprocess.run(["umount", made], check=True)


def save_noise(path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC).save(path)


@pytest.mark.parametrize("size", [860, 1500])  # for two written at once; known before, met while writing
def test_a_full_disk_keeps_what_was_finished_and_names_the_rest(model_file, tmp_path, disk, size):
    out = disk(size) / "out"
    (tmp_path / "in").mkdir()
    for i in range(6):
        save_noise(tmp_path / "in" / f"{i}.png")
    done = subprocess.run(command(model_file, tmp_path / "in", "--out", out, "--precision", "fp32"),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    written = names(out)
    assert 0 < len(written) < 6
    for name in written:
        opened(out / name).load()
    for i in range(6):
        assert (f"{i}_x4.png" in written) != any(f"/{i}.png" in line for line in done.stderr.splitlines())
    assert "No space left on device" in done.stderr


def test_after_a_disk_was_found_full_none_is_begun(run, tmp_path, disk, monkeypatch):
    save_noise(tmp_path / "a.png")
    photo(8, 8).save(tmp_path / "b.png")
    monkeypatch.setattr("esrgan.upscale_run._at_once", lambda _: 1)
    _, out, err = run(tmp_path / "a.png", tmp_path / "b.png", "--out", disk(200) / "out")
    assert out == []
    assert err[0].endswith("No space left on device")
    assert err[1].endswith("not begun, because the disk is full")


def test_a_picture_too_large_for_the_disk_stops_no_other(run, tmp_path, monkeypatch):
    photo(600, 600).save(tmp_path / "a.png")
    for name in ("b.png", "c.png"):
        photo().save(tmp_path / name)
    disk = SimpleNamespace(f_blocks=9, f_bavail=1, f_frsize=1_000_000)
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk, raising=False)
    code, out, err = run(tmp_path, "--out", tmp_path / "out")
    assert (code, len(out), err[-1]) == (1, 2, "2 done, 1 failed")
    assert err[0].startswith(f"esrgan: {tmp_path / 'a.png'}: the result has 0.0 GB of pixels and its disk 0.0 GB free")


def test_help_needs_no_torch():
    code = "import sys; from esrgan.cli import main; main(['upscale', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--limit-pixels" in done.stdout


def test_a_comparison_never_replaces_another_result(run, tmp_path):
    photo().save(tmp_path / "a.jpg")
    photo().save(tmp_path / "a_compare.png")
    code, _, err = run(tmp_path, "--name", "{stem}", "--compare", "-o", tmp_path / "out")
    assert code == 2
    assert "share one comparison" in err[-1]


def test_results_are_not_taken_for_inputs_however_their_folder_is_spelt(run, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    photo().save(album / "a.png")
    (tmp_path / "link").symlink_to(album)
    assert run(album, "-o", album)[0] == 0
    assert run(album, "-o", tmp_path / "link")[2] == [f"{album / 'a.png'}: done before"]
    assert run(tmp_path / "link", "-o", album)[2] == [f"{tmp_path / 'link' / 'a.png'}: done before"]


def test_results_of_an_earlier_run_below_a_folder_are_left_out(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path, "-o", tmp_path / "first")[0] == 0
    assert run(tmp_path, "-o", tmp_path / "second")[0] == 0
    assert names(tmp_path / "second") == ["a_x4.png"]
    assert run(tmp_path / "first", "-o", tmp_path / "third")[0] == 0  # named itself, it is enlarged again
    assert (tmp_path / "third" / "a_x4_x4.png").is_file()


def test_the_result_of_a_picture_that_is_gone_is_not_replaced(run, tmp_path):
    for folder, angle in (("a", 0), ("b", 180)):
        (tmp_path / folder).mkdir()
        photo().rotate(angle).save(tmp_path / folder / "p.png")
    args = ("--out", tmp_path / "out")
    assert run(tmp_path / "a", *args)[0] == 0
    before = (tmp_path / "out" / "p_x4.png").read_bytes()
    (tmp_path / "a" / "p.png").unlink()
    code, _, err = run(tmp_path / "b", *args)
    assert code == 1
    assert "which is gone" in err[0]
    assert (tmp_path / "out" / "p_x4.png").read_bytes() == before


def test_a_file_name_of_a_format_that_cannot_be_written_makes_no_folder(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "b.bmp")[0] == 2
    assert not (tmp_path / "b.bmp").exists()


def test_what_fails_in_planning_is_named(run, tmp_path):
    frames = [photo(), photo().rotate(90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, _, err = run(tmp_path / "a.gif", "--format", "jpeg")
    assert code == 1
    assert err[0].startswith(f"esrgan: {tmp_path / 'a.gif'}: JPEG cannot hold 2 frames; choose another --format")
    assert "--scale" not in err[0]


def test_alpha_is_the_share_of_the_gan_model(tmp_path):
    models = [Generator(GeneratorConfig(channels=4, growth=2, blocks=1)) for _ in range(2)]
    for net, name in zip(models, ("a_psnr", "a_gan"), strict=True):
        torch.nn.init.constant_(net.conv_last.bias, name == "a_gan")
        save_model(net, tmp_path / f"{name}.safetensors")
    gan, psnr = (str(tmp_path / f"a_{kind}.safetensors") for kind in ("gan", "psnr"))
    for other in (None, psnr):
        network, weights = _load(gan, 0.8, other, None, "cpu")
        assert network.conv_last.bias.tolist() == pytest.approx([0.8] * 3)
        assert weights != _load(gan, 0.2, other, None, "cpu")[1]


def test_a_comparison_has_bicubic_on_the_left_and_the_result_on_the_right(run, tmp_path):
    photo().save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--compare")[0] == 0
    halves = np.asarray(opened(tmp_path / "out" / "a_x4_compare.png"))[32:].astype(int)
    bicubic = resize(torch.from_numpy(waves(48, 64)).permute(2, 0, 1) / 255, 4).clamp(0, 1).permute(1, 2, 0) * 255
    assert np.abs(halves[:, :256] - bicubic.numpy()).max() < 0.51
    assert np.array_equal(halves[:, 264:], np.asarray(opened(tmp_path / "out" / "a_x4.png")))


def test_other_options_of_the_network_make_results_anew_but_not_another_device(tmp_path):
    naming = Naming(out=tmp_path, how=Enlargement(), network_scale=4, limit_pixels=1)
    changes = ({}, {"precision": "bf16"}, {"engine": "torch"}, {"tile": 64}, {"overlap": 8})
    keys = {_key("weights", Upscaling(**change), naming) for change in changes}
    assert len(keys) == len(changes)
    assert _key("weights", Upscaling(device="cuda"), naming) in keys
