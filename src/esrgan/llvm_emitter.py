"""Writing LLVM's language by llvmlite, for code on vectors of float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from esrgan.extras import import_extra

FAST = ("contract", "nsz", "reassoc")
"""What LLVM may do to sums: multiply and add in one, neglect the sign of zero, change the order."""


class Emitter:
    """Writes the instructions of a function of LLVM's; ``b`` is llvmlite's own builder.

    Args:
        function: ``llvmlite.ir.Function``, empty.
    """

    def __init__(self, function: Any) -> None:
        self.ir, self.function = import_extra("llvmlite.ir", "winograd"), function
        self.i64, self.f32 = self.ir.IntType(64), self.ir.FloatType()
        self.b = self.ir.IRBuilder(function.append_basic_block())

    def number(self, value: int) -> Any:
        """An int64."""
        return self.ir.Constant(self.i64, value)

    def times(self, value: Any, factor: int) -> Any:
        """The product of int64."""
        return self.b.mul(value, self.number(factor))

    def sum(self, *values: Any) -> Any:
        """The sum of int64."""
        total = values[0]
        for value in values[1:]:
            total = self.b.add(total, value)
        return total

    @contextmanager
    def loop(self, start: Any, stop: Any, step: Any = 1) -> Iterator[Any]:
        """What is written within is done for each int64 from ``start`` to before ``stop``."""
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
        """The type of so many float32."""
        return self.ir.VectorType(self.f32, lanes)

    def constant(self, value: float, lanes: int = 8) -> Any:
        """The same number in all lanes."""
        return self.ir.Constant(self.vector(lanes), [value] * lanes)

    def load(self, base: Any, offset: Any, lanes: int = 8) -> Any:
        """A vector, from ``offset`` numbers behind ``base`` on."""
        return self.b.load(self._at(base, offset, lanes), align=4)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """Write a vector."""
        self.b.store(value, self._at(base, offset, value.type.count), align=4)

    def _at(self, base: Any, offset: Any, lanes: int) -> Any:
        return self.b.bitcast(self.b.gep(base, [offset]), self.vector(lanes).as_pointer())

    def splat(self, base: Any, offset: Any, lanes: int) -> Any:
        """One number of memory in all lanes."""
        undefined, i32 = self.ir.Constant(self.vector(lanes), self.ir.Undefined), self.ir.IntType(32)
        one = self.b.insert_element(
            undefined, self.b.load(self.b.gep(base, [offset]), align=4), self.ir.Constant(i32, 0)
        )
        return self.b.shuffle_vector(one, undefined, self.ir.Constant(self.ir.VectorType(i32, lanes), [0] * lanes))

    def half(self, value: Any, which: int) -> Any:
        """The first (0) or second (1) 8 lanes of 16."""
        lanes = range(8 * which, 8 * which + 8)
        mask = self.ir.Constant(self.ir.VectorType(self.ir.IntType(32), 8), list(lanes))
        return self.b.shuffle_vector(value, value, mask)

    def add(self, x: Any, y: Any) -> Any:
        """The sum of vectors."""
        return self.b.fadd(x, y, flags=FAST)

    def sub(self, x: Any, y: Any) -> Any:
        """Their difference."""
        return self.b.fsub(x, y, flags=FAST)

    def mul(self, x: Any, factor: Any) -> Any:
        """The product with a number or, lane by lane, a vector."""
        return self.b.fmul(x, self.constant(factor) if isinstance(factor, float) else factor, flags=FAST)
