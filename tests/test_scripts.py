"""The programs beside the package: scripts/ and benchmarks/."""

import inspect
import json
import os
import platform
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import tiny
import torch

from esrgan.config import TrainConfig
from esrgan.errors import EsrganError, UsageError
from esrgan.images import find_images
from esrgan.library import SHIPPED
from esrgan.model_file import load_model, read_header, save_model
from esrgan.pace import Pace
from esrgan.pairs import each_pair
from esrgan.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT.parent / "shared" / "weights" / "lpips_alex.safetensors"
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
harness = import_module("benchmarks.harness")
pictures, results, ship_model, train_pair = map(import_module, ("pictures", "results", "ship_model", "train_pair"))

PROGRAMS = [
    path for path in (*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")) if "__main__" in path.read_text()
]
NAMES = sorted(path.stem if path.parent.name == "scripts" else f"benchmarks.{path.stem}" for path in PROGRAMS)
MEASURED = results._score
MODELS = sorted((*SHIPPED.glob("*.safetensors"), *results.MORE.glob("*.safetensors")))

ESRGAN = """
import os, signal, sys, time
with open("calls.txt", "a") as file:
    print(*sys.argv[1:], file=file)
if "--dry-run" in sys.argv:
    print(os.environ["SAYS"])
elif os.environ.get("STOPS"):
    time.sleep(0.3)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(30)
sys.exit(3 if os.environ.get("FAILS") == f"{sys.argv[1]} {sys.argv[-1]}" else 0)
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Where the calls of a command are kept that takes the place of ``esrgan``; its dry run tells of 2.5 steps/s."""
    (tmp_path / "esrgan.py").write_text(ESRGAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAYS", "9 pictures\nstage 1: 2.5 steps/s, compute-bound")
    monkeypatch.setattr("esrgan.pretrained.fetch", lambda _: None)
    return tmp_path / "calls.txt"


def train(minutes=2.0, **options):
    train_pair.train_pair("lite", images=[Path("photos")], val=[Path("val")], minutes=minutes, **options)


def test_a_pair_takes_the_steps_that_a_dry_run_leaves_time_for(calls):
    train(psnr_share=0.25)
    dry_1, one, dry_2, two = (line.split() for line in calls.read_text().splitlines())
    assert [one[0], two[0], dry_1, dry_2] == ["pretrain", "train", [*one[:-2], "--dry-run"], [*two[:-2], "--dry-run"]]
    assert [one[-2:], two[-2:]] == [["--steps", "75"], ["--steps", "225"]]
    assert Path(two[two.index("--init") + 1]) == Path(one[one.index("--run-dir") + 1]) / "best.safetensors"
    assert all(Path(words[words.index("--config") + 1]).is_file() for words in (one, two))


def test_without_weights_for_stage_2_stage_1_is_not_begun(calls, monkeypatch):
    with pytest.raises(EsrganError, match=r"no VGG19 weights .*vgg19\.safetensors"):
        train(vgg=calls.parent / "vgg19.safetensors")

    def offline(weights):
        raise EsrganError(f"cannot fetch {weights.url}; or name a copy with {weights.option}")

    monkeypatch.setattr("esrgan.pretrained.fetch", offline)
    with pytest.raises(EsrganError, match=r"cannot fetch .*vgg19.* --vgg"):
        train()
    assert not calls.exists()


def test_a_plan_is_kept(calls):
    train()
    calls.unlink()
    train()
    one, two = (line.split() for line in calls.read_text().splitlines())
    assert one[-2:] == two[-2:] == ["--steps", "150"]
    calls.unlink()
    with pytest.raises(UsageError, match=r"plan\.json gives stage psnr 1 minutes, not 500; give the same --minutes"):
        train(minutes=1000)
    assert not calls.exists()


@pytest.mark.parametrize(("fails", "count"), [("pretrain 150", 2), ("train --dry-run", 3)])
def test_a_failure_ends_the_pair_with_its_exit_code_and_what_was_planned_is_kept(calls, monkeypatch, fails, count):
    monkeypatch.setenv("FAILS", fails)
    with pytest.raises(SystemExit) as end:
        train()
    assert end.value.code == 3
    assert len(calls.read_text().splitlines()) == count
    assert json.loads(Path("runs/lite_x4/plan.json").read_text())["psnr"] == 150


def test_a_dry_run_that_tells_no_speed_is_quoted(calls, monkeypatch):
    monkeypatch.setenv("SAYS", "out of breath")
    with pytest.raises(EsrganError, match=r"stage psnr .* out of breath"):
        train()
    assert not Path("runs").exists()


def test_the_words_in_which_a_dry_run_tells_its_pace_are_understood(calls, monkeypatch):
    pace = Pace(warm_up=0, timed=1)
    for _ in pace.watch([0]):
        time.sleep(0.1)
        pace.stepped(torch.tensor(True))
    monkeypatch.setenv("SAYS", f"stage 1: {pace.sentence(torch.device('cpu'), 100)}")
    train(psnr_share=0.5)
    assert int(calls.read_text().split()[-1]) == pytest.approx(60 / pace.seconds, rel=0.01)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_stop_is_passed_on_to_the_training(calls, monkeypatch):
    """In a process of its own: Vulkan, which other tests use, leaves signals behind that end the program."""
    monkeypatch.setenv("STOPS", "1")
    (calls.parent / "vgg19.safetensors").touch()
    words = ["lite", "--images", "photos", "--val", "val", "--minutes", "2", "--vgg", "vgg19.safetensors"]
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "train_pair.py"), *words], timeout=120, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert len(calls.read_text().splitlines()) == 2


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_card_of_a_shipped_model_says_what_its_file_does(path):
    curve = [json.loads(line) for line in (path.parent / "curves" / f"{path.stem}.jsonl").read_text().splitlines()]
    millions = sum(parameter.numel() for parameter in load_model(path).parameters()) / 1e6
    card = ship_model._card(read_header(path).provenance, path, curve, millions)
    assert card == (ROOT / "docs" / "models" / f"{path.stem}.md").read_text(encoding="utf-8")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder in which a model was shipped that enlarges too reddishly."""
    about = read_header(SHIPPED / "lite_x4_psnr.safetensors").provenance
    generator = load_model(SHIPPED / "lite_x4_psnr.safetensors")
    with torch.no_grad():
        generator.conv_last.bias[0] += 0.04
    save_model(generator, tmp_path / "run" / "best.safetensors", provenance=about)
    rows = [{"step": 0, "bicubic": {"psnr_y": 20.0, "lpips": 0.5}}, {"step": 5, "losses": {}},
            {"step": 10, "validation": {"psnr_y": 21.0}}]  # fmt: skip
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = ["origin\tlicence\tsplit", "git:b/b@1#x\tCC0\ttrain", "git:a/a@1#x\tMIT\ttrain",
                "git:a/a@1#y\tMIT\ttrain", "git:c/c@1#x\tGPL\tval"]  # fmt: skip
    (tmp_path / "manifest.tsv").write_text("\n".join(manifest))
    monkeypatch.setattr(ship_model, "ROOT", tmp_path)
    monkeypatch.setattr(ship_model, "_commit", lambda: "c0ffee")
    tiny.pictures(tmp_path / "Set1", 1, size=(64, 64))
    tiny.pictures(tmp_path / "photos", 2, seed=1, size=(64, 64))
    ship(tmp_path, tiny.lpips(tmp_path / "lpips.safetensors"))
    return tmp_path


def ship(folder, lpips):
    ship_model.ship(
        folder / "run" / "best.safetensors",
        name="red_x4_psnr",
        data=[folder / "Set1"],
        images=[folder / "photos"],
        manifest=folder / "manifest.tsv",
        lpips=lpips,
        folder=folder / "models",
    )


def test_a_model_is_shipped_centred_and_with_its_scores_licences_and_curve(shipped):
    path = shipped / "models" / "red_x4_psnr.safetensors"
    way = Upscaler(path, device="cpu", engine="torch", precision="fp32")
    pairs = [pair for image in find_images([shipped / "photos"]) for pair in each_pair(image, 4)]
    error = torch.stack([(way(pair.lr[None]) - pair.hr).mean((0, 2, 3)) for pair in pairs]).mean(0)
    assert error.abs().max() < 0.5 / 255  # of 10
    about = read_header(path).provenance
    assert about["centred"]["levels"][0] == pytest.approx(0.04 * 255, abs=2)
    assert about["data"]["licences"] == {"MIT": 2, "CC0": 1}
    assert about["data"]["origins"] == ["a/a", "b/b"]
    (scores,) = about["scores"]["datasets"]
    assert scores["name"] == "Set1"
    card = (shipped / "docs" / "models" / "red_x4_psnr.md").read_text()
    assert f"| Set1 | {scores['psnr_y']:.2f} |" in card
    assert "commit `c0ffee`" in card
    curve = (shipped / "models" / "curves" / "red_x4_psnr.jsonl").read_text().splitlines()
    assert list(map(json.loads, curve)) == [
        {"step": 0, "psnr_y": 20.0, "lpips": 0.5, "bicubic": True},
        {"step": 10, "psnr_y": 21.0, "lpips": None},
    ]


def test_a_model_that_cannot_be_scored_does_not_replace_the_shipped_one(shipped):
    before = {path: path.read_bytes() for path in (shipped / "models").rglob("*") if path.is_file()}
    with pytest.raises(EsrganError, match=r"absent\.safetensors"):
        ship(shipped, shipped / "absent.safetensors")
    (shipped / "Set1" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(EsrganError, match=r"not shipped: .*bad\.png"):
        ship(shipped, shipped / "lpips.safetensors")
    assert {path: path.read_bytes() for path in (shipped / "models").rglob("*") if path.is_file()} == before


def test_the_curve_of_a_training_that_went_on_counts_on(tmp_path):
    rows = [{"step": step, "validation": {"psnr_y": 20.0 + step, "lpips": 0.1}} for step in (0, 5)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, [{"step": 0, "bicubic": {}}, *rows])))
    before = [{"step": 0, "bicubic": True}, {"step": 100}]
    assert ship_model._curve(tmp_path / "log.jsonl", before) == [*before, {"step": 105, "psnr_y": 25.0, "lpips": 0.1}]


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """A copy of the pages without their tables, and scores that are those of docs/results.json."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/results.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
        results._fill(tmp_path / name, "results", "to be filled")
    reports = json.loads((ROOT / "docs" / "results.json").read_text())
    known = {(report["model"], report["protocol"].split(";")[0], "quality 75" in report["protocol"]): report
             for report in reports}  # fmt: skip
    flaws = [dict.fromkeys(("grid2", "grid4", "unevenness", "overshoot", "colour_shift"), flaw) for flaw in (0.1, 0.3)]

    def score(model, _data, name, _lpips, jpeg):
        report = known[name, f"x{model.scale}", jpeg == 75]
        return report | {"datasets": [row | {"images": flaws} for row in report["datasets"]]}

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "docs" / "results.md")
    monkeypatch.setattr(results, "LPIPS", lambda _: None)
    monkeypatch.setattr(results, "_score", score)
    return tmp_path


