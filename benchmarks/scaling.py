"""``python -m benchmarks scaling``: how much faster a step is with more threads.

Each peer runs as two processes, one with one thread and one with all, in turn with each other and
with multiply-adds alone, which show what the machine itself gains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from benchmarks.protocol import Contender
from benchmarks.results import Result, Series
from benchmarks.train import SECONDS_A_TURN, training
from benchmarks.turns import in_turn, median_of
from benchmarks.workloads import WORKLOADS


def measure(workload: str, peers: Sequence[str], n_turns: int, threads: int) -> list[Result]:
    """One result for each peer: its seconds with ``threads`` threads, and with one."""
    turns, about, flops = {}, {}, {}
    with contextlib.ExitStack() as stack:
        for n in (threads, 1):
            running, left_out = stack.enter_context(training(workload, peers, n))
            for peer in running:
                turns[peer.name, n] = median_of(partial(peer.run, "train"), SECONDS_A_TURN)
                about[peer.name, n] = peer.about
            limits = Contender("limits", {"workload": "tiny", "threads": n})
            stack.callback(limits.close)
            turns["multiply-adds", n] = median_of(partial(limits.run, "fma"), SECONDS_A_TURN)
            flops[n] = limits.facts["fma_flops"]
        found = in_turn(turns, n_turns)
    # each thread did as many multiply-adds: take the seconds for equally many in all
    factor = flops[threads] / flops[1]
    found["multiply-adds", 1] = [factor * seconds for seconds in found["multiply-adds", 1]]
    sizes = WORKLOADS[workload]
    return [
        Result(
            benchmark="scaling",
            case=f"{workload}, {name}",
            title=sizes.about if name != "multiply-adds" else "what the machine gains",
            unit="seconds",
            series=[
                Series(f"{n} thread{'s' * (n > 1)}", found[name, n], about.get((name, n), ""))
                for n in (threads, 1)
            ],
            left_out=left_out,
        )
        for name in dict.fromkeys(name for name, _ in found)
    ]
