"""3 x 3 convolutions in fp32 with a quarter of the products, as machine code for the CPU that is here.

Winograd's F(4 x 4, 3 x 3): 36 products a channel give 16 pixels, where the sum over taps takes 144. Squares of 6 x 6
pixels and the weights are transformed, multiplied, and transformed back. LLVM translates the code below when it is
first needed, for whatever vectors the CPU has. Equal to torch's fp32 up to rounding: some 1e-6 of the largest value.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.

Features lie in planes of 8 channels, each picture in a frame of zeros (``winograd.Features``). A square of results is
4 x 4 pixels.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from esrgan.errors import EsrganError, first_line
from esrgan.extras import import_extra

Array = npt.NDArray[np.float32]
LANES = 8
"""Channels of a plane."""
SQUARE = 4
"""Side of the results of one square."""
TAPS = 36
"""Numbers of a transformed square."""
TOGETHER = 12
"""The most squares that are multiplied at once."""
OUTPUTS = 16
"""Output channels multiplied at once: a vector of AVX-512, two of AVX2."""
RESIDUAL = 0.2
"""What ``added_scaled`` is multiplied by."""
_WEIGHTS = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_PLAIN, _TWICE = (0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 2, 3)  # where a square's pixels lie in its source, enlarged or not
_FAST = ("contract", "nsz", "reassoc")


class Job(NamedTuple):
    """One convolution: addresses in bytes, sizes and places in numbers, all int64. The machine code reads it so."""

    first: int
    """Address of the source's first planes."""
    first_channels: int
    second: int
    """Address of further planes of the source, as large."""
    second_channels: int
    source_row: int
    source_plane: int
    source_places: int
    """Address of an int64 for each square: where its first pixel lies in a plane."""
    twice: int
    """1: the source is enlarged twice by nearest neighbour as it is read."""
    weights: int
    bias: int
    outputs: int
    """A multiple of ``OUTPUTS``: channels that are computed."""
    target: int
    kept: int
    """A multiple of ``LANES``: channels that are written."""
    target_row: int
    target_plane: int
    target_places: int
    """As for the source; of the first result."""
    rows: int
    """Address of an int64 for each square: how many rows of results it has."""
    columns: int
    slope: int
    """Address of a float32: by what results below zero are multiplied; at most 1."""
    squares: int
    share: int
    """Squares that a thread takes at once, a multiple of ``block``."""
    block: int
    """Squares from one transform to the next, a multiple of ``TOGETHER``."""
    added: int
    """Address of planes like the target's, added to the result; or 0."""
    added_scaled: int
    """The same, ``RESIDUAL`` times."""


