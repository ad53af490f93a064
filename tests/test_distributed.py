"""Two processes against one, on the CPU; each test starts torchrun's processes once."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from esrgan import distributed
from esrgan.distributed import anyone, average_, everyone, rank, shared, size
from esrgan.errors import EsrganError
from esrgan.stages import pretrain, train

RUN = (
    "import os, sys; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path\nimport tiny\nfrom esrgan.stages import pretrain, train\n"
    "folder, name, steps = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])\n"
    "make, run = (tiny.stage_1, pretrain) if sys.argv[5] == '1' else (tiny.stage_2, train)\n"
    "steps, val = int(os.environ.get('STEPS', steps)), tuple(Path(p) for p in sys.argv[6:])\n"
    "lpips = Path(os.environ['LPIPS']) if 'LPIPS' in os.environ else None\n"
    "run(make(folder, run_dir=folder / name, steps=steps, accumulate=2, val=val, lpips=lpips))\n"
    "sys.stdout.flush()\nos._exit(0)\n"  # as `python -m esrgan` ends
)


class Process(subprocess.Popen):
    """Killed when it is forgotten, as after a test that failed."""

    def __del__(self):
        if self.poll() is None:
            self.kill()
            self.communicate()


def start(folder, name, *, stage, steps=6, val=None, each=lambda _: {}, **environment):
    """Two processes as torchrun starts them; ``each``: number of a process -> its own part of the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared_by_all = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
    }  # an abort tells where
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(folder), name, str(steps), str(stage),
               *([str(val)] if val else [])]  # fmt: skip
    return [
        Process(
            command, env={**os.environ, **shared_by_all, "RANK": str(i), "LOCAL_RANK": str(i),
                          **environment, **each(i)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip


def ended(processes):
    return [(process.communicate(timeout=120)[0], process.returncode) for process in processes]


def players(folder):
    return torch.load(io.BytesIO((folder / "state.pt").read_bytes()[32:]), weights_only=True)["players"]


def gradient(player):
    """A multiple of the first step's gradient: Adam's first moment."""
    return torch.cat([kept["exp_avg"].flatten() for kept in player["optimizers"][0]["state"].values()])


@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_are_one_to_rounding_and_either_resumes_the_other(tmp_path, stage):
    make, run = (tiny.stage_1, pretrain) if stage == 1 else (tiny.stage_2, train)
    make(tmp_path)
    seen = []
    for steps in (1, 6):
        for out, code in ended(start(tmp_path, "two", stage=stage, steps=steps)):
            assert code == 0, out
        run(make(tmp_path, run_dir=tmp_path / "one", steps=steps, accumulate=2))
        seen.append((players(tmp_path / "one"), players(tmp_path / "two")))
    for name, one in seen[0][0].items():
        expected, found = gradient(one), gradient(seen[0][1][name])
        assert (found - expected).norm() < 1e-3 * expected.norm(), name
    # Adam moves a weight of the discriminator by its whole rate though the gradient is a rounding error (near a tie it
    # is), so that after some steps only the generator can be compared.
    for name, tensor in seen[1][0]["generator"]["net"].items():
        torch.testing.assert_close(seen[1][1]["generator"]["net"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    run(make(tmp_path, run_dir=tmp_path / "two", steps=8, accumulate=2))
    assert players(tmp_path / "two").keys() == seen[1][0].keys()


def test_a_killed_process_ends_the_other_with_one_sentence(tmp_path):
    tiny.stage_1(tmp_path)
    first, second = start(tmp_path, "run", stage=1, steps=100_000)
    log = tmp_path / "run" / "log.jsonl"
    limit = time.time() + 90
    while not (log.is_file() and "losses" in log.read_text()) and time.time() < limit and first.poll() is None:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    out, code = ended([first])[0]
    second.communicate()
    assert code == 1
    assert "another process of this run ended or cannot be reached" in out


def test_a_wrong_world_size_is_one_sentence(tmp_path):
    tiny.stage_1(tmp_path)
    first, second = start(tmp_path, "run", stage=1, WORLD_SIZE="many")
    for out, code in ended([first, second]):
        assert code == 1
        assert "the processes of this run cannot meet" in out


def test_processes_with_other_options_are_refused(tmp_path):
    tiny.stage_1(tmp_path)
    first, second = start(tmp_path, "run", stage=1, each=lambda i: {"STEPS": str(6 + i)})
    for out, code in ended([first, second]):
        assert code == 1
        assert "the processes of this run have different options" in out
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_validation_that_is_due_is_done_by_the_first_process_alone(tmp_path):
    val = tiny.pictures(tmp_path / "val", 1)
    config = tiny.stage_1(tmp_path, run_dir=tmp_path / "run", steps=6, accumulate=2, val=(val,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esrgan.validation.Validation.__call__", lambda *_: None)
        pretrain(config)
    for out, code in ended(start(tmp_path, "run", stage=1, steps=8, val=val)):
        assert code == 0, out
    found = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found if "validation" in row] == [6, 8]


def test_lpips_which_the_first_process_alone_has_chooses_for_all(tmp_path):
    tiny.stage_2(tmp_path)
    val, lpips = tiny.pictures(tmp_path / "val", 1), tiny.lpips(tmp_path / "lpips.safetensors")
    for out, code in ended(start(tmp_path, "run", stage=2, steps=2, val=val, LPIPS=str(lpips))):
        assert code == 0, out
    found = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found if "validation" in row] == [0, 2]
    assert all(row["validation"]["lpips"] for row in found if "validation" in row)


def test_alone_everything_gives_back_what_it_got():
    x = torch.rand(2, 1)
    assert everyone(x) is x
    assert average_(x) is x
    assert (rank(), size(), shared("x"), anyone(True), anyone(False)) == (0, 1, "x", True, False)


def test_several_processes_need_a_torch_that_knows_of_them_and_one_does_not(monkeypatch):
    monkeypatch.setattr(distributed.dist, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed.joined():
        assert distributed.size() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EsrganError, match="built without torch"), distributed.joined():
        pass
