"""Which engine multiplies fastest here: measured once for a machine, and remembered.

Every engine multiplies a few shapes of real layers, forward and backward, on all cores at once and
in turn. Ours is taken unless another is faster by ``MARGIN``, so that the choice does not hang on
noise. What was found is kept in the user's cache folder under a hash of the processor, the kernels
and the versions of the libraries; without it, it is measured again. A run never depends on this:
its manifest names the engine, and a resume takes that one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bptool.data.cache import cache_folder
from bptool.errors import DataError
from bptool.files import write_json
from bptool.ops.matmul import MatmulEngine, matmul
from bptool.ops.memory import aligned_zeros
from bptool.training.workers import WorkerTeam

FORMAT_VERSION = 1
LAYERS = ((384, 128, 512), (256, 384, 1536), (256, 768, 2304))
"""(rows, inputs, outputs) of maps in models of three widths."""
TURNS = 5
FOLDER = "engines"
"""Of the cache."""
MARGIN = 1.05
"""How much faster than the first engine another must be to be taken."""

Make = Callable[[npt.DTypeLike], MatmulEngine]


class Choice(NamedTuple):
    """The engine to take, and what it was taken for, in words."""

    name: str
    why: str


def fastest(
    load: Callable[[], Mapping[str, Make]], identity: Mapping[str, Any], n_workers: int
) -> Choice:
    """The engine to take, from memory or by measuring.

    Args:
        load: how to make each engine, by name, the preferred one first; asked for only to measure.
        identity: all that the measurement depends on, as JSON values.
        n_workers: threads that multiply at once.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    seconds = _remembered(digest[:32])
    if seconds is None:
        seconds = measure(load(), n_workers)
        found = {"format_version": FORMAT_VERSION, "measured_on": identity, "seconds": seconds}
        with contextlib.suppress(OSError, DataError):  # then it is measured again the next time
            write_json(cache_folder(FOLDER) / f"{digest[:32]}.json", found)
    return decide(seconds)


def _remembered(key: str) -> dict[str, float] | None:
    """What was measured before; None where there is nothing, or nothing that can be read."""
    try:
        kept = json.loads((cache_folder(FOLDER) / f"{key}.json").read_text(encoding="utf-8"))
        if kept["format_version"] != FORMAT_VERSION:
            return None
        seconds = {str(name): float(value) for name, value in kept["seconds"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, DataError):
        return None
    return seconds if seconds and all(0 < t < math.inf for t in seconds.values()) else None


def decide(seconds: Mapping[str, float]) -> Choice:
    """The first engine, or the fastest where that is faster by ``MARGIN``."""
    first = next(iter(seconds))
    best = min(seconds, key=lambda name: seconds[name])
    taken = best if seconds[first] > MARGIN * seconds[best] else first
    if len(seconds) == 1:
        return Choice(taken, "the only one here")
    ratios = [f"{t / seconds[taken]:.2f} times {n}'s" for n, t in seconds.items() if n != taken]
    return Choice(taken, f"its speed here is {', '.join(ratios)}")


def measure(engines: Mapping[str, Make], n_workers: int) -> dict[str, float]:
    """Seconds of the products of ``LAYERS`` for each engine, the best of some turns."""
    with WorkerTeam(n_workers) as team:
        work = {name: _products(make, team.n) for name, make in engines.items()}
        best = dict.fromkeys(work, math.inf)
        for _, name in itertools.product(range(TURNS + 1), work):  # the first compiles
            start = time.perf_counter()
            team.run(work[name])
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _products(make: Make, n_workers: int) -> Callable[[int], None]:
    """y = x W^T, dx = dy W and dW = dy^T x of every layer, by one worker on arrays of its own."""
    engines = [make(np.float32) for _ in range(n_workers)]
    arrays = [
        [
            [aligned_zeros(shape, np.float32) for shape in ((n, i), (o, i), (n, o))]
            for n, i, o in LAYERS
        ]
        for _ in range(n_workers)
    ]

    def run(worker: int) -> None:
        engine = engines[worker]
        for x, w, y in arrays[worker]:
            matmul(engine, y, x, False, w, True, False)
            matmul(engine, x, y, False, w, False, False)
            matmul(engine, w, y, True, x, False, True)

    return run
