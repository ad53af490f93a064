"""Winograd's convolutions in LLVM's language, which becomes machine code for the CPU that is here.

Features lie in planes of 8 channels, each picture in a frame of zeros (``winograd.Features``). A square of results is
4 x 4 pixels; ``winograd_job`` has the formula.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from esrgan.extras import import_extra
from esrgan.llvm_emitter import Emitter
from esrgan.winograd_job import LANES, OUTPUTS, RESIDUAL, SQUARE, TAPS, AnyJob, Job

_PLAIN, _TWICE = (0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 2, 3)  # where a square's pixels lie in its source, enlarged or not


def add_convolutions(module: Any, together: int) -> None:
    """Write the function ``Job``, which ``winograd_kernel.Code`` describes, into a module of LLVM's.

    Args:
        module: ``llvmlite.ir.Module``.
        together: Squares multiplied at once.
    """
    kind = step_type()
    steps = {name: Inputs(module, kind, name).emit(name == "twice") for name in ("plain", "twice")}
    steps["products"] = _Products(module, kind, "products").emit(together)
    steps["outputs"] = _Outputs(module, kind, "outputs").emit()
    _Convolutions(module).emit(steps)


def step_type() -> Any:
    """LLVM's type of a step: ``(job, taps, products, first, count)``."""
    ir = import_extra("llvmlite.ir", "winograd")
    i64, numbers = ir.IntType(64), ir.FloatType().as_pointer()
    return ir.FunctionType(ir.VoidType(), [i64.as_pointer(), numbers, numbers, i64, i64])


class JobEmitter(Emitter):
    """Reads the numbers of a job."""

    kind: type[AnyJob] = Job

    def field(self, job: Any, name: str) -> Any:
        index = self.kind._fields.index(name)
        return self.b.load(self.b.gep(job, [self.number(index)]))

    def address(self, job: Any, name: str) -> Any:
        return self.b.inttoptr(self.field(job, name), self.f32.as_pointer())

    def entry(self, job: Any, name: str, index: Any) -> Any:
        """One number of a table of int64."""
        return self.b.load(self.b.gep(self.b.inttoptr(self.field(job, name), self.i64.as_pointer()), [index]))


class Run(JobEmitter):
    """All jobs, one after the other, share by share and block by block."""

    def __init__(self, module: Any) -> None:
        ir = import_extra("llvmlite.ir", "winograd")
        i64, numbers = ir.IntType(64), ir.FloatType().as_pointer()
        system = ir.FunctionType(ir.IntType(32), []).as_pointer()
        words = [i64.as_pointer(), i64, i64, numbers, numbers, i64.as_pointer(), i64.as_pointer(), system]
        super().__init__(ir.Function(module, ir.FunctionType(ir.VoidType(), words), self.kind.__name__))

    def emit(self, steps: dict[str, Any]) -> None:
        jobs, count, threads, taps, products, taken, arrived, give_way = self.function.args
        with self.loop(self.number(0), count) as i:
            job = self.b.gep(jobs, [self.times(i, len(self.kind._fields))])
            size = self.field(job, "block")
            with self._shares(job, self.b.gep(taken, [i])) as (start, stop), self.loop(start, stop, size) as square:
                left = self.b.sub(stop, square)
                some = self.b.select(self.b.icmp_signed("<", left, size), left, size)
                self.block(steps, (job, taps, products, square, some))
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

    def block(self, steps: dict[str, Any], block: Sequence[Any]) -> None:
        """What is done for some squares."""
        for step in steps.values():
            self.b.call(step, block)

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


class _Convolutions(Run):
    def block(self, steps: dict[str, Any], block: Sequence[Any]) -> None:
        with self.b.if_else(self.b.icmp_signed("!=", self.field(block[0], "twice"), self.number(0))) as (yes, no):
            for branch, name in ((yes, "twice"), (no, "plain")):
                with branch:
                    self.b.call(steps[name], block)
        for name in ("products", "outputs"):
            self.b.call(steps[name], block)


