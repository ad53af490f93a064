import platform
import subprocess
import sys

import pytest
import torch

from esrgan.memory import _container_bytes, keep_buffers, peak_bytes

FAULTS = """
import resource, torch
from esrgan.memory import keep_buffers
if {keep}: assert keep_buffers()
def work():
    for _ in range(20): torch.ones(10_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_kept_buffers_are_not_faulted_in_anew():
    def faults(keep):
        code = FAULTS.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    assert faults(keep=True) < faults(keep=False) / 10


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_the_peak_is_at_least_what_was_held():
    held = peak_bytes(torch.device("cpu"))
    torch.ones(held // 4 + 25_000_000)  # more than is in use, and freed at once
    assert peak_bytes(torch.device("cpu")) > held


def test_a_containers_limit_counts(tmp_path):
    for name, text in {"max": "4000", "current": "3000", "stat": "anon 1\ninactive_file 500"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert _container_bytes(tmp_path) == 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_bytes(tmp_path) is None
    assert _container_bytes(tmp_path / "elsewhere") is None


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_buffers()
