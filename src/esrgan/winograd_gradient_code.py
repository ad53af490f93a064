"""The gradient of a convolution's weights by Winograd's transforms, in LLVM's language.

What a convolution read and the gradient of its results are transformed and multiplied number by number, and the sum
over all squares is transformed back: a quarter of the products here too. ``winograd_job`` has the formula.
"""

from collections.abc import Sequence
from typing import Any

from esrgan.winograd_job import LANES, OUTPUTS, POINTS, SQUARE, GradientJob
from esrgan.winograd_steps import Inputs, Run, Step, step_type


def add_gradients(module: Any, together: int) -> None:
    """Write the function ``GradientJob``, which ``winograd_kernel.Code`` describes, into a module of LLVM's.

    Args:
        module: ``llvmlite.ir.Module``.
        together: Input channels multiplied at once; ``LANES`` is a multiple of it.
    """
    kind = step_type()
    steps = {
        "sources": _Sources(module, kind, "sources").emit(False),
        "gradients": _Gradients(module, kind, "gradients").emit(),
        "sums": _Sums(module, kind, "sums").emit(together),
    }
    _Run(module).emit(steps)


class _Run(Run):
    kind = GradientJob


class _Sources(Inputs):
    """Squares of 6 x 6 pixels of the sources -> ``points``, (36, plane, square, 8)."""

    kind = GradientJob

    def place(self, channel: Any, square: Any) -> Any:
        return self.sum(self.b.mul(channel, self.field(self.job, "block")), self.times(square, LANES))

    def stride(self) -> Any:
        return self.b.mul(self.inputs, self.field(self.job, "block"))


class _Gradients(Step):
    """Squares of 4 x 4 pixels of the gradient -> ``products``, (36, outputs / 16, square, 16)."""

    kind = GradientJob

    def emit(self) -> Any:
        start = self.number(0)
        for which in ("first", "second"):
            base, channels = (self.field(self.job, f"gradient_{which}{end}") for end in ("", "_channels"))
            base = self.b.inttoptr(base, self.f32.as_pointer())
            with self.loop(self.number(0), channels, LANES) as channel:
                self._plane(base, channel, self.sum(start, channel))
            start = self.sum(start, channels)
        return self.done()

    def _plane(self, base: Any, channel: Any, output: Any) -> None:
        plane = self.b.mul(self.b.udiv(channel, self.number(LANES)), self.field(self.job, "gradient_plane"))
        row, block = self.field(self.job, "gradient_row"), self.field(self.job, "block")
        within = self.b.urem(output, self.number(OUTPUTS))
        place, stride = self.sum(self.b.mul(self.b.sub(output, within), block), within), self.b.mul(self.outputs, block)
        with self.loop(self.number(0), self.count) as square:
            corner = self.sum(plane, self.entry(self.job, "gradient_places", self.sum(self.first, square)))
            rows = [self.sum(corner, self.b.mul(row, self.number(y))) for y in range(SQUARE)]
            pixels = [[self.load(base, self.sum(r, self.number(x * LANES))) for r in rows] for x in range(SQUARE)]
            columns = [self._transformed(column) for column in pixels]
            at = self.sum(place, self.times(square, OUTPUTS))
            for y in range(6):
                for x, value in enumerate(self._transformed([column[y] for column in columns])):
                    self.store(value, self.products, self.sum(at, self.b.mul(stride, self.number(6 * y + x))))

    def _transformed(self, d: Sequence[Any]) -> list[Any]:
        """A d."""
        even, odd = self.add(d[0], d[2]), self.add(d[1], d[3])
        far, farther = self.add(d[0], self.mul(d[2], 4.0)), self.mul(self.add(d[1], self.mul(d[3], 4.0)), 2.0)
        sums = [self.add(even, odd), self.sub(even, odd), self.add(far, farther), self.sub(far, farther)]
        return [d[0], *sums, d[3]]


class _Sums(Step):
    """``points`` times ``products``, summed over the squares -> the sums of this share."""

    kind = GradientJob

    def emit(self, together: int) -> Any:
        share, block = self.field(self.job, "share"), self.field(self.job, "block")
        size = self.b.mul(self.times(self.inputs, POINTS), self.outputs)
        base = self.b.gep(self.address(self.job, "sums"), [self.b.mul(self.b.udiv(self.first, share), size)])
        begun = self.b.icmp_signed("!=", self.b.urem(self.first, share), self.number(0))
        with (
            self.loop(self.number(0), self.number(POINTS)) as point,
            self.loop(self.number(0), self.outputs, OUTPUTS) as output,
        ):
            needed = self.entry(self.job, "needed", self.b.udiv(output, self.number(OUTPUTS)))
            row = self.sum(self.b.mul(point, self.outputs), output)  # of the gradient, and of the sums
            with self.loop(self.number(0), needed, together) as channel:
                within = self.b.urem(channel, self.number(LANES))
                plane = self.sum(self.b.mul(point, self.inputs), self.b.sub(channel, within))
                source = self.sum(self.b.mul(plane, block), within)
                totals = self._totals(source, self.b.mul(row, block), together)
                to = self.sum(self.b.mul(row, self.inputs), self.times(channel, OUTPUTS))
                for i, total in enumerate(totals):
                    at = self.sum(to, self.number(i * OUTPUTS))
                    more = self.add(total, self.load(base, at, OUTPUTS))
                    self.store(self.b.select(begun, more, total), base, at)
        return self.done()

    def _totals(self, source: Any, gradient: Any, together: int) -> list[Any]:
        """Sums over the squares, of some input channels and ``OUTPUTS`` output channels, in registers."""
        before, body, after = self.b.block, *(self.function.append_basic_block() for _ in range(2))
        self.b.branch(body)
        self.b.position_at_end(body)
        square = self.b.phi(self.i64)
        square.add_incoming(self.number(0), before)
        sums = [self.b.phi(self.vector(OUTPUTS)) for _ in range(together)]
        some = self.load(self.products, self.sum(gradient, self.times(square, OUTPUTS)), OUTPUTS)
        at = self.sum(source, self.times(square, LANES))
        values = [self.splat(self.points, self.sum(at, self.number(i)), OUTPUTS) for i in range(together)]
        following = self.sum(square, self.number(1))
        square.add_incoming(following, body)
        totals = [self.add(self.mul(value, some), total) for value, total in zip(values, sums, strict=True)]
        for phi, total in zip(sums, totals, strict=True):
            phi.add_incoming(self.constant(0.0, OUTPUTS), before)
            phi.add_incoming(total, body)
        self.b.cbranch(self.b.icmp_signed("<", following, self.count), body, after)
        self.b.position_at_end(after)
        return totals
