"""``python -m benchmarks.matmul``: the products of the workloads, ours beside a BLAS, one thread.

Each product is timed in turn on every engine, in CPU time of the thread, so that other work on the
machine disturbs it least; the table gives medians. The peak is measured too: fused multiply-adds
between registers and nothing else.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from rich.console import Console
from rich.table import Table

from benchmarks.workloads import WORKLOADS, Workload
from bptool.ops.jit import kernel
from bptool.ops.matmul import MatmulEngine, blas_engine, matmul, tiled_engine
from bptool.ops.matmul.blas import gemm_routine
from bptool.ops.matmul.ir_helpers import declare
from bptool.ops.matmul.target import UNIT, lanes_of
from bptool.ops.memory import aligned_zeros

PEAK_SUMS = UNIT.rows * UNIT.vectors
SECONDS_A_TURN = 0.004


class Product(NamedTuple):
    """op(a) op(b) of one operation; the names are those of ``bptool.ops.linear``."""

    name: str
    m: int
    k: int
    n: int
    transpose_a: bool
    transpose_b: bool
    accumulate: bool
    strided: str = ""
    """Those of ``a``, ``b`` and ``out`` whose rows are parts of wider rows."""


def products(workload: Workload, rows: int) -> list[Product]:
    """Forward, input gradient and weight gradient of each layer, then attention, per head."""
    c, v = workload.n_embd, workload.vocab_size
    found = []
    for name, n_in, n_out in (
        *(("qkv", c, 3 * c), ("proj", c, c), ("up", c, 4 * c), ("down", 4 * c, c)),
        ("head", c, v),
    ):
        found += [
            Product(f"{name}  y = x W^T", rows, n_in, n_out, False, True, False),
            Product(f"{name}  dx = dy W", rows, n_out, n_in, False, False, False),
            Product(f"{name}  dW += dy^T x", n_out, rows, n_in, True, False, True),
        ]
    t, d = workload.context, c // workload.n_head
    return [
        *found,
        Product("attention  q k^T", t, d, t, False, True, False, "a b"),
        Product("attention  P v", t, t, d, False, False, False, "b out"),
        Product("attention  P^T dy", t, t, d, True, False, False, "b out"),
    ]


def operands(product: Product, dtype: Any) -> tuple[Any, Any, Any]:
    """out, a and b for a product."""
    rng = np.random.default_rng(0)

    def matrix(name: str, n_rows: int, n_columns: int) -> Any:
        spare = 11 * n_columns if name in product.strided.split() else 0
        whole = aligned_zeros((n_rows, n_columns + spare), dtype)
        whole[:] = rng.standard_normal(whole.shape, dtype=np.float32)
        return whole[:, :n_columns]

    m, k, n = product.m, product.k, product.n
    a = matrix("a", *((k, m) if product.transpose_a else (m, k)))
    b = matrix("b", *((n, k) if product.transpose_b else (k, n)))
    return matrix("out", m, n), a, b


@kernel
def repeat(engine, out, a, transpose_a, b, transpose_b, accumulate, n_times):  # type: ignore[no-untyped-def]
    for _ in range(n_times):
        matmul(engine, out, a, transpose_a, b, transpose_b, accumulate)


@intrinsic
def _fma_rounds(typing_context: Any, n_rounds: Any, start: Any) -> Any:
    """``n_rounds`` times PEAK_SUMS independent fused multiply-adds; returns a lane of their sum."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(start)
        width = lanes_of(start.bitwidth // 8)
        vector = ir.VectorType(element, width)
        fma = declare(builder, f"llvm.fma.v{width}f{start.bitwidth}", vector, [vector] * 3)
        integer = ir.IntType(64)
        undefined = ir.Constant(vector, ir.Undefined)
        lane = ir.Constant(ir.IntType(32), 0)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [lane] * width)
        factor = builder.shuffle_vector(
            builder.insert_element(undefined, args[1], lane), undefined, mask
        )
        before = builder.block
        loop = builder.append_basic_block("peak.loop")
        after = builder.append_basic_block("peak.end")
        builder.branch(loop)
        builder.position_at_end(loop)
        n = builder.phi(integer)
        sums = [builder.phi(vector) for _ in range(PEAK_SUMS)]
        new = [builder.call(fma, [value, factor, factor]) for value in sums]
        following = builder.add(n, ir.Constant(integer, 1))
        builder.cbranch(builder.icmp_signed("<", following, args[0]), loop, after)
        n.add_incoming(ir.Constant(integer, 0), before)
        n.add_incoming(following, loop)
        for phi, value in zip(sums, new, strict=True):
            phi.add_incoming(factor, before)
            phi.add_incoming(value, loop)
        builder.position_at_end(after)
        total = new[0]
        for value in new[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, lane)

    return start(types.intp, start), codegen


