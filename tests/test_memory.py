import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esrgan.memory import _groups, _left, free_bytes, is_out_of_memory, keep_buffers, mapped, peak_bytes

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


V1 = "limit_in_bytes", "usage_in_bytes"
V2 = "max", "current"


def group(folder, names, limit, used, stat):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "stat"), (limit, used, stat), strict=True):
        (folder / f"memory.{name}").write_text(f"{text}\n")


def left(root, mine):
    """What each group's limit leaves, from the innermost on."""
    (root / "mine").write_text(mine)
    return [_left(*one) for one in _groups(root, root / "mine")]


def test_a_containers_limit_counts(tmp_path):
    group(tmp_path, V2, "4000", "3000", "anon 1\ninactive_file 500\nactive_file 90")
    assert left(tmp_path, "0::/\n") == [1590]
    assert left(tmp_path, "0::/docker/abc\n") == [None, None, 1590]  # the names are the machine's, the files its own
    group(tmp_path, V2, "max", "3000", "anon 1\ninactive_file 500\nactive_file 90")
    assert left(tmp_path, "0::/\n") == [None]
    assert not list(_groups(tmp_path, tmp_path / "nowhere"))


def test_the_limit_of_a_job_without_a_container_counts_and_those_above_it(tmp_path):
    group(tmp_path / "system.slice/job", V2, "9000", "1000", "inactive_file 0\nactive_file 0")
    group(tmp_path / "system.slice", V2, "7000", "2000", "inactive_file 10\nactive_file 0")
    assert left(tmp_path, "0::/system.slice/job\n") == [8000, 5010, None]


def test_limits_of_the_first_version_of_control_groups_count(tmp_path):
    stat = "inactive_file 1\nactive_file 2\ntotal_inactive_file 30\ntotal_active_file 4"
    group(tmp_path / "memory/slurm/job", V1, "5000", "1000", stat)
    mine = "12:pids:/slurm/job\n5:memory:/slurm/job\n0::/elsewhere\n"
    assert [one for one in left(tmp_path, mine) if one is not None] == [4034]


def test_free_memory_is_the_smallest_of_all_limits(monkeypatch):
    free = free_bytes()
    if free is None:
        pytest.skip("this system does not tell")
    monkeypatch.setattr("esrgan.memory._groups", lambda root, mine: [(root, V2)] * 2)
    monkeypatch.setattr("esrgan.memory._left", lambda *_: 7)
    assert free_bytes() == 7
    monkeypatch.setattr("esrgan.memory._left", lambda *_: None)
    assert free_bytes() > 7


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_buffers()