class Step(JobEmitter):
    """A function of one step, for ``count`` squares from ``first`` on."""

    def __init__(self, module: Any, kind: Any, name: str) -> None:
        super().__init__(import_extra("llvmlite.ir", "winograd").Function(module, kind, name))
        self.function.linkage = "internal"
        self.job, self.taps, self.products, self.first, self.count = self.function.args
        self.inputs = self.sum(self.field(self.job, "first_channels"), self.field(self.job, "second_channels"))
        self.outputs = self.field(self.job, "outputs")

    def done(self) -> Any:
        self.b.ret_void()
        return self.function


class Inputs(Step):
    """Squares of 6 x 6 pixels of the source -> ``taps``, (square, plane, 36, 8)."""

    def place(self, channel: Any, square: Any) -> Any:
        """Where in ``taps`` the first numbers of a plane of a square go."""
        return self.sum(self.times(channel, TAPS), self.b.mul(square, self.times(self.inputs, TAPS)))

    def stride(self) -> Any:
        """From there to the next tap's."""
        return self.number(LANES)

    def emit(self, twice: bool) -> Any:
        start = self.number(0)
        for which in ("first", "second"):
            base, channels = self.address(self.job, which), self.field(self.job, f"{which}_channels")
            with self.loop(self.number(0), channels, LANES) as channel:
                self._plane(base, channel, self.sum(start, channel), _TWICE if twice else _PLAIN)
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
            at, stride = self.place(output, square), self.stride()
            for y in range(6):
                for x, value in enumerate(self._transformed([column[y] for column in columns])):
                    self.store(value, self.taps, self.sum(at, self.b.mul(stride, self.number(6 * y + x))))

    def _transformed(self, d: Sequence[Any]) -> list[Any]:
        """B^T d."""
        a, b = self.sub(d[4], self.mul(d[2], 4.0)), self.sub(d[3], self.mul(d[1], 4.0))
        c, e = self.sub(d[4], d[2]), self.mul(self.sub(d[3], d[1]), 2.0)
        first = self.add(self.sub(self.mul(d[0], 4.0), self.mul(d[2], 5.0)), d[4])
        last = self.add(self.sub(self.mul(d[1], 4.0), self.mul(d[3], 5.0)), d[5])
        return [first, self.add(a, b), self.sub(a, b), self.add(c, e), self.sub(c, e), last]


class _Products(Step):
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


class _Outputs(Step):
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
        sign = self._if_given("signs", at, value, lambda signs: signs)
        above = self.b.fcmp_ordered(">", sign, self.constant(0.0))
        value = self.b.select(above, value, self.mul(value, self.slope))
        for name, factor in (("added", 1.0), ("added_scaled", RESIDUAL)):
            sum_of = partial(lambda value, factor, more: self.add(value, self.mul(more, factor)), value, factor)
            value = self._if_given(name, at, value, sum_of)
        self.store(value, self.address(self.job, "target"), at)

    def _if_given(self, name: str, at: Any, value: Any, change: Callable[[Any], Any]) -> Any:
        """``value``, or what becomes of the number at that place of other planes, if the job names such."""
        before = self.b.block
        with self.b.if_then(self.b.icmp_signed("!=", self.field(self.job, name), self.number(0))):
            changed = change(self.load(self.address(self.job, name), at))
            there = self.b.block
        result = self.b.phi(self.vector(LANES))
        result.add_incoming(value, before)
        result.add_incoming(changed, there)
        return result

    def _transformed(self, m: Sequence[Any]) -> list[Any]:
        """A^T m."""
        s, d, t, u = self.add(m[1], m[2]), self.sub(m[1], m[2]), self.add(m[3], m[4]), self.sub(m[3], m[4])
        last = self.add(self.add(d, self.mul(u, 8.0)), m[5])
        return [self.add(self.add(m[0], s), t), self.add(d, self.mul(u, 2.0)), self.add(s, self.mul(t, 4.0)), last]
