"""Timing of work that all workers do at once.

``busy_clock`` counts a thread's own time in its core, so that other programs that take turns on the
core are left out; where it ticks too slowly (Windows) it is the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bptool.training.workers import WorkerTeam

ROUNDS = 7
SECONDS_A_ROUND = 0.01
Clock = Callable[[], float]
_TICK_SECONDS = 1e-6

_ticks_fast = time.get_clock_info("thread_time").resolution <= _TICK_SECONDS
busy_clock: Clock = time.thread_time if _ticks_fast else time.perf_counter


def time_calls(
    team: WorkerTeam,
    count: int,
    work: Callable[[int, int], Any],
    n_rounds: int = ROUNDS,
    seconds_a_round: float = SECONDS_A_ROUND,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Seconds of one call ``work(worker, i)``, made for ``i`` from 0 to ``count`` - 1 on all
    workers at once, in each of several rounds after one that warms up; the slowest worker's."""

    def seconds(passes: int) -> float:
        def run(worker: int) -> float:
            start = clock()
            for _ in range(passes):
                for i in range(count):
                    work(worker, i)
            return clock() - start

        return max(team.run(run)) / passes

    seconds(1)  # compiles, or loads from the cache
    passes = max(1, round(seconds_a_round / max(seconds(1), 1e-7)))
    return [seconds(passes) / count for _ in range(n_rounds)]
