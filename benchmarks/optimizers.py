"""``python -m benchmarks optimizers``: time of an update beside that of moving its bytes.

Every optimizer updates some million float32 weights on all cores. The bytes of an element-wise rule
are one reading of the gradient and one reading and writing of the weights and each slot; the speed
of memory is that of a copy (a reading and a writing), measured in turn. A share of 100 % says that
the rule is one pass that waits for memory alone; it can be as high as 150 %, since a copy also
fetches the lines that it writes, and an update has read them. Rules of whole tensors get the
matrices of a small GPT-2 and report their time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.results import Result, Series
from benchmarks.turns import in_turn, median_of, timed
from bptool.models.base import Array, FlatLayout, ParamSpec
from bptool.ops.jit import kernel
from bptool.optim.tensor_rule import TensorRule
from bptool.registry import optimizers
from bptool.training.machine import choose_engine
from bptool.training.update import WeightUpdate
from bptool.training.workers import WorkerTeam

WIDTH = 512
MATRIX_PARAMETERS = 12 * WIDTH * WIDTH
"""Of one layer of a GPT-2."""
SECONDS_A_TURN = 0.1


@kernel
def copy(out: Array, x: Array) -> None:
    """out <- x, both ``(n,)``."""
    for i in range(x.shape[0]):
        out[i] = x[i]


def layers(n_parameters: int) -> FlatLayout:
    """The matrices of so many layers as come to about this many parameters."""
    n, c = max(1, round(n_parameters / MATRIX_PARAMETERS)), WIDTH
    shapes = {"qkv": (3 * c, c), "proj": (c, c), "up": (4 * c, c), "down": (c, 4 * c)}
    return FlatLayout(
        tuple(ParamSpec(k, f"h.{{}}.{k}", (n, *s), 1.0, decay=True) for k, s in shapes.items())
    )


def spans(size: int, n: int) -> list[tuple[int, int]]:
    """Where each of ``n`` workers begins and stops, at multiples of a cache line."""
    cuts = [size * i // n // 16 * 16 for i in range(n)] + [size]
    return list(itertools.pairwise(cuts))


def update_of(
    rule: Any, layout: FlatLayout, team: WorkerTeam, weights: Array, gradient: Array
) -> tuple[Callable[[], None], int]:
    """A function that updates the weights once, and the bytes of the rule's state."""
    update = WeightUpdate(rule, layout, team.n, choose_engine("auto"))
    parts, step = spans(layout.size, team.n), 0

    def run() -> None:
        nonlocal step
        step += 1
        update.begin(1e-4, step)
        team.run(lambda w: update(w, parts[w], weights, gradient, 1e-4, 1.0, step))

    return run, sum(buffer.nbytes for buffer in update.state.buffers.values())


def measure(only: list[str], millions: float, n_turns: int, threads: int) -> list[Result]:
    """One result for each optimizer (of ``only``, if that names some)."""
    layout = layers(int(millions * 1e6))
    generator = np.random.default_rng(0)
    weights, gradient, target = (layout.allocate(np.float32) for _ in range(3))
    gradient[:] = generator.standard_normal(layout.size, np.float32)
    weights[:] = 0.02 * gradient[::-1]
    found = []
    with WorkerTeam(threads) as team:
        parts = [slice(*span) for span in spans(layout.size, team.n)]

        def copies() -> None:
            team.run(lambda worker: copy(target[parts[worker]], gradient[parts[worker]]))

        copies()
        for name in only or optimizers.names():
            rule = optimizers.get(name)(optimizers.get(name).Config())
            run, n_bytes = update_of(rule, layout, team, weights, gradient)
            run()
            run()  # rules with state that begins at the second step compile twice
            turns = {
                name: median_of(timed(run), SECONDS_A_TURN),
                "copy": median_of(timed(copies), SECONDS_A_TURN),
            }
            seconds = in_turn(turns, n_turns)
            speed = [8.0 * layout.size / taken for taken in seconds.pop("copy")]
            facts = {"state_bytes": float(n_bytes)}
            if not isinstance(rule, TensorRule):
                facts["bytes"] = 4.0 * (3 + 2 * len(rule.slots)) * layout.size
            title = f"{layout.size / 1e6:.1f} M weights, state of {n_bytes / 1e6:,.0f} MB"
            series = [Series(name, seconds[name])]
            found.append(
                Result("optimizers", name, title, "seconds", series, {"memory": speed}, facts)
            )
    return found
