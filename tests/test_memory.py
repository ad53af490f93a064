import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esrgan.memory import _container_bytes, is_out_of_memory, keep_buffers, mapped, peak_bytes

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


def test_mapped_memory_is_zeros_that_may_be_written_to():
    numbers = mapped(5000)
    assert numbers.shape == (5000,)
    assert not numbers.any()
    numbers += 1
    assert numbers.sum() == 5000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_memory_goes_back_at_once():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    numbers = mapped(50_000_000)
    numbers.fill(1)
    part = numbers[7:9]
    del numbers
    assert resident() > before + 190_000_000
    del part
    assert resident() < before + 10_000_000


def test_no_memory_to_map_is_told_as_such():
    with pytest.raises(MemoryError) as caught:
        mapped(1 << 50)
    assert is_out_of_memory(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_the_peak_is_at_least_what_was_held():
    held = peak_bytes(torch.device("cpu"))
    torch.ones(held // 4 + 25_000_000)  # more than is in use, and freed at once
    assert peak_bytes(torch.device("cpu")) > held


def test_a_containers_limit_counts(tmp_path):
    for name, text in {"max": "4000", "current": "3000", "stat": "anon 1\ninactive_file 500\nactive_file 90"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert _container_bytes(tmp_path) == 1590
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_bytes(tmp_path) is None
    assert _container_bytes(tmp_path / "elsewhere") is None


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_buffers()
