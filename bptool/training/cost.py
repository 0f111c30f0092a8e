"""What a step and a run of any size take, told from what small models took on this machine.

A step is the sum of its kernels, each as often as the layers and micro-batches make it run. Each
operation says how many FLOPs, bytes and elements a call of it has
(:mod:`bptool.models.operation`), and a kernel's time is a sum of so much for each of them, with
rates of its own: packing, reading and the ends of tiles go with the bytes, so that small products
come out less efficient. The passes over the flat buffers (clearing, adding, norm, update) have a
time for each element that depends on how much there is, since that decides from which cache or
memory it comes. What the sum leaves out (caches that other kernels have emptied, barriers, waking
the workers) is a factor and a constant, from whole steps of the same small models.

Nothing here measures or allocates: see :mod:`bptool.training.calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from bptool.models.base import FlatLayout, Model
from bptool.models.operation import Operation, forward_of
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.optim.base import Optimizer
from bptool.optim.tensor_rule import TensorRule
from bptool.training.split import Split
from bptool.training.update import info_of, share_out


class Work(NamedTuple):
    """What one call of a kernel gives one worker to do."""

    flops: float
    bytes: float
    elements: float


def work_of(operation: Operation, n_members: int) -> Work:
    """Of a call that so many workers share."""
    amounts = (operation.done_flops, operation.bytes, operation.elements)
    return Work(*(amount / n_members for amount in amounts))


@dataclass(frozen=True)
class KernelRate:
    """Seconds of a kernel, all workers at it.

    ``per_call`` is what a call takes whatever its size. Most of it is going through Python, which a
    step does not, so predictions leave it out.
    """

    per_flop: float
    per_byte: float
    per_element: float
    per_call: float = 0.0

    def seconds(self, work: Work) -> float:
        """Of one call in a step."""
        return (
            self.per_flop * work.flops
            + self.per_byte * work.bytes
            + self.per_element * work.elements
        )


def fit_kernel(samples: Sequence[tuple[Work, float]]) -> KernelRate:
    """The rates, none below zero, that come nearest to measured seconds of calls; least squares of
    the relative errors."""
    return KernelRate(*fit([([*work, 1.0], seconds) for work, seconds in samples]))


def fit(samples: Sequence[tuple[Sequence[float], float]]) -> list[float]:
    """Rates r >= 0 of amounts a for which the sums a . r come nearest to the measured seconds."""
    relative = np.array([[amount / seconds for amount in amounts] for amounts, seconds in samples])
    scale = np.maximum(relative.max(axis=0), 1e-300)
    rates, _ = nnls(relative / scale, np.ones(len(samples)))
    return [float(rate) for rate in rates / scale]


@dataclass(frozen=True)
class PassRate:
    """Seconds an element of a pass over flat buffers by all workers at once.

    ``samples`` are pairs of a worker's elements and all workers' seconds for one, smallest first.
    """

    samples: tuple[tuple[float, float], ...]

    def seconds(self, n_elements: float, n_workers: int) -> float:
        """Of a pass over so many elements, each worker over its part; between measured sizes the
        time of an element changes with the logarithm of the size, beyond them not at all."""
        sizes, times = zip(*self.samples, strict=True)
        position = math.log(max(n_elements / n_workers, 1.0))
        return n_elements * float(np.interp(position, [math.log(size) for size in sizes], times))


@dataclass(frozen=True)
class TensorRuleRate:
    """Seconds of a whole-tensor rule's update: for each unit of its own ``cost``, and for each
    weight, of the worker that has most to do."""

    per_cost: float
    per_weight: float


UpdateRate = PassRate | TensorRuleRate


@dataclass(frozen=True)
class Overhead:
    """What a whole step takes beside the sum of its kernels."""

    factor: float
    """Of the kernels."""
    seconds: float
    """Once a step."""


@dataclass(frozen=True)
class Rates:
    """What was measured on a machine for one kind of model, engine and number of workers."""

    kernels: Mapping[str, KernelRate]
    clear: PassRate
    add: PassRate
    norm: PassRate
    overheads: Mapping[str, Overhead]
    """By split."""
    token_seconds: float
    """Of writing a token, whatever the model."""
    token_weight_seconds: float
    """For each weight, in writing a token."""
    checkpoint_seconds: float
    checkpoint_byte_seconds: float

    def with_overheads(self, overheads: Mapping[str, Overhead]) -> Rates:
        return replace(self, overheads=overheads)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rates:
        """From what :meth:`to_json` gave; raises KeyError, TypeError or ValueError for others."""
        kernels = {name: KernelRate(**rate) for name, rate in values["kernels"].items()}
        overheads = {name: Overhead(**item) for name, item in values["overheads"].items()}
        passes = {name: pass_from_json(values[name]) for name in ("clear", "add", "norm")}
        return cls(**{**values, "kernels": kernels, "overheads": overheads, **passes})


def pass_from_json(values: Mapping[str, Any]) -> PassRate:
    return PassRate(tuple((float(size), float(time)) for size, time in values["samples"]))


@dataclass(frozen=True)
class StepLayout:
    """How a step is cut: what :class:`bptool.training.setup.Sizes` says of it."""

    batch_rows: int
    micro_rows: int
    n_workers: int
    split: Split
    n_time: int
    terms: LogitTerms = NO_TERMS

    @property
    def n_shards(self) -> int:
        return 1 if self.split == "inside" else self.n_workers

    @property
    def rows_each(self) -> int:
        """Sequences of a shard."""
        return -(-self.micro_rows // self.n_shards)

    @property
    def n_micro(self) -> int:
        return -(-self.batch_rows // self.micro_rows)


def kernel_seconds(
    rates: Rates, operations: Iterable[Operation], layout: StepLayout, n_passes: int
) -> dict[str, float]:
    """Seconds of each operation, all calls of ``n_passes`` micro-batches.

    Raises:
        KeyError: a kernel that was not measured.
    """
    n_members = layout.n_workers // layout.n_shards
    factor = rates.overheads[layout.split].factor
    return {
        o.name: factor * n_passes * o.count * rates.kernels[o.kernel].seconds(work_of(o, n_members))
        for o in operations
    }


def step_seconds(
    rates: Rates,
    update: UpdateRate,
    model: Model,
    optimizer: Optimizer,
    layout: StepLayout,
) -> dict[str, float]:
    """Seconds of each part of a step without regularizers; the step takes their sum."""
    operations = model.operations(layout.rows_each, layout.n_time, layout.terms)
    parts = kernel_seconds(rates, operations, layout, layout.n_micro)
    size, n, n_shards = model.layout.size, layout.n_workers, layout.n_shards
    cleared = model.layout.spans_without(model.stored)
    n_cleared = n_shards * sum(span.stop - span.start for span in cleared)
    parts["gradients to zero"] = rates.clear.seconds(n_cleared, n)
    if n_shards > 1:
        parts["gradients added"] = rates.add.seconds((n_shards - 1) * size, n)
    parts["gradient norm"] = rates.norm.seconds(size, n)
    parts["optimizer"] = update_seconds(update, optimizer, model.layout, n)
    parts["workers"] = rates.overheads[layout.split].seconds
    return parts


def update_seconds(
    rate: UpdateRate, optimizer: Optimizer, layout: FlatLayout, n_workers: int
) -> float:
    """Of one update of all weights."""
    if isinstance(rate, PassRate):
        return rate.seconds(layout.size, n_workers)
    assert isinstance(optimizer, TensorRule)
    return max(
        rate.per_cost * cost + rate.per_weight * size
        for cost, size in tensor_loads(optimizer, layout, n_workers)
    )


def tensor_loads(rule: TensorRule, layout: FlatLayout, n_workers: int) -> list[tuple[float, float]]:
    """Each worker's cost, in the rule's unit, and weights."""
    return [
        (sum(rule.cost(info_of(p)) for p in own), float(sum(p.stop - p.start for p in own)))
        for own in share_out(rule, layout, n_workers)
    ]


def evaluation_seconds(rates: Rates, model: Model, layout: StepLayout, n_windows: int) -> float:
    """Of one evaluation over so many sequences: the forward alone."""
    operations = forward_of(model.operations(layout.rows_each, layout.n_time))
    n_passes = -(-n_windows // layout.micro_rows)
    once = rates.overheads[layout.split].seconds
    return sum(kernel_seconds(rates, operations, layout, n_passes).values()) + once


def sample_seconds(rates: Rates, model: Model, n_tokens: int) -> float:
    """Of writing one sample: each token reads every weight, at the least at the speed at which
    that much memory is read."""
    from_memory = rates.norm.samples[-1][1]
    each = max(rates.token_weight_seconds, from_memory if model.layout.size > 2**23 else 0.0)
    return n_tokens * (rates.token_seconds + each * model.n_parameters)


def checkpoint_seconds(rates: Rates, n_bytes: float) -> float:
    """Of writing a checkpoint of so many bytes."""
    return rates.checkpoint_seconds + rates.checkpoint_byte_seconds * n_bytes