@kernel
def fma_rounds(n_rounds, start):  # type: ignore[no-untyped-def]
    return _fma_rounds(n_rounds, start)


def peak_flops(dtype: Any) -> float:
    """Operations a second of fused multiply-adds alone, the best of several turns."""
    scalar = np.dtype(dtype).type(0.5)
    fma_rounds(10, scalar)
    n_rounds, best = 200_000, 0.0
    for _ in range(20):
        start = time.thread_time()
        fma_rounds(n_rounds, scalar)
        seconds = time.thread_time() - start
        flops = 2 * n_rounds * PEAK_SUMS * lanes_of(scalar.itemsize)
        best = max(best, flops / seconds)
    return best


def library_engine(path: Path, dtype: Any) -> MatmulEngine:
    """A shared library's ``sgemm_`` or ``dgemm_``, such as MKL's."""
    name, real = {4: ("sgemm_", types.float32), 8: ("dgemm_", types.float64)}[
        np.dtype(dtype).itemsize
    ]
    function = getattr(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), name)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    _kept.append(gemm_routine(real, address))
    return MatmulEngine(int(_kept[-1].address), aligned_zeros((1,), dtype))


_kept: list[Any] = []


def time_product(product: Product, engines: list[MatmulEngine], turns: int) -> list[float]:
    """Median seconds of a product for each engine, taken in turn."""
    dtype = engines[0].scratch.dtype
    out, a, b = operands(product, dtype)
    flags = (a, product.transpose_a, b, product.transpose_b, product.accumulate)
    repeat(engines[0], out, *flags, 1)
    start = time.thread_time()
    repeat(engines[0], out, *flags, 1)
    n_times = max(1, round(SECONDS_A_TURN / max(time.thread_time() - start, 1e-6)))
    found: list[list[float]] = [[] for _ in engines]
    for turn in range(turns + 1):
        for engine, seconds in zip(engines, found, strict=True):
            start = time.thread_time()
            repeat(engine, out, *flags, n_times)
            if turn:
                seconds.append((time.thread_time() - start) / n_times)
    return [statistics.median(seconds) for seconds in found]


def main(
    workloads: Annotated[str, typer.Option(help="Of A, A64, B, C, L.")] = "A,B,C",
    library: Annotated[
        list[Path] | None, typer.Option(help="Another BLAS, such as libmkl_rt.so.3.")
    ] = None,
    turns: Annotated[int, typer.Option(help="Turns of each engine.", min=1)] = 15,
    workers: Annotated[int, typer.Option(help="A product has this share of the rows.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    only: Annotated[str, typer.Option(help="Products with one of these in their name.")] = "",
) -> None:
    """Time each product of the workloads on one thread."""
    import threadpoolctl

    engines = {"ours": tiled_engine(dtype), "scipy BLAS": blas_engine(dtype)}
    for path in library or []:
        engines[path.name.partition(".")[0]] = library_engine(path, dtype)
    console = Console()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for name in workloads.split(","):
            peak = peak_flops(dtype)
            table = Table(title=f"{name}, GFLOP/s, {UNIT.name}, peak {peak / 1e9:.0f}")
            headings = ["product", "M x K x N", *engines, "of peak"]
            headings += [f"ours / {other}" for other in list(engines)[1:]]
            for heading in headings:
                table.add_column(heading, justify="left" if heading == "product" else "right")
            workload = WORKLOADS[name]
            for product in products(workload, workload.tokens // workers):
                if only and not any(part in product.name for part in only.split(",")):
                    continue
                seconds = time_product(product, list(engines.values()), turns)
                flops = 2.0 * product.m * product.k * product.n
                table.add_row(
                    *(product.name, f"{product.m} x {product.k} x {product.n}"),
                    *(f"{flops / one / 1e9:.1f}" for one in seconds),
                    f"{flops / seconds[0] / peak:.0%}",
                    *(f"{one / seconds[0]:.2f}" for one in seconds[1:]),
                )
            console.print(table)


if __name__ == "__main__":
    typer.run(main)
