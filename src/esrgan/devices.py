"""Where a network runs and in which precision: chosen by capability and a measurement, never by a processor's name."""

import logging
import time
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F

from esrgan.errors import EsrganError, UsageError, first_line

Precision = Literal["auto", "fp32", "bf16", "fp16"]
log = logging.getLogger("esrgan")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name`` (cpu, cuda, cuda:1, mps); with ``auto`` the fastest one here.

    Raises:
        UsageError: No such device.
        EsrganError: Not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available() and _computes("cuda"):
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and _computes("mps") else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except RuntimeError as error:
        raise UsageError(f"there is no device {name!r}; try --device auto or cpu (or cuda, cuda:1, mps)") from error
    try:
        _convolve(device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # the last: torch.hpu
        raise EsrganError(
            f"device {name!r} cannot be used here ({first_line(error)}); try --device auto or cpu"
        ) from error
    return device


@lru_cache
def _computes(device: str) -> bool:
    """Whether a kernel runs there; says so if none does."""
    try:
        _convolve(torch.device(device))
    except RuntimeError as error:
        log.warning("the GPU is not used, as this PyTorch cannot compute on it: %s", first_line(error))
        return False
    return True


def _convolve(device: torch.device) -> None:
    """Run a kernel, as networks do: wheels leave old GPUs out, and cuDNN those before them."""
    F.conv2d(torch.ones(1, 3, 8, 8, device=device), torch.ones(3, 3, 3, 3, device=device))


def layout(device: torch.device) -> torch.memory_format:
    """How pictures and weights lie in memory: channels last, but on Apple's GPUs, where slices so come out wrong.

    Source: https://github.com/pytorch/pytorch/issues/174345
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def arithmetic(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Within it networks in fp32 compute in ``dtype`` where that is safe."""
    off = dtype == torch.float32  # of which it would warn, on Apple's GPUs though it is off
    return torch.autocast(device.type, torch.bfloat16 if off else dtype, enabled=not off)


def pick_precision(precision: Precision, device: torch.device, *, training: bool = False) -> torch.dtype:
    """The arithmetic for ``precision``; with ``auto`` the fastest that is safe on ``device``.

    Inference takes fp16 on CUDA and bf16 on a CPU that has it; training takes bf16, whose range needs no loss scaling.
    """
    if precision not in ("auto", *DTYPES):
        raise UsageError(f"precision is {precision!r}; it must be auto, {', '.join(DTYPES)}")
    if training and precision == "fp16":
        raise EsrganError("training in fp16 overflows and costs PSNR; use precision bf16, fp32 or auto")
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        if not training:
            return torch.float16
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and bf16_is_fast() else torch.float32


@lru_cache
def bf16_is_fast() -> bool:
    """Whether this CPU truly convolves in bf16: its instructions are there and a trial of some 20 ms confirms it.

    Without AVX512-BF16 or AMX bf16 is emulated, 10 to 200 times slower, so the trial's bar is wide enough for a busy
    machine.
    """
    if not (_has("_is_avx512_bf16_supported") or _has("_is_amx_tile_supported")):
        return False
    tries = range(3)  # on a busy machine one may mislead
    return any(_conv_seconds(torch.bfloat16) < 4 * _conv_seconds(torch.float32) for _ in tries)


def _has(capability: str) -> bool:
    return bool(getattr(torch.cpu, capability, lambda: False)())


def _conv_seconds(dtype: torch.dtype) -> float:
    with torch.inference_mode():
        x = torch.ones(1, 64, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        best = float("inf")
        for _ in range(6):  # the first is warm-up; the best of the rest counts
            start = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            best = min(best, time.perf_counter() - start)
    return best
