"""What no step can beat: its matrix products alone, and multiply-adds alone; and reading memory."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.peak import fma_work
from benchmarks.products import StepProducts, engines_of
from benchmarks.protocol import Served
from benchmarks.workloads import WORKLOADS
from bptool.errors import ConfigError
from bptool.ops.jit import kernel
from bptool.ops.memory import aligned_zeros
from bptool.ops.team import share
from bptool.training.machine import ENGINES, choose_engine
from bptool.training.split import choose_split
from bptool.training.workers import WorkerTeam


def of_step(workload: str, threads: int) -> Served:
    """The products of a step on every engine that is here, and multiply-adds on all threads."""
    sizes = WORKLOADS[workload]
    gradient_bytes = sizes.model().layout.size * 4
    split = choose_split("auto", threads, sizes.batch_size, gradient_bytes)
    fma, flops = fma_work(WorkerTeam(threads))
    timed, left_out = {"fma": fma}, {}
    team = WorkerTeam(threads if split == "inside" else min(threads, sizes.batch_size))
    products = StepProducts(sizes, team, split)
    about = []
    for name in ENGINES:
        try:
            engine = choose_engine(name)
        except ConfigError as error:
            left_out[f"products, {name}"] = str(error).partition(": ")[2]
            continue
        timed[f"products, {name}"] = partial(products.run, engines_of(engine, team))
        about.append(f"{name}: {engine.version}")
    return Served("; ".join(about), timed, left_out, {"fma_flops": flops})


@kernel
def total(x):  # type: ignore[no-untyped-def]
    """Sum of a vector: reads it once."""
    found = x.dtype.type(0.0)
    for i in range(x.size):
        found += x[i]
    return found


def of_memory(threads: int, millions: float) -> Served:
    """Reading so many million float32 from memory once, by all threads."""
    values = aligned_zeros((int(millions * 1e6),), np.float32)
    values[:] = 1.0  # or the pages would all be one page of zeros
    team = WorkerTeam(threads)
    parts = [slice(*share(values.size, 16, member)) for member in team.members]

    def read() -> float:
        return sum(team.run(lambda worker: total(values[parts[worker]])))

    return Served(f"{threads} threads", {"read": read}, {}, {"bytes": values.nbytes})