def test_the_tables_of_the_pages_are_made_from_what_is_in_results_json(pages):
    results.results(data=[], alphas=False)
    for name in ("README.md", "docs/results.json"):
        assert (pages / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")
    made, kept = ((root / "docs" / "results.md").read_text(encoding="utf-8") for root in (pages, ROOT))
    begin, end = "<!-- defects: begin", "<!-- defects: end"
    assert made.split(begin)[0] == kept.split(begin)[0]
    assert made.split(end)[1] == kept.split(end)[1]
    assert "| BSD100 | 0.200 | 0.200 | 0.200 | 0.200 | 0.200 |\n" in made


def test_a_picture_that_cannot_be_measured_stops_it_before_a_page_is_written(pages, monkeypatch):
    before = {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()}
    (pages / "Set1").mkdir()
    (pages / "Set1" / "bad.png").write_bytes(b"no picture")
    known = results._score

    def score(model, data, name, lpips, jpeg):  # only what is measured last fails
        return (MEASURED if jpeg else known)(model, data, name, lpips, jpeg)

    monkeypatch.setattr(results, "_score", score)
    monkeypatch.setattr(results, "_having", lambda *_: {"Set1": pages / "Set1"})
    with pytest.raises(EsrganError, match=r"nothing was written: .*bad\.png"):
        results.results(data=[], alphas=False)
    assert {path: path.read_bytes() for path in before} == before


def test_a_page_without_a_place_for_the_tables_is_refused_and_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- results: begin (scripts/results.py) -->\n")
    with pytest.raises(EsrganError, match="lacks the line"):
        results._fill(page, "results", "| a |")
    assert page.read_text() == "<!-- results: begin (scripts/results.py) -->\n"


def test_a_set_without_pictures_of_the_scale_is_made_from_its_hr_pictures(tmp_path):
    folder = tmp_path / "Set1"
    hr = tiny.pictures(folder / "x4" / "HR", 1)
    assert results._having([folder], 4) == {"Set1": folder}
    assert results._having([folder], 2) == {"Set1, LR made here": hr}
    with pytest.raises(EsrganError, match="Set2"):
        results._having([tmp_path / "Set2"], 4)
    (tmp_path / "Set3" / "x4" / "HR").mkdir(parents=True)
    with pytest.raises(EsrganError, match=r"no pictures in .*Set3"):  # not passed over in silence
        results._having([tmp_path / "Set3"], 4)


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("results", "--data nosuch", "nosuch"),
        ("pictures", "--photos nosuch", "nosuch/osprey.png"),
        ("ship_model", "nosuch.safetensors --name a --data b --images c --manifest d", "no model file nosuch"),
    ],
)
def test_a_program_that_cannot_go_on_says_so_in_a_line_and_writes_nothing(program, words, said, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    lpips = ["--lpips", str(WEIGHTS)] if WEIGHTS.is_file() and program != "pictures" else []
    out = ["--out", str(tmp_path / "out")] if program == "pictures" else []
    command = [sys.executable, str(ROOT / "scripts" / f"{program}.py"), *words.split(), *lpips, *out]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("esrgan: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr or not lpips
    assert not list(tmp_path.iterdir())


def test_a_card_gives_layers_as_the_command_takes_them():
    recipe = {"weights.layers": {"conv5_4": 1.0, "conv1_2": 0.5}, "batch": 4}
    config = ROOT / "configs" / "lite_esrgan_x4.toml"
    assert ship_model._options(recipe, config, TrainConfig) == (
        " --weights.layers.conv5_4 1.0 --weights.layers.conv1_2 0.5 --batch 4"
    )


def test_a_sheet_has_its_pictures_in_rows_on_white():
    sheet = pictures._sheet(
        [[torch.zeros(3, 2, 4), torch.zeros(3, 3, 1)], [torch.zeros(3, 1, 1), torch.zeros(3, 3, 4)]]
    )
    height, width = 3 + pictures.GAP, 4 + pictures.GAP
    wanted = torch.ones(3, height + 3, width + 4)
    for y, x, rows, columns in ((0, 0, 2, 4), (0, width, 3, 1), (height, 0, 1, 1), (height, width, 3, 4)):
        wanted[:, y : y + rows, x : x + columns] = 0
    assert torch.equal(sheet, wanted)


def test_ways_take_turns_and_a_ratio_above_1_is_faster_than_the_first():
    now, order = [0.0], []

    def way(name, *seconds):
        left = iter(seconds)

        def run():
            order.append(name)
            now[0] += next(left)

        return run

    ways = {"a": way("a", 99, 2, 4, 30), "b": way("b", 99, 1, 1, 10)}
    a, b = harness.take_turns(ways, rounds=3, clock=lambda: now[0])
    assert order == ["a", "b"] * 4
    assert (a.seconds, a.ratio, b.seconds, b.ratio) == (4, 1, 1, 3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_buffers_are_kept_in_our_turns_alone():
    code = """
import resource, torch
from benchmarks.harness import as_commands_do
def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20): torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
work()
print(work(), as_commands_do(lambda: (work(), work())[1])(), work())  # the first fills the heap that the second reuses
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT).stdout
    usual, kept, after = map(int, said.split())
    assert kept < min(usual, after) / 10


@pytest.mark.parametrize("name", NAMES)
def test_a_program_says_what_it_is_for_and_explains_its_options(name, capsys, monkeypatch):
    module = import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.app(["--help"])
    assert not end.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(module.__doc__.split()[:6]) in said
    command = module.app.default_command
    for option in inspect.signature(command).parameters:
        assert f"--{option.replace('_', '-')}" in said
        assert f" {option}: " in command.__doc__
