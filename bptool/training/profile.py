"""Where a step's time goes: each kernel timed alone, beside the whole step.

A shard's step is one compiled call, so its parts are run alone: on the step's own arrays, on all
workers at once, warm, through the layers in turn. What the step does beside its kernels (starting
the workers, waiting for the slowest, taking the batch) and what the parts gain or lose by running
alone (caches, and a few microseconds a call for going through Python) is the difference between
their sum and the whole step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bptool.models.operation import ITEM_BYTES, Operation
from bptool.ops.memory import aligned_zeros
from bptool.ops.reduction import add_into
from bptool.optim.norm import sum_of_squares
from bptool.training.machine import measure_peak_flops
from bptool.training.setup import Pieces, new_batch
from bptool.training.workers import WorkerTeam

ROUNDS = 7
"""Timed after one that warms up; the median counts."""
SECONDS_A_ROUND = 0.01
WORKING_SETS = tuple(2**power for power in (15, 18, 21, 24, 27))
"""Bytes a worker streams through when the bandwidth is measured: first cache to main memory."""


@dataclass(frozen=True)
class Line:
    """One operation of the step.

    Attributes:
        calls: of a worker in a step. seconds: of all those calls, the slowest worker's.
        flops, bytes: of all calls of all workers.
        limit_seconds: what the step's work would take at the machine's limit: FLOPs over the
            measured peak of products, or bytes over the bandwidth of the working set.
    """

    name: str
    calls: int
    seconds: float
    flops: float
    bytes: float
    limit_seconds: float

    @property
    def share_of_limit(self) -> float:
        return self.limit_seconds / self.seconds


@dataclass(frozen=True)
class Profile:
    """The time budget of a step."""

    lines: list[Line]
    step_seconds: float
    """Median of whole steps."""
    n_workers: int
    engine: str
    matmul_peak_flops: float
    bandwidths: dict[int, float]
    """Bytes a second over all workers, by the bytes that each streams through."""

    @property
    def sum_seconds(self) -> float:
        return sum(line.seconds for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        lines = [
            {
                **vars(line),
                "share_of_limit": line.share_of_limit,
                "share_of_step": line.seconds / self.step_seconds,
            }
            for line in self.lines
        ]
        return {
            **vars(self),
            "lines": lines,
            "sum_seconds": self.sum_seconds,
            "difference_seconds": self.step_seconds - self.sum_seconds,
        }


def profile(pieces: Pieces, done: Callable[[str], None] = lambda name: None) -> Profile:
    """Time the step of ``pieces`` and its operations; the weights are trained meanwhile.

    ``done`` is told the name of what is measured next.
    """
    done("whole step")
    step_seconds = _time_step(pieces)
    done("limits")
    team, sizes, shards = pieces.team, pieces.sizes, pieces.step.shards
    peak = measure_peak_flops(pieces.engine, team.run)
    bandwidths = {n: measure_bandwidth(team, n) for n in WORKING_SETS}
    shard = [shards.shard(worker, pieces.step.params) for worker in range(team.n)]
    n_micro = -(-sizes.batch_rows // sizes.micro_rows)
    lines = []

    def add(operation: Operation, calls: int, work: Callable[[int, int], Any]) -> None:
        done(operation.name)
        each = time_calls(team, operation.count, work)
        one_pass = operation.bytes * operation.count * shards.n_shards
        bandwidth = _bandwidth_of(bandwidths, one_pass / team.n)
        flops, n_bytes = (calls * shards.n_shards * x for x in (operation.flops, operation.bytes))
        limit = flops / peak if flops else n_bytes / bandwidth
        lines.append(Line(operation.name, calls, calls * each, flops, n_bytes, limit))

    for operation in pieces.model.operations(shards.rows_each, sizes.n_time, shards.terms):

        def run(worker: int, i: int, run: Any = operation.run) -> None:
            run(shard[worker], i)

        add(operation, operation.count * n_micro, run)
    for operation, work in _step_operations(pieces):
        add(operation, operation.count, work)
    return Profile(lines, step_seconds, team.n, pieces.engine.name, peak, bandwidths)


def _time_step(pieces: Pieces) -> float:
    """Median seconds of the whole step, the first of which compiles."""
    tokens, targets = new_batch(pieces)
    n_targets = pieces.batches.fill(0, tokens, targets)
    pieces.step.compile()
    times = []
    for step in range(ROUNDS + 1):
        start = time.perf_counter()
        pieces.step(tokens, targets, n_targets, pieces.learning_rate(1), 0, step)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _step_operations(pieces: Pieces) -> list[tuple[Operation, Callable[[int, int], Any]]]:
    """What a step does to its flat buffers, each worker over its own part; the bytes are those for
    one shard."""
    step, n_shards = pieces.step, pieces.step.shards.n_shards
    size = step.model.layout.size
    n_slots = sum(buffer.size for buffer in step.slots.values()) / size
    part_bytes = ITEM_BYTES * size / n_shards
    gradients = step.shards.gradients
    n_cleared = sum(span.stop - span.start for span in step.shards.cleared)

    def norm(worker: int, i: int) -> None:
        start, stop = step.shards.span(worker)
        sum_of_squares(gradients[0][start:stop])

    def update(worker: int, i: int) -> None:
        rate, number = pieces.learning_rate(1), max(1, step.n_updates)
        part = step.shards.span(worker)
        step.update(worker, part, step.weights, gradients[0], rate, 1e-6, number)

    regularization = step.regularization

    def penalties(worker: int, i: int) -> None:
        regularization.penalize(step.weights, gradients[0], *step.shards.span(worker))

    def units(worker: int, i: int) -> None:
        regularization.clip_units(worker, gradients[0], step.weights)

    def elements(worker: int, i: int) -> None:
        regularization.change_range(worker, gradients[0], 1.0, 0, 1)

    def constraints(worker: int, i: int) -> None:
        regularization.constrain_rows(worker, step.weights)

    def average(worker: int, i: int) -> None:
        assert step.averaging
        step.averaging.take(step.weights, *step.shards.span(worker))

    def operation(name: str, n_bytes: float) -> Operation:
        return Operation(name, 1, 0.0, n_bytes, lambda shard, i: None)

    found: list[tuple[Operation, Callable[[int, int], Any]]] = [
        (operation("gradients to zero", ITEM_BYTES * n_cleared), lambda w, i: step.shards.clear(w))
    ]
    if n_shards > 1:
        n_bytes = 3 * (n_shards - 1) * part_bytes
        found.append((operation("gradients added", n_bytes), lambda w, i: step.shards.reduce(w)))
    if regularization.penalties:
        found.append((operation("penalties on weights", 3 * part_bytes), penalties))
    found.append((operation("gradient norm", part_bytes), norm))
    if regularization.clipping.adaptive is not None:
        found.append((operation("clipping of units", 3 * part_bytes), units))
    if regularization.changes_elements:
        found.append((operation("changes of the gradient", 2 * part_bytes), elements))
    found.append((operation("optimizer", (3 + 2 * n_slots) * part_bytes), update))
    if regularization.constrains:
        found.append((operation("constraints", 2 * part_bytes), constraints))
    if step.averaging and step.averaging.each_update:
        found.append((operation("average of the weights", 3 * part_bytes), average))
    return found


def time_calls(team: WorkerTeam, count: int, work: Callable[[int, int], Any]) -> float:
    """Median seconds of one call ``work(worker, i)``, made for ``i`` from 0 to ``count`` - 1 on
    all workers at once; the slowest worker's."""

    def seconds(passes: int) -> float:
        def run(worker: int) -> float:
            start = time.perf_counter()
            for _ in range(passes):
                for i in range(count):
                    work(worker, i)
            return time.perf_counter() - start

        return max(team.run(run)) / passes

    seconds(1)  # compiles, or loads from the cache
    passes = max(1, round(SECONDS_A_ROUND / max(seconds(1), 1e-7)))
    return statistics.median(seconds(passes) for _ in range(ROUNDS)) / count


def measure_bandwidth(team: WorkerTeam, n_bytes: int) -> float:
    """Bytes a second that all workers together read and write while each adds one half of
    ``n_bytes`` into the other; what is added to is counted twice."""
    halves = [[aligned_zeros((n_bytes // 2 // ITEM_BYTES,), np.float32)] for _ in range(team.n)]
    for pair in halves:
        pair.append(np.ones_like(pair[0]))
    each = time_calls(team, 1, lambda worker, i: add_into(*halves[worker]))
    return team.n * 1.5 * n_bytes / each


def _bandwidth_of(bandwidths: dict[int, float], n_bytes: float) -> float:
    """That of the smallest measured working set that holds ``n_bytes``, or of the largest."""
    fitting = [size for size in bandwidths if size >= n_bytes]
    return bandwidths[min(fitting, default=max(bandwidths))]
