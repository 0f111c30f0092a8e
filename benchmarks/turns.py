"""Taking turns: what is compared runs A B C A B C, so that a change of the machine meets all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

SETTLE_SECONDS = 0.02
"""Before a turn, so that threads of the last one that still spin have gone to sleep."""


def in_turn(
    turns: Mapping[K, Callable[[], float]], n_turns: int, settle_seconds: float = SETTLE_SECONDS
) -> dict[K, list[float]]:
    """So many samples of each, one from each in every round."""
    found: dict[K, list[float]] = {name: [] for name in turns}
    for _ in range(n_turns):
        for name, sample in turns.items():
            time.sleep(settle_seconds)
            found[name].append(sample())
    return found


def median_of(run: Callable[[int], list[float]], seconds_a_turn: float) -> Callable[[], float]:
    """A turn: as many calls as take some ``seconds_a_turn``, by one call made now; their median.

    ``run(n)`` gives the seconds of each of ``n`` calls.
    """
    times = max(1, round(seconds_a_turn / max(run(1)[0], 1e-9)))
    return lambda: statistics.median(run(times))


def timed(function: Callable[[], object]) -> Callable[[int], list[float]]:
    """``run`` of :func:`median_of` for a function of this process."""

    def run(times: int) -> list[float]:
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run
