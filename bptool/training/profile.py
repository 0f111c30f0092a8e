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
from typing import Any, Literal

from bptool.models.operation import ITEM_BYTES, Operation
from bptool.optim.norm import sum_of_squares
from bptool.training.machine import measure_bandwidths, measure_peak_flops
from bptool.training.setup import Pieces, new_batch
from bptool.training.timing import ROUNDS, time_calls


@dataclass(frozen=True)
class Line:
    """One operation of the step.

    Attributes:
        calls: of a worker in a step. seconds: of all those calls, the slowest worker's.
        flops, bytes: of all calls of all workers.
        limit_seconds: what the step's work would take at the machine's limit: its FLOPs over the
            peak of multiply-adds, or its bytes over the bandwidth of the cache that what one call
            meets fits into, whichever is more.
        bound: which of the two that is.
    """

    name: str
    calls: int
    seconds: float
    flops: float
    bytes: float
    limit_seconds: float
    bound: Literal["flops", "bytes"]

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
    peak_flops: float
    """Of multiply-adds between registers on all workers."""
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
    peak = measure_peak_flops(team.run)
    bandwidths = measure_bandwidths(team.run, team.n)
    shard = [shards.shard(worker, pieces.step.params) for worker in range(team.n)]
    n_micro = -(-sizes.batch_rows // sizes.micro_rows)
    lines = []

    def add(operation: Operation, calls: int, work: Callable[[int, int], Any]) -> None:
        done(operation.name)
        each = statistics.median(time_calls(team, operation.count, work))
        met = operation.bytes * shards.n_shards / team.n  # by a worker in a call
        flops, needed, n_bytes = (
            calls * shards.n_shards * x
            for x in (operation.flops, operation.done_flops, operation.bytes)
        )
        limits = (needed / peak, n_bytes / _bandwidth_of(bandwidths, met))
        bound: Literal["flops", "bytes"] = "flops" if limits[0] > limits[1] else "bytes"
        seconds = calls * each
        lines.append(Line(operation.name, calls, seconds, flops, n_bytes, max(limits), bound))

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


def _bandwidth_of(bandwidths: dict[int, float], n_bytes: float) -> float:
    """That of the largest measured working set within ``n_bytes``, or of the smallest: no more can
    lie nearer to a core than this."""
    within = [size for size in bandwidths if size <= n_bytes]
    return bandwidths[max(within, default=min(bandwidths))]
