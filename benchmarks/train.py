"""``python -m benchmarks train``: who trains faster here, and how near to the machine's limits.

Each peer is a process of its own with the same number of threads. They run in turn (A B C A B C),
so that a change of the machine's speed meets all, and ratios are taken turn by turn. Before a
workload is timed, all peers must agree on the loss of the same weights and batch, and again after a
few steps of the optimizer. Beside them, in the same turns: the step's matrix products alone on
every engine, and multiply-adds alone.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.protocol import CannotRun, Contender
from benchmarks.results import Result, Series
from benchmarks.turns import in_turn, median_of
from benchmarks.workloads import WORKLOADS

PEERS = ("pytorch", "pytorch-compile", "jax")
SECONDS_A_TURN = 1.0
LOSS_TOLERANCE = 1e-4
WARM_STEPS = 3
WARM_TOLERANCE = 1e-3
"""For the loss after ``WARM_STEPS`` updates, in which rounding has grown."""


@contextlib.contextmanager
def training(
    workload: str, peers: Sequence[str], threads: int
) -> Iterator[tuple[list[Contender], dict[str, str]]]:
    """bptool and the peers that run here, warm and in agreement; and why others do not.

    Raises:
        SystemExit: two of them do not train the same model.
    """
    running: list[Contender] = []
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        settings = {
            "workload": workload,
            "threads": threads,
            "weights": str(Path(folder) / "weights.safetensors"),
        }
        for name in ("bptool", *peers):
            try:
                peer = Contender(name, settings)
            except CannotRun as error:
                left_out[name] = str(error)
                continue
            stack.callback(peer.close)
            running.append(peer)
        agree(workload, running, 1, LOSS_TOLERANCE)
        agree(workload, running, WARM_STEPS, WARM_TOLERANCE)
        yield running, left_out


def agree(workload: str, running: Sequence[Contender], steps: int, tolerance: float) -> None:
    """Let each train so many steps, and compare the loss of the last.

    Raises:
        SystemExit: one is further from bptool's than ``tolerance``.
    """
    losses: dict[str, Any] = {}
    for peer in running:
        peer.run("train", steps)
        losses[peer.name] = peer.value
    for name, loss in losses.items():
        if not abs(loss - losses["bptool"]) <= tolerance:
            raise SystemExit(
                f"benchmark: on {workload} {name} has a loss of {loss}, "
                f"bptool of {losses['bptool']}: not the same model"
            )


def measure(
    workload: str, peers: Sequence[str], n_turns: int, threads: int, limits: bool = True
) -> Result:
    """Time one workload."""
    sizes = WORKLOADS[workload]
    with training(workload, peers, threads) as (running, left_out), contextlib.ExitStack() as stack:
        turns = {
            peer.name: median_of(partial(peer.run, "train"), SECONDS_A_TURN) for peer in running
        }
        about = {peer.name: peer.about for peer in running}
        flops = 0.0
        if limits:
            contender = Contender("limits", {"workload": workload, "threads": threads})
            stack.callback(contender.close)
            left_out |= contender.left_out
            flops = contender.facts["fma_flops"]
            for name in contender.timed:
                contender.run(name)
                turns[name] = median_of(partial(contender.run, name), SECONDS_A_TURN / 2)
                about[name] = ""
            about["products, tiled"] = contender.about
        found = in_turn(turns, n_turns)
    fma = [flops / seconds for seconds in found.pop("fma", [])]
    names = {peer.name for peer in running}
    return Result(
        benchmark="train",
        case=workload,
        title=sizes.about,
        unit="seconds",
        series=[
            Series(name, samples, about[name], "peer" if name in names else "limit")
            for name, samples in found.items()
        ],
        rates={"fma": fma} if fma else {},
        facts={"tokens": sizes.tokens, "flops": sizes.flops},
        left_out=left_out,
    )
