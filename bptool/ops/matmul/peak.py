"""Multiply-adds between registers alone: what no product of matrices can be faster than.

As many sums as a tile of ``tile.py`` has, each of which waits for itself only, so that the units
for fused multiply-adds are never idle, and memory is not touched. Without such an instruction a
multiplication and an addition stand in its place.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.jit import kernel
from bptool.ops.matmul.ir_helpers import declare, integer, splat
from bptool.ops.matmul.target import ROWS, VECTORS, has_fma, lanes_of

SUMS = ROWS * VECTORS
UNROLLED = 4
"""Multiply-adds of each sum in a turn of the loop."""


def flops_of(n_turns: int, itemsize: int) -> int:
    """Floating-point operations of :func:`multiply_adds`."""
    return 2 * SUMS * UNROLLED * lanes_of(itemsize) * n_turns


@intrinsic
def _multiply_adds(typing_context: Any, n_turns: Any, factor: Any, term: Any) -> Any:
    width = lanes_of(factor.bitwidth // 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(factor), width)
        a, b = (splat(builder, value, vector, width) for value in args[1:])
        # different starts, or the compiler would see that all sums are one
        starts = [
            ir.Constant(vector, [ir.Constant(vector.element, float(i))] * width)
            for i in range(SUMS)
        ]
        name = f"llvm.fma.v{width}f{factor.bitwidth}"
        fma = declare(builder, name, vector, [vector] * 3) if has_fma() else None
        before = builder.block
        loop, after = (builder.append_basic_block(block) for block in ("turn", "after"))
        builder.branch(loop)
        builder.position_at_end(loop)
        turn = builder.phi(ir.IntType(64))
        sums = [builder.phi(vector) for _ in range(SUMS)]
        values: list[Any] = list(sums)
        for _ in range(UNROLLED):
            values = [
                builder.call(fma, [value, a, b]) if fma else builder.fadd(builder.fmul(value, a), b)
                for value in values
            ]
        following = builder.add(turn, integer(1))
        builder.cbranch(builder.icmp_signed("<", following, args[0]), loop, after)
        for phi, start, last in zip(
            (turn, *sums), (integer(0), *starts), (following, *values), strict=True
        ):
            phi.add_incoming(start, before)
            phi.add_incoming(last, loop)
        builder.position_at_end(after)
        total = values[0]
        for value in values[1:]:
            total = builder.fadd(total, value)
        result = builder.extract_element(total, integer(0, 32))
        for lane in range(1, width):
            result = builder.fadd(result, builder.extract_element(total, integer(lane, 32)))
        return result

    return factor(types.int64, factor, term), codegen


@kernel
def multiply_adds(n_turns, factor, term):  # type: ignore[no-untyped-def]
    """``n_turns`` (at least 1) times UNROLLED multiply-adds x <- x factor + term of every lane of
    SUMS vectors, which start at 0, 1, 2, ...; returns the sum of all lanes."""
    return _multiply_adds(n_turns, factor, term)
