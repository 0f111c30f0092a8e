"""``python -m benchmarks.optimizers``: time of an update beside that of moving its bytes.

Every optimizer updates 30 million float32 weights on all cores. The bytes of an element-wise rule
are one reading of the gradient and one reading and writing of the weights and each slot; the
bandwidth is that of a copy (a reading and a writing), measured in turn. A ratio of at most 1 says
that the rule is one pass that waits for memory alone; it can be as low as 2/3, since a copy also
fetches the lines that it writes, and an update has read them. Rules of whole tensors get the
matrices of a small GPT-2 and report their time.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bptool.models.base import Array, FlatLayout, ParamSpec
from bptool.ops.jit import kernel
from bptool.optim.tensor_rule import TensorRule
from bptool.registry import optimizers
from bptool.training.machine import choose_engine, usable_cores
from bptool.training.update import WeightUpdate
from bptool.training.workers import WorkerTeam

WIDTH = 512
MATRIX_PARAMETERS = 12 * WIDTH * WIDTH
"""Of one layer of a GPT-2."""


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


def seconds(team: WorkerTeam, work: Callable[[int], Any]) -> float:
    """Wall time of ``work(worker)`` on the whole team."""
    start = time.perf_counter()
    team.run(work)
    return time.perf_counter() - start


def main(
    only: Annotated[str, typer.Option(help="Names, separated by commas; all by default.")] = "",
    millions: Annotated[float, typer.Option(help="Parameters in millions.")] = 30.0,
    repeats: Annotated[int, typer.Option(help="Updates that are timed.")] = 5,
) -> None:
    """Time every optimizer's update."""
    layout = layers(int(millions * 1e6))
    engine = choose_engine("auto")
    names = [name for name in only.split(",") if name] or optimizers.names()
    generator = np.random.default_rng(0)
    weights, gradient, target = (layout.allocate(np.float32) for _ in range(3))
    gradient[:] = generator.standard_normal(layout.size, np.float32)
    weights[:] = 0.02 * gradient[::-1]
    table = Table("optimizer", "slots", "ms an update", "bytes / weight", "time / copy's")
    n_cores = usable_cores()
    with WorkerTeam(n_cores) as team:
        cuts = [layout.size * i // n_cores // 16 * 16 for i in range(n_cores)] + [layout.size]
        parts = list(itertools.pairwise(cuts))

        def copies(worker: int) -> None:
            copy(target[slice(*parts[worker])], gradient[slice(*parts[worker])])

        team.run(copies)
        for name in names:
            rule = optimizers.get(name)(optimizers.get(name).Config())
            update = WeightUpdate(rule, layout, n_cores, engine)
            step = [0]

            def work(worker: int, update: WeightUpdate = update, step: list[int] = step) -> None:
                update(worker, parts[worker], weights, gradient, 1e-4, 1.0, step[0])

            taken, copied = [], []
            for turn in range(repeats + 2):
                step[0] += 1
                update.begin(1e-4, step[0])
                taken.append(seconds(team, work))
                copied.append(seconds(team, copies))
                if turn == 1:
                    taken, copied = [], []  # the first two compile
            bandwidth = 8 * layout.size / statistics.median(copied)
            n_bytes = sum(buffer.nbytes for buffer in update.state.buffers.values())
            cells = ["", ""]
            if not isinstance(rule, TensorRule):
                moved = 4 * (3 + 2 * len(rule.slots))
                ratio = statistics.median(taken) * bandwidth / (moved * layout.size)
                cells = [str(moved), f"{ratio:.2f}"]
            held = f"{n_bytes / (4 * layout.size):.2f}"
            table.add_row(name, held, f"{1e3 * statistics.median(taken):.1f}", *cells)
            del update
        console = Console()
        console.print(table)
        console.print(
            f"{layout.size / 1e6:.1f} M weights, {n_cores} cores, copy "
            f"{bandwidth / 1e9:.1f} GB/s, medians of {repeats}"
        )


if __name__ == "__main__":
    typer.run(main)
