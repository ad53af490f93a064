"""What the machine code of all Winograd's jobs is made of, in LLVM's language.

Features lie in planes of 8 channels, each picture in a frame of zeros (``winograd.Features``). A square of results is
4 x 4 pixels; ``winograd_job`` has the formula.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from esrgan.extras import import_extra
from esrgan.llvm_emitter import Emitter
from esrgan.winograd_job import LANES, POINTS, AnyJob, Job

_PLAIN, _TWICE = (0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 2, 3)  # where a square's pixels lie in its source, enlarged or not


def step_type() -> Any:
    """LLVM's type of a step: ``(job, points, products, first, count)``."""
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
        jobs, count, threads, points, products, taken, arrived, give_way = self.function.args
        with self.loop(self.number(0), count) as i:
            job = self.b.gep(jobs, [self.times(i, len(self.kind._fields))])
            size = self.field(job, "block")
            with self._shares(job, self.b.gep(taken, [i])) as (start, stop), self.loop(start, stop, size) as square:
                left = self.b.sub(stop, square)
                some = self.b.select(self.b.icmp_signed("<", left, size), left, size)
                self.block(steps, (job, points, products, square, some))
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


class Step(JobEmitter):
    """A function of one step, for ``count`` squares from ``first`` on."""

    def __init__(self, module: Any, kind: Any, name: str) -> None:
        super().__init__(import_extra("llvmlite.ir", "winograd").Function(module, kind, name))
        self.function.linkage = "internal"
        self.job, self.points, self.products, self.first, self.count = self.function.args
        self.inputs = self.sum(self.field(self.job, "first_channels"), self.field(self.job, "second_channels"))
        self.outputs = self.field(self.job, "outputs")

    def done(self) -> Any:
        self.b.ret_void()
        return self.function


class Inputs(Step):
    """Squares of 6 x 6 pixels of the source -> ``points``, (square, plane, 36, 8)."""

    def place(self, channel: Any, square: Any) -> Any:
        """Where in ``points`` the first numbers of a plane of a square go."""
        return self.sum(self.times(channel, POINTS), self.b.mul(square, self.times(self.inputs, POINTS)))

    def stride(self) -> Any:
        """From there to the next point's."""
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
                    self.store(value, self.points, self.sum(at, self.b.mul(stride, self.number(6 * y + x))))

    def _transformed(self, d: Sequence[Any]) -> list[Any]:
        """B^T d."""
        a, b = self.sub(d[4], self.mul(d[2], 4.0)), self.sub(d[3], self.mul(d[1], 4.0))
        c, e = self.sub(d[4], d[2]), self.mul(self.sub(d[3], d[1]), 2.0)
        first = self.add(self.sub(self.mul(d[0], 4.0), self.mul(d[2], 5.0)), d[4])
        last = self.add(self.sub(self.mul(d[1], 4.0), self.mul(d[3], 5.0)), d[5])
        return [first, self.add(a, b), self.sub(a, b), self.add(c, e), self.sub(c, e), last]
