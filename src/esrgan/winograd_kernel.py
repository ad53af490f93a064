"""Winograd's convolutions in fp32 as machine code, made by LLVM when it is first needed.

Equal to torch's fp32 up to rounding: some 5e-6 of the largest value after a whole network.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from esrgan.errors import EsrganError, first_line
from esrgan.extras import import_extra
from esrgan.winograd_code import add_convolutions
from esrgan.winograd_gradient_code import add_gradients
from esrgan.winograd_job import LANES, TOGETHER, AnyJob, GradientJob, Job

ADDERS: dict[type[AnyJob], tuple[Callable[[Any, int], None], int]] = {
    Job: (add_convolutions, TOGETHER),
    GradientJob: (add_gradients, LANES),
}
"""What writes the code for a kind of jobs, and how many it multiplies at once with AVX-512; others half as many."""

_MAKING, _MADE = threading.Lock(), dict[type[AnyJob], "Code"]()


class Code:
    """Machine code for jobs of one kind: ``run(jobs, count, threads, points, products, taken, arrived, give_way)``.

    Each of ``threads`` threads runs it. They make one job after the other together: each takes a share of its squares,
    makes them and takes more, so that a slow or busy core makes fewer; then all wait until the last is through.
    ``jobs`` is the address of ``count`` jobs. ``points`` and ``products`` are this thread's room for a block: ``block``
    x 36 x inputs, and outputs, numbers. ``taken`` is the address of an int64 for each job, ``arrived`` that of one, all
    0 at first; ``give_way`` that of a function of the system that lets others have the core.

    Args:
        kind: Of jobs.
        together: Squares (``Job``) or input channels (``GradientJob``) multiplied at once, of which ``TOGETHER`` or
            ``LANES`` is a multiple; none = as many as there are registers for their sums.

    Raises:
        EsrganError: llvmlite is not installed, or cannot make code here.
    """

    def __init__(self, kind: type[AnyJob] = Job, together: int | None = None) -> None:
        llvm, module = (import_extra(f"llvmlite.{name}", "winograd") for name in ("binding", "ir"))
        features = llvm.get_host_cpu_features()
        add, most = ADDERS[kind]
        written = module.Module("esrgan")
        add(written, together or (most if features.get("avx512f") else most // 2))
        try:
            llvm.check_jit_execution()  # LLVM itself would end the program
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            parsed = llvm.parse_assembly(str(written))
            parsed.verify()
            machine = llvm.Target.from_default_triple().create_target_machine(
                cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
            )
            passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
            passes.getModulePassManager().run(parsed, passes)
            self._engine = llvm.create_mcjit_compiler(parsed, machine)  # the code lives as long as it does
            self._engine.finalize_object()
        except (RuntimeError, OSError, AttributeError) as error:  # the last: an old llvmlite
            raise EsrganError(f"LLVM cannot make code here ({first_line(error)}); use --engine torch") from error
        words = [ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 5]
        signature = ctypes.CFUNCTYPE(None, *words)  # lets other threads run
        self.run: Callable[..., None] = signature(self._engine.get_function_address(kind.__name__))


def code(kind: type[AnyJob]) -> Code:
    """The machine code, made once; whoever runs it must hold it."""
    with _MAKING:
        return _MADE.get(kind) or _MADE.setdefault(kind, Code(kind))


@cache
def give_way() -> int:
    """The address of the system's function that lets another thread have the core."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def runs_fast_here() -> bool:
    """Whether llvmlite is here and can make code, and this CPU is one that it is fast on: x86 with AVX2 and FMA."""
    try:
        llvm = import_extra("llvmlite.binding", "winograd")
        llvm.check_jit_execution()
        features, triple = llvm.get_host_cpu_features(), llvm.get_process_triple()
    except (EsrganError, OSError, RuntimeError, AttributeError):  # missing or broken; where no program may make code
        return False
    able = hasattr(llvm, "create_pass_builder")  # since 0.44
    return able and triple.startswith("x86") and bool(features.get("avx2") and features.get("fma"))