def whole(channels: int, of: int = LANES) -> int:
    """``channels``, and as many more as a whole number of planes has."""
    return -(-channels // of) * of


def transformed(weight: Array) -> Array:
    """Weights (out, in, 3, 3), of whole planes, as the products take them: (36, out / 16, in, 16)."""
    outputs, inputs = weight.shape[:2]
    half = weight.astype(np.float64) @ _WEIGHTS.T  # (out, in, 3, 6)
    taps = half.swapaxes(2, 3) @ _WEIGHTS.T  # the square's columns, then its rows
    blocks = taps.reshape(outputs // OUTPUTS, OUTPUTS, inputs, 6, 6).transpose(4, 3, 0, 2, 1)
    return np.ascontiguousarray(blocks.reshape(TAPS, outputs // OUTPUTS, inputs, OUTPUTS), np.float32)


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
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            module = llvm.parse_assembly(_code(together))
            module.verify()
            machine = llvm.Target.from_default_triple().create_target_machine(
                cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
            )
            passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
            passes.getModulePassManager().run(module, passes)
            self._engine = llvm.create_mcjit_compiler(module, machine)  # the code lives as long as it does
            self._engine.finalize_object()
        except RuntimeError as error:
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


def multiplies_and_adds_at_once() -> bool:
    """Whether this CPU is one that the code is fast on: on x86 one with AVX2 and FMA."""
    llvm = import_extra("llvmlite.binding", "winograd")
    features = llvm.get_host_cpu_features()
    return not llvm.get_process_triple().startswith("x86") or bool(features.get("avx2") and features.get("fma"))


def _code(together: int) -> str:
    """The module in LLVM's language."""
    ir = import_extra("llvmlite.ir", "winograd")
    module, i64, numbers = ir.Module("esrgan"), ir.IntType(64), ir.FloatType().as_pointer()
    step = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), numbers, numbers, i64, i64])
    steps = {name: _Inputs(module, step, name).emit(name == "twice") for name in ("plain", "twice")}
    steps["products"] = _Products(module, step, "products").emit(together)
    steps["outputs"] = _Outputs(module, step, "outputs").emit()
    system = ir.FunctionType(ir.IntType(32), []).as_pointer()
    whole = [i64.as_pointer(), i64, i64, numbers, numbers, i64.as_pointer(), i64.as_pointer(), system]
    _Run(ir, ir.Function(module, ir.FunctionType(ir.VoidType(), whole), "run")).emit(steps)
    return str(module)


class _Emitter:
    """Writes instructions; ``b`` is llvmlite's own builder."""

    def __init__(self, ir: Any, function: Any) -> None:
        self.ir, self.function = ir, function
        self.i64, self.f32 = ir.IntType(64), ir.FloatType()
        self.b = ir.IRBuilder(function.append_basic_block())

    def number(self, value: int) -> Any:
        return self.ir.Constant(self.i64, value)

    def times(self, value: Any, factor: int) -> Any:
        return self.b.mul(value, self.number(factor))

    def sum(self, *values: Any) -> Any:
        total = values[0]
        for value in values[1:]:
            total = self.b.add(total, value)
        return total

    def field(self, job: Any, name: str) -> Any:
        index = Job._fields.index(name)
        return self.b.load(self.b.gep(job, [self.number(index)]))

    def address(self, job: Any, name: str) -> Any:
        return self.b.inttoptr(self.field(job, name), self.f32.as_pointer())

    def entry(self, job: Any, name: str, index: Any) -> Any:
        """One number of a table of int64."""
        return self.b.load(self.b.gep(self.b.inttoptr(self.field(job, name), self.i64.as_pointer()), [index]))

    @contextmanager
    def loop(self, start: Any, stop: Any, step: Any = 1) -> Iterator[Any]:
        before, head, body, after = self.b.block, *(self.function.append_basic_block() for _ in range(3))
        self.b.branch(head)
        self.b.position_at_end(head)
        counter = self.b.phi(self.i64)
        counter.add_incoming(start, before)
        self.b.cbranch(self.b.icmp_signed("<", counter, stop), body, after)
        self.b.position_at_end(body)
        yield counter
        step = self.number(step) if isinstance(step, int) else step
        counter.add_incoming(self.b.add(counter, step), self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)

    def vector(self, lanes: int) -> Any:
        return self.ir.VectorType(self.f32, lanes)

    def constant(self, value: float, lanes: int = LANES) -> Any:
        return self.ir.Constant(self.vector(lanes), [value] * lanes)

    def load(self, base: Any, offset: Any, lanes: int = LANES) -> Any:
        return self.b.load(self._at(base, offset, lanes), align=4)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.b.store(value, self._at(base, offset, value.type.count), align=4)

    def _at(self, base: Any, offset: Any, lanes: int) -> Any:
        return self.b.bitcast(self.b.gep(base, [offset]), self.vector(lanes).as_pointer())

    def splat(self, base: Any, offset: Any, lanes: int) -> Any:
        undefined, i32 = self.ir.Constant(self.vector(lanes), self.ir.Undefined), self.ir.IntType(32)
        one = self.b.insert_element(
            undefined, self.b.load(self.b.gep(base, [offset]), align=4), self.ir.Constant(i32, 0)
        )
        return self.b.shuffle_vector(one, undefined, self.ir.Constant(self.ir.VectorType(i32, lanes), [0] * lanes))

    def half(self, value: Any, which: int) -> Any:
        lanes = range(which * LANES, (which + 1) * LANES)
        mask = self.ir.Constant(self.ir.VectorType(self.ir.IntType(32), LANES), list(lanes))
        return self.b.shuffle_vector(value, value, mask)

    def add(self, x: Any, y: Any) -> Any:
        return self.b.fadd(x, y, flags=_FAST)

    def sub(self, x: Any, y: Any) -> Any:
        return self.b.fsub(x, y, flags=_FAST)

    def mul(self, x: Any, factor: Any) -> Any:
        return self.b.fmul(x, self.constant(factor) if isinstance(factor, float) else factor, flags=_FAST)


class _Run(_Emitter):
    """All jobs, one after the other, share by share and block by block."""

    def emit(self, steps: dict[str, Any]) -> None:
        jobs, count, threads, taps, products, taken, arrived, give_way = self.function.args
        with self.loop(self.number(0), count) as i:
            job = self.b.gep(jobs, [self.times(i, len(Job._fields))])
            size = self.field(job, "block")
            with self._shares(job, self.b.gep(taken, [i])) as (start, stop), self.loop(start, stop, size) as square:
                left = self.b.sub(stop, square)
                some = self.b.select(self.b.icmp_signed("<", left, size), left, size)
                self._block(steps, (job, taps, products, square, some))
            self.b.atomic_rmw("add", arrived, self.number(1), "seq_cst")
            self._wait(arrived, self.b.mul(self.sum(i, self.number(1)), threads), give_way)
        self.b.ret_void()

    @contextmanager
    def _shares(self, job: Any, taken: Any) -> Iterator[tuple[Any, Any]]:
        """From and to which square each share goes that this thread gets."""
        squares, share = self.field(job, "squares"), self.field(job, "share")
        take, body, after = (self.function.append_basic_block() for _ in range(3))
        self.b.branch(take)
        self.b.position_at_end(take)
        start = self.b.atomic_rmw("add", taken, share, "seq_cst")
        self.b.cbranch(self.b.icmp_signed("<", start, squares), body, after)
        self.b.position_at_end(body)
        stop = self.sum(start, share)
        yield start, self.b.select(self.b.icmp_signed("<", stop, squares), stop, squares)
        self.b.branch(take)
        self.b.position_at_end(after)

    def _block(self, steps: dict[str, Any], block: Sequence[Any]) -> None:
        with self.b.if_else(self.b.icmp_signed("!=", self.field(block[0], "twice"), self.number(0))) as (yes, no):
            for branch, name in ((yes, "twice"), (no, "plain")):
                with branch:
                    self.b.call(steps[name], block)
        for name in ("products", "outputs"):
            self.b.call(steps[name], block)

    def _wait(self, arrived: Any, wanted: Any, give_way: Any) -> None:
        look, rest, after = (self.function.append_basic_block() for _ in range(3))
        self.b.branch(look)
        self.b.position_at_end(look)
        so_far = self.b.load_atomic(arrived, "seq_cst", 8)
        self.b.cbranch(self.b.icmp_signed("<", so_far, wanted), rest, after)
        self.b.position_at_end(rest)
        self.b.call(give_way, [])
        self.b.branch(look)
        self.b.position_at_end(after)


class _Part(_Emitter):
    """A function of one step, for ``count`` squares from ``first`` on."""

    def __init__(self, module: Any, kind: Any, name: str) -> None:
        ir = import_extra("llvmlite.ir", "winograd")
        super().__init__(ir, ir.Function(module, kind, name))
        self.function.linkage = "internal"
        self.job, self.taps, self.products, self.first, self.count = self.function.args
        self.inputs = self.sum(self.field(self.job, "first_channels"), self.field(self.job, "second_channels"))
        self.outputs = self.field(self.job, "outputs")

    def done(self) -> Any:
        self.b.ret_void()
        return self.function


class _Inputs(_Part):
    """Squares of 6 x 6 pixels of the source -> ``taps``, (square, plane, 36, 8)."""

    def emit(self, twice: bool) -> Any:
        start = self.number(0)
        for which in ("first", "second"):
            base, channels = self.address(self.job, which), self.field(self.job, f"{which}_channels")
            with self.loop(self.number(0), channels, LANES) as channel:
                self._plane(base, channel, self.times(self.sum(start, channel), TAPS), _TWICE if twice else _PLAIN)
            start = self.sum(start, channels)
        return self.done()

    def _plane(self, base: Any, channel: Any, output: Any, places: Sequence[int]) -> None:
        plane = self.b.mul(self.b.udiv(channel, self.number(LANES)), self.field(self.job, "source_plane"))
        row = self.field(self.job, "source_row")
        with self.loop(self.number(0), self.count) as square:
            corner = self.sum(plane, self.entry(self.job, "source_places", self.sum(self.first, square)))
            rows = {y: self.sum(corner, self.b.mul(row, self.number(y))) for y in dict.fromkeys(places)}
            pixels = {(y, x): self.load(base, self.sum(rows[y], self.number(x * LANES))) for y in rows for x in rows}
            columns = [self._transformed([pixels[y, x] for y in places]) for x in places]
            at = self.sum(output, self.b.mul(square, self.times(self.inputs, TAPS)))
            for y in range(6):
                for x, value in enumerate(self._transformed([column[y] for column in columns])):
                    self.store(value, self.taps, self.sum(at, self.number((6 * y + x) * LANES)))

    def _transformed(self, d: Sequence[Any]) -> list[Any]:
        """B^T d."""
        a, b = self.sub(d[4], self.mul(d[2], 4.0)), self.sub(d[3], self.mul(d[1], 4.0))
        c, e = self.sub(d[4], d[2]), self.mul(self.sub(d[3], d[1]), 2.0)
        first = self.add(self.sub(self.mul(d[0], 4.0), self.mul(d[2], 5.0)), d[4])
        last = self.add(self.sub(self.mul(d[1], 4.0), self.mul(d[3], 5.0)), d[5])
        return [first, self.add(a, b), self.sub(a, b), self.add(c, e), self.sub(c, e), last]


class _Products(_Part):
    """``taps`` times the weights, summed over channels -> ``products``, (square, plane, 36, 8)."""

    def emit(self, together: int) -> Any:
        weights = self.address(self.job, "weights")
        with (
            self.loop(self.number(0), self.number(TAPS)) as tap,
            self.loop(self.number(0), self.outputs, OUTPUTS) as output,
            self.loop(self.number(0), self.count, together) as square,
        ):
            some = [self.sum(square, self.number(i)) for i in range(together)]
            at = self.b.mul(self.sum(self.b.mul(tap, self.outputs), output), self.inputs)
            sums = self._sums(weights, at, [self._of(each, self.inputs, tap) for each in some])
            for each, total in zip(some, sums, strict=True):
                place = self.sum(self._of(each, self.outputs, tap), self.times(output, TAPS))
                for half in (0, 1):
                    to = self.sum(place, self.number(half * LANES * TAPS))
                    self.store(self.half(total, half), self.products, to)
        return self.done()

    def _of(self, square: Any, channels: Any, tap: Any) -> Any:
        return self.sum(self.b.mul(square, self.times(channels, TAPS)), self.times(tap, LANES))

    def _sums(self, weights: Any, at: Any, rows: Sequence[Any]) -> list[Any]:
        """The products of some squares and ``OUTPUTS`` channels, summed in registers."""
        before, body, after = self.b.block, *(self.function.append_basic_block() for _ in range(2))
        self.b.branch(body)
        self.b.position_at_end(body)
        channel = self.b.phi(self.i64)
        channel.add_incoming(self.number(0), before)
        sums = [self.b.phi(self.vector(OUTPUTS)) for _ in rows]
        totals = list(sums)
        for lane in range(LANES):
            some = self.load(weights, self.sum(at, self.times(channel, OUTPUTS), self.number(lane * OUTPUTS)), OUTPUTS)
            offset = self.sum(self.times(channel, TAPS), self.number(lane))
            values = [self.splat(self.taps, self.sum(row, offset), OUTPUTS) for row in rows]
            totals = [self.add(self.mul(value, some), total) for value, total in zip(values, totals, strict=True)]
        for phi, total in zip(sums, totals, strict=True):
            phi.add_incoming(self.constant(0.0, OUTPUTS), before)
            phi.add_incoming(total, body)
        following = self.sum(channel, self.number(LANES))
        channel.add_incoming(following, body)
        self.b.cbranch(self.b.icmp_signed("<", following, self.inputs), body, after)
        self.b.position_at_end(after)
        return totals


class _Outputs(_Part):
    """``products`` -> 4 x 4 pixels of the target a square, with all that follows a convolution."""

    def emit(self) -> Any:
        bias, plane = self.address(self.job, "bias"), self.field(self.job, "target_plane")
        self.slope = self.splat(self.address(self.job, "slope"), self.number(0), LANES)
        with self.loop(self.number(0), self.field(self.job, "kept"), LANES) as channel:
            shift = self.load(bias, channel)
            start = self.b.mul(self.b.udiv(channel, self.number(LANES)), plane)
            with self.loop(self.number(0), self.count) as square:
                at = self.sum(self.times(channel, TAPS), self.b.mul(square, self.times(self.outputs, TAPS)))
                columns = [self._transformed([self._product(at, y, x) for y in range(6)]) for x in range(6)]
                index = self.sum(self.first, square)
                corner = self.sum(start, self.entry(self.job, "target_places", index))
                for y in range(SQUARE):
                    values = self._transformed([column[y] for column in columns])
                    with self._within("rows", index, y):
                        self._row(index, self.sum(corner, self._down(y)), [self.add(v, shift) for v in values])
        return self.done()

    def _product(self, at: Any, y: int, x: int) -> Any:
        return self.load(self.products, self.sum(at, self.number((6 * y + x) * LANES)))

    def _down(self, rows: int) -> Any:
        return self.b.mul(self.field(self.job, "target_row"), self.number(rows))

    def _within(self, table: str, index: Any, place: int) -> Any:
        return self.b.if_then(self.b.icmp_signed(">", self.entry(self.job, table, index), self.number(place)))

    def _row(self, index: Any, start: Any, values: Sequence[Any]) -> None:
        for x, value in enumerate(values):
            with self._within("columns", index, x):
                self._pixel(value, self.sum(start, self.number(x * LANES)))

    def _pixel(self, value: Any, at: Any) -> None:
        low = self.mul(value, self.slope)
        value = self.b.select(self.b.fcmp_ordered(">", value, low), value, low)
        for name, factor in (("added", 1.0), ("added_scaled", RESIDUAL)):
            before = self.b.block
            with self.b.if_then(self.b.icmp_signed("!=", self.field(self.job, name), self.number(0))):
                more = self.add(value, self.mul(self.load(self.address(self.job, name), at), factor))
                there = self.b.block
            alone, value = value, self.b.phi(self.vector(LANES))
            value.add_incoming(alone, before)
            value.add_incoming(more, there)
        self.store(value, self.address(self.job, "target"), at)

    def _transformed(self, m: Sequence[Any]) -> list[Any]:
        """A^T m."""
        s, d, t, u = self.add(m[1], m[2]), self.sub(m[1], m[2]), self.add(m[3], m[4]), self.sub(m[3], m[4])
        last = self.add(self.add(d, self.mul(u, 8.0)), m[5])
        return [self.add(self.add(m[0], s), t), self.add(d, self.mul(u, 2.0)), self.add(s, self.mul(t, 4.0)), last]
