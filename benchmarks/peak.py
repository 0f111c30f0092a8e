"""The machine's limit: multiply-adds between vector registers and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bptool.ops.matmul.peak import flops_of, multiply_adds
from bptool.training.workers import WorkerTeam

N_TURNS = 500_000


def fma_work(team: WorkerTeam, dtype: str = "float32") -> tuple[Callable[[], None], float]:
    """A function that keeps every worker busy with multiply-adds, and how many FLOPs that is."""
    real = np.dtype(dtype).type
    factor, term = real(0.5), real(1.0)
    multiply_adds(1, factor, term)

    def run() -> None:
        team.run(lambda worker: multiply_adds(N_TURNS, factor, term))

    return run, float(flops_of(N_TURNS, factor.itemsize)) * team.n
