"""What memory the program takes, and how its freed buffers are kept for the next use."""

import ctypes
import mmap
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

KEPT = 1 << 30
"""Bytes of freed memory that glibc holds on to; no more is gained by twice as many."""
NO_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),  # everywhere; torch on a CPU, and on Windows
    *("could not create a primitive", "unable to find an engine"),  # oneDNN; cuDNN, which hides the reason
    *("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),
)
"""What errors say that are for lack of it."""
_PRIVATE = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
"""Memory of this process alone: what is shared gets no huge pages."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's numbers of what ``mallopt`` sets


def keep_buffers() -> bool:
    """Let glibc reuse freed buffers instead of giving each back to the system at once; gives whether it will.

    A network's buffers are megabytes, which glibc maps and unmaps at every operation: each page is then zeroed and
    faulted in anew. Elsewhere than on Linux with glibc this changes nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, KEPT))


def mapped(numbers: int) -> npt.NDArray[np.float32]:
    """Zeros, of the system and not of the allocator: their memory goes back to it as soon as nobody holds them.

    Raises:
        MemoryError: There is none.
    """
    try:
        memory = mmap.mmap(-1, max(1, numbers) * 4, **_PRIVATE)
    except OSError as error:
        raise MemoryError(f"out of memory: {numbers * 4} bytes more") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32, numbers)


def peak_bytes(device: torch.device) -> int | None:
    """The most memory in use so far: of the GPU there, else of this process; none where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what a torch, oneDNN or numpy error says."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in NO_MEMORY)


def free_bytes() -> int | None:
    """Memory that the machine, or its container, can still give; none where that is not told (only Linux does)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    left = [_left(group, names) for group, names in _groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]
    return None if free is None else min([free, *(some for some in left if some is not None)])


def _groups(root: Path, mine: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The control groups whose limits hold for this process, and the names of limit and use: of version 1 or 2.

    Args:
        root: Where they are mounted.
        mine: The file that names those of this process.
    """
    try:
        lines = mine.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, name in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        for group in (inner := top / name.strip("/"), *inner.parents):  # in a container what is above may not be there
            yield group, names
            if group == top:
                break


def _left(group: Path, names: tuple[str, str]) -> int | None:
    """What a group's limit leaves, files in memory counted as free; none where it has no limit."""
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in names)
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    whole = "total_" if "total_active_file" in stat else ""  # in version 1, with the groups within
    cached = sum(int(stat.get(f"{whole}{kind}_file", 0)) for kind in ("inactive", "active"))
    return None if limit == "max" else int(limit) - int(used) + cached
