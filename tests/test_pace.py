import re

import pytest
import tiny
import torch

from esrgan import preflight
from esrgan.errors import EsrganError
from esrgan.pace import Pace, duration
from esrgan.preflight import dry_run
from esrgan.stages import pretrain

CPU = torch.device("cpu")
FINE = torch.tensor(True)


@pytest.mark.parametrize(
    ("waiting", "working", "said"),
    [
        (3, 1, "data-bound (75%"),
        (0, 1, "compute-bound (0%"),
        (19, 81, "compute-bound (19%"),
        (21, 79, "data-bound (21%"),
    ],
)
def test_waiting_is_told_from_computing(waiting, working, said, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("esrgan.pace.time.perf_counter", lambda: now[0])

    def batches():
        for i in range(5):
            now[0] += waiting
            yield i

    pace = Pace(warm_up=1, timed=3)
    told = []
    for i in pace.watch(batches()):
        now[0] += working
        if pace.stepped(FINE):
            told.append(i)
    assert told == [3]
    assert said in pace.sentence(CPU, 1000)


def test_a_time_is_given_in_the_unit_that_suits_it():
    assert [duration(s) for s in (100, 600, 9000, 200_000)] == ["100 seconds", "10 minutes", "2.5 hours", "2.31 days"]


def test_a_training_says_once_how_fast_it_goes(tmp_path, capsys):
    pretrain(tiny.stage_1(tmp_path, steps=50))
    lines = [line for line in capsys.readouterr().out.splitlines() if "-bound" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"[\d.]+ steps/s, .*; memory at its peak [\d.]+ GiB; .* to the end, validation apart", lines[0])


def test_a_batch_that_the_machine_cannot_hold_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "free_bytes", lambda: 1 << 20)
    assert list(dry_run(tiny.stage_1(tmp_path)))[2].endswith("by the memory that 4 takes): 4")


def test_a_dry_run_says_the_same(tmp_path):
    lines = list(dry_run(tiny.stage_1(tmp_path)))
    assert len(lines) == 3
    assert "steps/s" in lines[1]
    fits = re.fullmatch(r"largest batch that fits \(of 4 and its doubles.*\): (\d+)( or more)?", lines[2])
    assert fits
    assert int(fits[1]) >= 8
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_the_run_itself_would(tmp_path):
    for option, value in (("val", (tmp_path / "nowhere",)), ("lpips", tmp_path / "nowhere")):
        with pytest.raises(EsrganError, match="nowhere"):
            list(dry_run(tiny.stage_1(tmp_path, **{option: value})))
    pretrain(tiny.stage_1(tmp_path))
    with pytest.raises(EsrganError, match="other options"):
        list(dry_run(tiny.stage_1(tmp_path, seed=5)))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    told = list(dry_run(tiny.stage_1(tmp_path, steps=12)))[1]
    assert "; 0 seconds to the end" in told
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


def test_the_end_of_the_search_for_a_batch_is_no_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "LARGEST", 8)
    assert list(dry_run(tiny.stage_1(tmp_path)))[2].endswith(": 8 or more")
