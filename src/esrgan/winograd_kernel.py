"""Winograd's convolutions in fp32 as machine code, made by LLVM when it is first needed.

Equal to torch's fp32 up to rounding: some 1e-6 of the largest value.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import cache

from esrgan.errors import EsrganError, first_line
from esrgan.extras import import_extra
from esrgan.winograd_code import source
from esrgan.winograd_job import TOGETHER


class Code:
    """The machine code: ``run(jobs, count, threads, taps, products, taken, arrived, give_way)``.

    Each of ``threads`` threads runs it. They make one job after the other together: each takes a share of its squares,
    makes them and takes more, so that a slow or busy core makes fewer; then all wait until the last is through.
    ``jobs`` is the address of ``count`` jobs. ``taps`` and ``products`` are room for a block of this thread: ``block``
    x 36 x inputs, and outputs, numbers. ``taken`` is the address of an int64 for each job, ``arrived`` that of one, all
    0 at first; ``give_way`` that of a function of the system that lets others have the core.

    Args:
        together: Squares multiplied at once, of which ``TOGETHER`` is a multiple; none = as many as there are registers
            for their sums: 12 with AVX-512, else 6.

    Raises:
        EsrganError: llvmlite is not installed, or cannot make code here.
    """

    def __init__(self, together: int | None = None) -> None:
        llvm = import_extra("llvmlite.binding", "winograd")
        features = llvm.get_host_cpu_features()
        together = together or (TOGETHER if features.get("avx512f") else TOGETHER // 2)
        try:
            llvm.check_jit_execution()  # LLVM itself would end the program
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            module = llvm.parse_assembly(source(together))
            module.verify()
            machine = llvm.Target.from_default_triple().create_target_machine(
                cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
            )
            passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
            passes.getModulePassManager().run(module, passes)
            self._engine = llvm.create_mcjit_compiler(module, machine)  # the code lives as long as it does
            self._engine.finalize_object()
        except (RuntimeError, OSError) as error:
            raise EsrganError(f"LLVM cannot make code here ({first_line(error)}); use --engine torch") from error
        words = [ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 5]
        signature = ctypes.CFUNCTYPE(None, *words)  # lets other threads run
        self.run: Callable[..., None] = signature(self._engine.get_function_address("run"))


@cache
def code() -> Code:
    """The machine code, made once."""
    return Code()


@cache
def give_way() -> int:
    """The address of the system's function that lets another thread have the core."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def runs_fast_here() -> bool:
    """Whether the system lets programs make code, and this CPU is one that it is fast on: on x86, with AVX2 and FMA."""
    llvm = import_extra("llvmlite.binding", "winograd")
    try:
        llvm.check_jit_execution()
    except OSError:
        return False
    features = llvm.get_host_cpu_features()
    return not llvm.get_process_triple().startswith("x86") or bool(features.get("avx2") and features.get("fma"))
