import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import tiny
import torch

from esrgan.config import PretrainOptim
from esrgan.errors import EsrganError
from esrgan.files import replacing
from esrgan.run_dir import RunDir
from esrgan.run_state import Progress, canonical
from esrgan.stages import pretrain
from esrgan.team import build_team


@pytest.fixture
def config(tmp_path):
    return tiny.stage_1(tmp_path)


def states(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("lock", "lock.txt")}


def opened(config):
    with RunDir.opened(config):
        pass


def test_a_changed_option_is_listed_and_nothing_touched(config):
    pretrain(replace(config, steps=1))
    before = states(config.run_dir)
    with pytest.raises(EsrganError, match=r"batch x accumulate: 4 before, 2 now; optim.clip: none before, 1.*--init"):
        opened(replace(config, batch=2, optim=PretrainOptim(learning_rate=1e-3, milestones=(), clip=1.0)))
    assert states(config.run_dir) == before


def test_stage_1_goes_on_with_a_smaller_batch_in_as_many_more_passes(config):
    pretrain(replace(config, steps=1))
    pretrain(replace(config, steps=2, batch=2, accumulate=2))
    assert "batch = 2" in (config.run_dir / "config.toml").read_text()


def test_a_run_that_failed_before_its_first_step_holds_no_folder(config, tmp_path):
    with pytest.raises(EsrganError, match="nowhere"):
        pretrain(replace(config, images=(tmp_path / "nowhere",)))
    with RunDir.opened(config) as run:
        run.note(0, "problem: of other pictures")
    pretrain(replace(config, batch=2))
    assert "batch = 2" in (config.run_dir / "config.toml").read_text()
    assert "of other pictures" not in (config.run_dir / "log.txt").read_text()


def test_a_run_that_failed_in_its_first_step_holds_no_folder(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esrgan.training.train_steps", Mock(side_effect=MemoryError))
        with pytest.raises(EsrganError, match="out of memory"):
            pretrain(config)
    assert (config.run_dir / "state.pt").is_file()
    pretrain(replace(config, batch=2, generator=replace(config.generator, channels=8)))
    assert "batch = 2" in (config.run_dir / "config.toml").read_text()


@pytest.mark.parametrize("name", ["config.toml", "log.txt"])
def test_a_folder_with_files_of_somebody_else_is_refused(config, name):
    config.run_dir.mkdir()
    (config.run_dir / name).write_text("steps = 4\n")
    with pytest.raises(EsrganError, match=rf"{name} was there before and is not of a training"):
        opened(config)
    assert states(config.run_dir) == {name: b"steps = 4\n"}


def test_a_run_that_is_past_the_steps_says_so(config):
    pretrain(config)
    with pytest.raises(EsrganError, match="is at step 12 already, past --steps 5"):
        pretrain(replace(config, steps=5))


def test_a_folder_of_the_other_stage_is_named(config, tmp_path):
    pretrain(replace(config, steps=1))
    with pytest.raises(EsrganError, match="esrgan pretrain"):
        opened(tiny.stage_2(tmp_path, run_dir=config.run_dir))


def test_the_precision_that_a_run_began_with_stays(config):
    pretrain(replace(config, precision="bf16", steps=1))
    with RunDir.opened(replace(config, precision="auto")) as run:
        assert run.config.precision == "bf16"
    with pytest.raises(EsrganError, match="precision: bf16 before, fp32 now"):
        opened(config)


def test_auto_is_settled_once_and_written_down(config):
    with RunDir.opened(replace(config, precision="auto")) as run:
        assert run.config.precision in ("fp32", "bf16")
        assert f'precision = "{run.config.precision}"' in (run.path / "config.toml").read_text()


def test_a_folder_in_use_is_named_with_its_process(config):
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); import tiny; from pathlib import Path\n"
        "from esrgan.run_dir import RunDir\n"
        f"with RunDir.opened(tiny.stage_1(Path({str(config.run_dir.parent)!r}))):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    opened(config)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        before = states(config.run_dir)
        with pytest.raises(EsrganError, match=rf"in use by another process \(number {process.pid}\)"):
            opened(config)
        assert states(config.run_dir) == before
        process.kill()
    opened(config)


def test_what_a_killed_process_left_is_swept(config):
    config.run_dir.mkdir()
    with replacing(config.run_dir / "state.pt") as left:
        left.write_bytes(b"half")
    left.write_bytes(b"half")
    (config.run_dir / "state.pt").unlink()
    of_the_user = config.run_dir / ".keep.part1"
    of_the_user.write_text("mine")
    opened(config)
    assert not left.exists()
    assert of_the_user.read_text() == "mine"


