"""The machine's limit: fused multiply-adds between vector registers and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.jit import kernel
from bptool.ops.matmul.ir_helpers import declare, integer, splat
from bptool.ops.matmul.target import UNIT, lanes_of
from bptool.training.workers import WorkerTeam

SUMS = UNIT.rows * UNIT.vectors
"""Independent sums: more than a processor's multiply-adds in flight, as many as a tile has."""
N_ROUNDS = 2_000_000


@intrinsic
def _fma_rounds(typing_context: Any, n_rounds: Any, start: Any) -> Any:
    """``n_rounds`` times SUMS multiply-adds, sum <- sum start + start; a lane of their total."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width = lanes_of(start.bitwidth // 8)
        vector = ir.VectorType(context.get_value_type(start), width)
        fma = declare(builder, f"llvm.fma.v{width}f{start.bitwidth}", vector, [vector] * 3)
        factor = splat(builder, args[1], vector, width)
        before = builder.block
        loop = builder.append_basic_block("peak.loop")
        after = builder.append_basic_block("peak.end")
        builder.branch(loop)
        builder.position_at_end(loop)
        n = builder.phi(ir.IntType(64))
        sums = [builder.phi(vector) for _ in range(SUMS)]
        new = [builder.call(fma, [value, factor, factor]) for value in sums]
        following = builder.add(n, integer(1))
        builder.cbranch(builder.icmp_signed("<", following, args[0]), loop, after)
        n.add_incoming(integer(0), before)
        n.add_incoming(following, loop)
        for phi, value in zip(sums, new, strict=True):
            phi.add_incoming(factor, before)
            phi.add_incoming(value, loop)
        builder.position_at_end(after)
        total = new[0]
        for value in new[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, integer(0, 32))

    return start(types.intp, start), codegen


@kernel
def fma_rounds(n_rounds, start):  # type: ignore[no-untyped-def]
    """Run the loop; what it returns only keeps it from being left out."""
    return _fma_rounds(n_rounds, start)


def fma_work(team: WorkerTeam, dtype: str = "float32") -> tuple[Callable[[], None], float]:
    """A function that keeps every worker busy with multiply-adds, and how many FLOPs that is."""
    scalar = np.dtype(dtype).type(0.5)
    fma_rounds(1, scalar)

    def run() -> None:
        team.run(lambda worker: fma_rounds(N_ROUNDS, scalar))

    return run, 2.0 * N_ROUNDS * SUMS * lanes_of(scalar.itemsize) * team.n
