"""Bulk upscaling on Ray."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import photo

from esrgan import __version__
from esrgan.cli import main
from esrgan.enlarge_file import Enlargement
from esrgan.errors import EsrganError
from esrgan.folders import Job, Naming
from esrgan.model_file import load_model
from esrgan.picture_formats import FORMATS
from esrgan.ray_workers import RETRIES, Worker, Workers

SECONDS = 240


def naming(folder: Path) -> Naming:
    return Naming(out=folder, how=Enlargement(), network_scale=4, limit_pixels=10**8)


class DeathError(Exception):
    """Of a worker."""


class OneProcess:
    """Ray's part that is used, in this process: actors are objects, and what they are asked is done at once."""

    def __init__(self, nodes, deaths=()):
        self.exceptions = SimpleNamespace(RayError=DeathError, RayTaskError=type("RayTaskError", (DeathError,), {}))
        self.util = SimpleNamespace(scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=Mock()))
        self.started, self.deaths = [], list(deaths)
        self.nodes, self.init, self.shutdown, self.put = lambda: nodes, Mock(), Mock(), lambda value: value

    def get(self, value):
        if not isinstance(value, list) and self.deaths:
            raise self.deaths.pop()
        return value

    def remote(self, kind):
        def start(options, *args):
            self.started.append(options)
            made = kind(*args)
            methods = {name: SimpleNamespace(remote=getattr(made, name)) for name in ("begin", "enlarge")}
            return SimpleNamespace(**methods)

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda *args: start(options, *args)))


def node(alive=True, **resources):
    return {"NodeID": "1", "Alive": alive, "Resources": resources}


@pytest.fixture
def cluster(monkeypatch, tmp_path, model_file):
    """Starts workers on a cluster of these nodes."""

    def call(*nodes, device="cpu", deaths=(), folder=tmp_path):
        ray = OneProcess(nodes, deaths)
        monkeypatch.setattr("esrgan.ray_workers.import_extra", lambda *_: ray)
        return ray, Workers(load_model(model_file), {"device": device, "precision": "fp32"}, naming(folder))

    return call


def test_each_gpu_has_a_worker_and_each_machine_without_one_all_its_cores(cluster):
    ray, workers = cluster(node(CPU=16, GPU=2), node(CPU=4), node(alive=False, CPU=4), device="auto")
    assert [(options["num_gpus"], options["num_cpus"]) for options in ray.started] == [(1, 1), (1, 1), (0, 4)]
    assert len(workers) == 3
    assert "3 workers on Ray: x4 by" in workers.about


def test_with_device_cpu_no_gpu_is_asked_for(cluster):
    ray, _ = cluster(node(CPU=16, GPU=2))
    assert [(options["num_gpus"], options["num_cpus"]) for options in ray.started] == [(0, 16)]


def test_a_cluster_that_cannot_do_it_is_said(cluster, tmp_path):
    with pytest.raises(EsrganError, match="has no free processor"):
        cluster(node())
    with pytest.raises(EsrganError, match=r"does not see .*gone"):
        cluster(node(CPU=1), folder=tmp_path / "gone")


def test_workers_of_another_version_are_refused(model_file, tmp_path):
    worker = Worker(load_model(model_file), {}, naming(tmp_path))
    assert worker.begin("0.0.1", tmp_path) == ("", f"has esrgan {__version__}, not 0.0.1")
    assert worker.begin(__version__, tmp_path)[1] == ""


def test_a_worker_that_dies_fails_its_picture_alone(cluster, tmp_path):
    photo(8, 8).save(tmp_path / "a.png")
    job = Job(source=tmp_path / "a.png", target=tmp_path / "a_x4.png", form=FORMATS["png"])
    _, workers = cluster(node(CPU=1), deaths=[DeathError()])
    with pytest.raises(EsrganError, match=f"died {1 + RETRIES} times"):
        workers.enlarge(job, tmp_path / "part.png")
    assert workers.enlarge(job, tmp_path / "part.png") == (32, 32)
    job.source.write_bytes(b"broken")
    with pytest.raises(EsrganError, match=r"a\.png: not a picture"):
        workers.enlarge(job, tmp_path / "part.png")


def test_a_device_that_only_the_workers_have_may_be_asked_for(monkeypatch, model_file, tmp_path, capsys):
    photo(8, 8).save(tmp_path / "a.png")
    asked = Mock(side_effect=EsrganError("far away"))
    monkeypatch.setattr("esrgan.ray_workers.Workers", asked)
    words = ["upscale", str(tmp_path / "a.png"), "--model", str(model_file), "--out", str(tmp_path / "out")]
    assert main([*words, "--ray", "--device", "cuda:7"]) == 1
    assert "far away" in capsys.readouterr().err
    assert asked.call_args.args[1]["device"] == "cuda:7"


@pytest.mark.parametrize("words", [["-", "--out", "x.png"], ["x.png", "--out", "-"]])
def test_standard_input_and_output_are_refused(words, capsys):
    assert main(["upscale", *words, "--ray"]) == 2
    assert "--ray takes files" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed, or no /proc")
def test_a_folder_comes_out_as_without_ray_though_a_worker_is_killed(model_file, tmp_path):
    (tmp_path / "in").mkdir()
    photo(600, 600).save(tmp_path / "in" / "a.png")
    photo(40, 40).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"nonsense")
    words = [sys.executable, "-m", "esrgan", "upscale", "in", "--model", str(model_file), "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.Popen([*words, "--ray", "--out", "far"], cwd=tmp_path, text=True, env=environment,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    killed, start = None, time.monotonic()
    while killed is None and run.poll() is None and time.monotonic() - start < SECONDS:
        killed = _enlarging()
        time.sleep(0.05)
    if killed:
        os.kill(killed, signal.SIGKILL)
    out, err = run.communicate(timeout=SECONDS)
    assert killed, err
    assert run.returncode == 1
    assert [line.split()[2] for line in out.splitlines() if " -> " in line] == ["far/a_x4.png", "far/b_x4.png"]
    assert "broken.png: not a picture" in err
    subprocess.run([*words, "--out", "near"], cwd=tmp_path, check=False, capture_output=True)
    for name in ("a_x4.png", "b_x4.png"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    again = subprocess.run([*words, "--out", "far"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "2 skipped, 1 failed" in again.stderr


def _enlarging() -> int | None:
    """A process of Ray that is at a picture."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (folder / "cmdline").read_bytes().startswith(b"ray::Worker.enlarge"):
                return int(folder.name)
    return None