def test_half_a_run_folder_is_named(config):
    pretrain(config)
    (config.run_dir / "config.toml").rename(config.run_dir / "away")
    with pytest.raises(EsrganError, match=r"config.toml is missing"):
        pretrain(config)
    (config.run_dir / "away").rename(config.run_dir / "config.toml")
    for name in ("state.pt", "state-previous.pt"):
        (config.run_dir / name).unlink()
    before = states(config.run_dir)
    with pytest.raises(EsrganError, match=r"there is no state.pt"):
        pretrain(config)
    assert states(config.run_dir) == before
    for path in config.run_dir.glob("log.*"):
        path.unlink()
    with pytest.raises(EsrganError, match=r"there is no state.pt"):  # a model alone is worth as much
        pretrain(config)
    assert (config.run_dir / "latest.safetensors").read_bytes() == before["latest.safetensors"]


def test_a_damaged_state_gives_way_to_the_one_before(config, capsys):
    pretrain(config)
    whole = (config.run_dir / "state.pt").read_bytes()
    (config.run_dir / "state.pt").write_bytes(whole[:-7])
    pretrain(config)
    assert "state.pt is damaged" in capsys.readouterr().out
    assert (config.run_dir / "state.damaged").read_bytes() == whole[:-7]  # put aside, not over the good one
    assert (config.run_dir / "state.pt").read_bytes() == whole


def test_only_damaged_states_stop_the_run(config):
    pretrain(config)
    for name in ("state.pt", "state-previous.pt"):
        (config.run_dir / name).write_bytes(b"x" * 100)
    with pytest.raises(EsrganError, match=r"state.pt and state-previous.pt damaged.*--resume best"):
        pretrain(config)


def test_the_log_is_cut_to_the_state_and_has_no_repeats(config):
    pretrain(config)
    with RunDir.opened(config) as run:
        run.log({"step": 13, "losses": {"pixel": 1.0}, "learning_rate": 1.0, "steps_per_second": 1.0})
        with (run.path / "log.jsonl").open("a") as file:
            file.write('{"step": 14, "loss')
        team = build_team(config)
        progress = run.restore(team.players, team.ema)
        assert progress.step == 12
        run.cut_log(progress)
        assert [row["step"] for row in run.rows() if row["step"]] == [4, 8, 12]
        assert len((run.path / "log.txt").read_text().splitlines()) == len(run.rows())


def test_an_old_state_without_the_newer_fields_is_read(config):
    team = build_team(config)
    with RunDir.opened(config) as run:
        progress = Progress(step=3, best=1.0, sums={"pixel": torch.tensor(2.0)}, count=2)
        for name in ("skipped", "streak", "returns", "due", "data"):
            delattr(progress, name)
        run.save(progress, team.players, team.ema)
        read = run.restore(team.players, team.ema)
        read.add(4, {"pixel": torch.tensor(1.0)}, torch.tensor(True))
        assert read.take() == {"pixel": 1.0}


def test_equal_states_are_equal_bytes_however_they_came_about():
    def numbered(name):
        return "".join(["st", name])

    fresh = {"a": {"step": 1}, "b": {"step": torch.ones(2)[:1]}}
    built = {"a": {numbered("ep"): 1}, "b": {numbered("ep"): torch.ones(1)}}
    assert dumped(canonical(fresh)) == dumped(canonical(built))


def dumped(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_full_disk_is_said_and_nothing_is_lost(config):
    resource = pytest.importorskip("resource")
    pretrain(replace(config, run_dir=config.run_dir / "whole"))
    whole = (config.run_dir / "whole" / "state.pt").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 1, before[1]))  # enough for step 0, not for Adam's averages
    try:
        with pytest.raises(EsrganError, match=r"state\.pt: File too large; what was saved before is intact"):
            pretrain(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    pretrain(config)
    assert (config.run_dir / "state.pt").read_bytes() == whole


def test_a_disk_full_to_the_last_byte_stops_no_lock(config):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(EsrganError, match=r"config\.toml: File too large"):
            opened(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_validation_that_is_still_due_leaves_no_line_behind(config):
    team = build_team(config)
    with RunDir.opened(config) as run:
        run.log({"step": 6, "validation": {"psnr_y": 20.0}, "best": True})
        for due, kept in ((False, 1), (True, 0)):
            run.save(Progress(step=6, due=due), team.players, team.ema)
            run.cut_log(run.restore(team.players, team.ema))
            assert len(run.rows()) == kept


def test_steps_left_out_are_a_streak_only_in_a_row():
    progress = Progress()
    for step, finite in enumerate((True, False, False, True, False), 1):
        progress.add(step, {}, torch.tensor(finite))
    assert (int(progress.streak), int(progress.skipped), int(progress.count)) == (1, 3, 2)


def test_a_run_that_went_back_goes_on_with_the_smaller_learning_rate(config):
    team = build_team(config)
    with RunDir.opened(config) as run:
        run.save(Progress(step=3, returns=2), team.players, team.ema)
        again = build_team(config)
        run.restore(again.players, again.ema)
    assert again.players["generator"].rate(4) == team.players["generator"].rate(4) / 4


def test_a_line_of_the_log_has_the_means_since_the_line_before():
    progress = Progress()
    for step, (loss, mean) in enumerate(((4.0, 4.0), (1.0, 1.0)), 1):
        progress.add(step, {"pixel": torch.tensor(loss)}, torch.tensor(True))
        assert progress.take() == {"pixel": mean}
