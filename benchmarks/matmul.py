"""``python -m benchmarks matmul``: each product of the workloads, ours beside every BLAS.

Each product is timed in turn on every engine, in CPU time of the thread, so that other work on the
machine disturbs it least. With several threads each multiplies on arrays of its own at the same
time, and the mean counts. The peak is measured so too: multiply-adds between registers alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import Result, Series
from benchmarks.turns import in_turn
from benchmarks.workloads import WORKLOADS, Workload
from bptool.ops.jit import kernel
from bptool.ops.matmul import matmul
from bptool.ops.matmul.peak import flops_of, multiply_adds
from bptool.ops.memory import aligned_zeros
from bptool.training.machine import ENGINES, choose_engine, engine_of_run
from bptool.training.workers import WorkerTeam

SECONDS_A_TURN = 0.004
PEAK_TURNS = 50_000


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


def operands(product: Product, dtype: str) -> tuple[Any, Any, Any]:
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
    """The same product so many times."""
    for _ in range(n_times):
        matmul(engine, out, a, transpose_a, b, transpose_b, accumulate)


def cpu_seconds(team: WorkerTeam, work: Callable[[int], Any]) -> float:
    """Mean CPU time of ``work(worker)``, which all workers do at once."""

    def run(worker: int) -> float:
        start = time.thread_time()
        work(worker)
        return time.thread_time() - start

    return statistics.mean(team.run(run))


def engines_here() -> list[str]:
    """Names of the engines that can be used, ours first."""
    return [name for name in ENGINES if engine_of_run("auto", name) == name]


def measure_product(
    product: Product, team: WorkerTeam, dtype: str, n_turns: int
) -> dict[str, list[float]]:
    """Seconds of a product by engine, taken in turn."""
    arrays = [operands(product, dtype) for _ in range(team.n)]
    turns = {}
    for name in engines_here():
        engines = [choose_engine(name).make(dtype) for _ in range(team.n)]

        def work(worker: int, n_times: int, engines: Any = engines) -> None:
            out, a, b = arrays[worker]
            flags = (product.transpose_a, b, product.transpose_b, product.accumulate)
            repeat(engines[worker], out, a, *flags, n_times)

        cpu_seconds(team, partial(work, n_times=1))
        once = cpu_seconds(team, partial(work, n_times=1))
        n_times = max(1, round(SECONDS_A_TURN / max(once, 1e-7)))

        def sample(work: Any = work, n_times: int = n_times) -> float:
            return cpu_seconds(team, partial(work, n_times=n_times)) / n_times

        turns[name] = sample
    return in_turn(turns, n_turns, settle_seconds=0.0)


def peak_flops(team: WorkerTeam, dtype: str) -> float:
    """FLOPs a second of one thread's multiply-adds while all are busy with them."""
    real = np.dtype(dtype).type
    factor, term = real(0.5), real(1.0)
    seconds = cpu_seconds(team, lambda worker: multiply_adds(PEAK_TURNS, factor, term))
    return flops_of(PEAK_TURNS, factor.itemsize) / seconds


def measure(
    workload: str, threads: int, workers: int, dtype: str, only: list[str], n_turns: int
) -> list[Result]:
    """One result for each product whose name has one of ``only`` in it (all, if there are none).

    Args:
        threads: how many multiply at once. workers: a product has this share of a batch's rows.
    """
    sizes = WORKLOADS[workload]
    found = []
    with WorkerTeam(threads) as team:
        peak_flops(team, dtype)
        for product in products(sizes, sizes.tokens // workers):
            if only and not any(part in product.name for part in only):
                continue
            peaks = [peak_flops(team, dtype) for _ in range(n_turns)]
            seconds = measure_product(product, team, dtype, n_turns)
            found.append(
                Result(
                    benchmark="matmul",
                    case=f"{workload}, {product.name}",
                    title=f"{product.m} x {product.k} x {product.n}, {dtype}, {threads} threads",
                    unit="seconds",
                    series=[Series(name, samples) for name, samples in seconds.items()],
                    rates={"fma": peaks},
                    facts={"flops": 2.0 * product.m * product.k * product.n},
                )
            )
    return found
