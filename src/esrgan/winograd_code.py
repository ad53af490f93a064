"""Winograd's convolutions in LLVM's language, which becomes machine code for the CPU that is here."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from esrgan.winograd_job import LANES, OUTPUTS, POINTS, RESIDUAL, SQUARE
from esrgan.winograd_steps import Inputs, Run, Step, step_type


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


class _Convolutions(Run):
    def block(self, steps: dict[str, Any], block: Sequence[Any]) -> None:
        with self.b.if_else(self.b.icmp_signed("!=", self.field(block[0], "twice"), self.number(0))) as (yes, no):
            for branch, name in ((yes, "twice"), (no, "plain")):
                with branch:
                    self.b.call(steps[name], block)
        for name in ("products", "outputs"):
            self.b.call(steps[name], block)


class _Products(Step):
    """``points`` times the weights, summed over channels -> ``products``, (square, plane, 36, 8)."""

    def emit(self, together: int) -> Any:
        weights = self.address(self.job, "weights")
        with (
            self.loop(self.number(0), self.number(POINTS)) as point,
            self.loop(self.number(0), self.outputs, OUTPUTS) as output,
            self.loop(self.number(0), self.count, together) as square,
        ):
            some = [self.sum(square, self.number(i)) for i in range(together)]
            at = self.b.mul(self.sum(self.b.mul(point, self.outputs), output), self.inputs)
            sums = self._sums(weights, at, [self._of(each, self.inputs, point) for each in some])
            for each, total in zip(some, sums, strict=True):
                place = self.sum(self._of(each, self.outputs, point), self.times(output, POINTS))
                for half in (0, 1):
                    to = self.sum(place, self.number(half * LANES * POINTS))
                    self.store(self.half(total, half), self.products, to)
        return self.done()

    def _of(self, square: Any, channels: Any, point: Any) -> Any:
        return self.sum(self.b.mul(square, self.times(channels, POINTS)), self.times(point, LANES))

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
            offset = self.sum(self.times(channel, POINTS), self.number(lane))
            values = [self.splat(self.points, self.sum(row, offset), OUTPUTS) for row in rows]
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
                at = self.sum(self.times(channel, POINTS), self.b.mul(square, self.times(self.outputs, POINTS)))
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
