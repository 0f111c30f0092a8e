"""The short measurement that predictions are made from: kernels and whole steps of small models.

It takes some seconds and at most some 200 MB. Every figure is the fastest of several rounds, in
time of the threads: other programs can only slow a round down, and what is wanted is what the
machine does when left alone.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bptool.models.base import FlatLayout, Model, ParamSpec, Reference
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.memory import aligned_zeros
from bptool.ops.reduction import add_into
from bptool.ops.team import LINE, share
from bptool.optim.adamw import AdamW
from bptool.optim.base import Optimizer
from bptool.optim.norm import sum_of_squares
from bptool.optim.tensor_rule import TensorRule
from bptool.regularizers.base import GradientModifier
from bptool.training.checkpoint import CheckpointStore
from bptool.training.cost import (
    Overhead,
    PassRate,
    Rates,
    StepLayout,
    TensorRuleRate,
    UpdateRate,
    Work,
    fit,
    fit_kernel,
    step_seconds,
    tensor_loads,
    work_of,
)
from bptool.training.machine import Engine
from bptool.training.split import Split
from bptool.training.step import Shards, TrainingStep
from bptool.training.timing import busy_clock, time_calls
from bptool.training.update import WeightUpdate
from bptool.training.workers import WorkerTeam

Say = Callable[[str], None]
N_ROUNDS, SECONDS_A_ROUND = 4, 0.002
MIN_STEPS, STEPS_SECONDS = 3, 0.05
"""Whole steps of a reference: at least so many, and for so long."""
IDLE_SECONDS = 2e-4
"""Most that the workers of a step wait for each other if no other program holds one up."""
PASS_ELEMENTS = (2**12, 2**15, 2**18, 2**22)
"""Of a worker's part of a flat buffer: in the first, second and third cache, and in memory."""
PASS_BYTES = 2**28
"""Most that the buffers of all workers take."""
TENSOR_RULE_WIDTHS = (32, 96, 192)
TENSOR_RULE_UPDATES = 10
"""Timed together, since a rule may do more in some of them."""
N_TOKENS = 24
CHECKPOINT_ELEMENTS = (2**8, 2**22)


def measure_rates(
    kind: type[Model], engine: Engine, n_workers: int, update: UpdateRate, say: Say
) -> Rates:
    """Measure what predictions for models of ``kind`` need.

    Args:
        engine, n_workers: of the runs to predict. update: of AdamW.
        say: told what is measured next.
    """
    samples: dict[str, list[tuple[Work, float]]] = {}
    wholes: list[tuple[Reference, StepLayout, float]] = []
    with WorkerTeam(n_workers) as team:
        say("passes over memory")
        passes = _measure_passes(team)
        for reference in kind.references():
            model = reference.model
            say(f"kernels of a {kind.name} with {model.n_parameters:,} parameters")
            splits: tuple[Split, ...] = ("batch", "inside") if reference.whole else ("batch",)
            for split in splits[: 1 if n_workers == 1 else 2]:
                rows = reference.n_sequences * n_workers
                layout = StepLayout(rows, rows, n_workers, split, model.context)
                step = training_step(model, engine, team, layout)
                if reference.whole:
                    wholes.append((reference, layout, time_steps(step, layout)))
                if split == "batch":
                    _time_kernels(step, reference, samples)
        say("writing tokens")
        token_seconds, token_weight_seconds = _measure_decoding(kind, team)
    say("writing checkpoints")
    checkpoint = _measure_checkpoints()
    rates = Rates(
        {name: fit_kernel(found) for name, found in samples.items()},
        **passes,
        overheads=dict.fromkeys(("batch", "inside"), Overhead(1.0, 0.0)),
        token_seconds=token_seconds,
        token_weight_seconds=token_weight_seconds,
        checkpoint_seconds=checkpoint[0],
        checkpoint_byte_seconds=checkpoint[1],
    )
    return rates.with_overheads(_overheads(rates, update, wholes))


def training_step(
    model: Model, engine: Engine, team: WorkerTeam, layout: StepLayout
) -> TrainingStep:
    shards = Shards(model, team, engine, layout.micro_rows, layout.n_time, split=layout.split)
    step = TrainingStep(shards, AdamW(AdamW.Config()))
    model.initialise(step.weights, seed=0)
    step.compile()
    return step


def time_steps(step: TrainingStep, layout: StepLayout) -> float:
    """Seconds of a whole step, the fastest; more than ``IDLE_SECONDS`` beside the workers' own time
    are taken for other programs'."""
    generator = np.random.default_rng(0)
    shape = (layout.batch_rows, layout.n_time)
    tokens, targets = generator.integers(0, step.model.n_vocab, (2, *shape)).astype(np.int32)
    times: list[float] = []
    busy: list[float] = []
    while len(times) < MIN_STEPS or sum(times) < STEPS_SECONDS:
        start, start_busy = time.perf_counter(), time.process_time()
        step(tokens, targets, tokens.size, 1e-4, 0, len(times) + 1)
        times.append(time.perf_counter() - start)
        busy.append((time.process_time() - start_busy) / layout.n_workers)
    if busy_clock is time.perf_counter:
        return min(times)
    return min(*times, min(busy) + IDLE_SECONDS)


def _time_kernels(
    step: TrainingStep, reference: Reference, samples: dict[str, list[tuple[Work, float]]]
) -> None:
    """Time each operation, but one that has been timed with the same work."""
    team, model = step.shards.team, reference.model
    shards = [step.shards.shard(worker, step.params) for worker in range(team.n)]
    plain, with_terms = (
        model.operations(reference.n_sequences, model.context, terms)
        for terms in (NO_TERMS, LogitTerms(label_smoothing=0.1, z_loss=1e-4))
    )
    for operation in (*plain, *with_terms):
        known, work = samples.setdefault(operation.kernel, []), work_of(operation, 1)
        if any(work == other for other, _ in known):
            continue

        def run(worker: int, i: int, run: Any = operation.run) -> None:
            run(shards[worker], i)

        times = time_calls(team, operation.count, run, N_ROUNDS, SECONDS_A_ROUND, busy_clock)
        known.append((work, min(times)))


def _overheads(
    rates: Rates, update: UpdateRate, wholes: list[tuple[Reference, StepLayout, float]]
) -> dict[str, Overhead]:
    """What brings the sums of the kernels to the measured steps, for each split."""
    rows: dict[str, list[tuple[list[float], float]]] = {}
    for reference, layout, measured in wholes:
        model = reference.model
        parts = step_seconds(rates, update, model, AdamW(AdamW.Config()), layout)
        kernels = sum(parts[o.name] for o in model.operations(layout.rows_each, layout.n_time))
        others = sum(parts.values()) - kernels
        rows.setdefault(layout.split, []).append(([kernels, 1.0], max(measured - others, 1e-9)))
    found = {split: Overhead(*fit(samples)) for split, samples in rows.items()}
    return {split: found.get(split, found["batch"]) for split in ("batch", "inside")}


def _pass_sizes(n_workers: int, n_arrays: int) -> list[int]:
    """The sizes of a worker's part for which all buffers together stay small."""
    most = PASS_BYTES // (4 * n_workers * n_arrays)
    return [n for n in PASS_ELEMENTS if n <= max(most, PASS_ELEMENTS[0])]


def _measure_passes(team: WorkerTeam) -> dict[str, PassRate]:
    found: dict[str, list[tuple[float, float]]] = {"clear": [], "add": [], "norm": []}
    for size in _pass_sizes(team.n, 2):
        arrays = [[aligned_zeros((size,), np.float32) for _ in range(2)] for _ in range(team.n)]
        for a, b in arrays:
            a[:], b[:] = 1.0, 0.0

        def clear(worker: int, i: int, arrays: Any = arrays) -> None:
            arrays[worker][1][:] = 0

        def add(worker: int, i: int, arrays: Any = arrays) -> None:
            add_into(arrays[worker][0], arrays[worker][1])

        def norm(worker: int, i: int, arrays: Any = arrays) -> None:
            sum_of_squares(arrays[worker][0])

        for name, work in (("clear", clear), ("add", add), ("norm", norm)):
            seconds = min(time_calls(team, 1, work, N_ROUNDS, SECONDS_A_ROUND, busy_clock))
            found[name].append((size, seconds / (size * team.n)))
    return {name: PassRate(tuple(samples)) for name, samples in found.items()}


def measure_modifier(rule: GradientModifier, n_workers: int) -> PassRate:
    """Measure a change of the gradient."""
    samples = []
    with WorkerTeam(n_workers) as team:
        for size in _pass_sizes(n_workers, 1):
            arrays = [aligned_zeros((size,), np.float32) for _ in range(n_workers)]

            def work(worker: int, i: int, arrays: Any = arrays) -> None:
                rule.modify(arrays[worker], first=worker * arrays[worker].size, seed=0, step=1)

            times = time_calls(team, 1, work, N_ROUNDS, SECONDS_A_ROUND, busy_clock)
            samples.append((float(size), min(times) / (size * n_workers)))
    return PassRate(tuple(samples))


def measure_update(optimizer: Optimizer, engine: Engine, n_workers: int) -> UpdateRate:
    """Measure the updates of a rule."""
    with WorkerTeam(n_workers) as team:
        if isinstance(optimizer, TensorRule):
            return _measure_tensor_rule(optimizer, engine, team)
        samples = []
        for size in _pass_sizes(n_workers, 2 + len(optimizer.slots)):
            spec = ParamSpec("w", "w", (size * n_workers,), 0.0, decay=True)
            seconds = _time_updates(optimizer, FlatLayout((spec,)), engine, team, N_ROUNDS)
            samples.append((float(size), min(seconds) / (size * n_workers)))
    return PassRate(tuple(samples))


def _measure_tensor_rule(rule: TensorRule, engine: Engine, team: WorkerTeam) -> TensorRuleRate:
    samples = []
    for c in TENSOR_RULE_WIDTHS:
        shapes = {"qkv": (3 * c, c), "proj": (c, c), "up": (4 * c, c), "down": (c, 4 * c)}
        specs = [
            ParamSpec(k, f"h.{{}}.{k}", (team.n, *s), 0.0, decay=True) for k, s in shapes.items()
        ]
        specs.append(ParamSpec("table", "table", (256, c), 0.0, decay=True, table=True))
        layout = FlatLayout(tuple(specs))
        times = _time_updates(rule, layout, engine, team, TENSOR_RULE_UPDATES)
        load = max(tensor_loads(rule, layout, team.n))
        samples.append((list(load), sum(times) / len(times)))
    return TensorRuleRate(*fit(samples))


def _time_updates(
    optimizer: Optimizer, layout: FlatLayout, engine: Engine, team: WorkerTeam, n: int
) -> list[float]:
    """Seconds of ``n`` updates after two that compile; small weights and gradients."""
    weights, gradient = (layout.allocate(np.float32) for _ in range(2))
    numbers = 0.01 * np.random.default_rng(0).standard_normal(2**12, np.float32)
    for array in (weights, gradient):
        array[:] = np.resize(numbers, layout.size)
    update = WeightUpdate(optimizer, layout, team.n, engine)

    def work(worker: int, step: int) -> float:
        first, stop = share(layout.size, LINE, team.members[worker])
        start = busy_clock()
        update(worker, (int(first), int(stop)), weights, gradient, 1e-4, 1.0, step)
        return busy_clock() - start

    times = []
    for step in range(1, n + 3):
        update.begin(1e-4, step)
        times.append(max(team.run(functools.partial(work, step=step))))
    return times[2:]


def _measure_decoding(kind: type[Model], team: WorkerTeam) -> tuple[float, float]:
    """Seconds of a token, whatever the model, and for each weight of it."""
    by_size = sorted((r.model for r in kind.references()), key=lambda model: model.n_parameters)
    points = []
    for model in (by_size[0], by_size[-1]):
        weights = model.layout.allocate(np.float32)
        decoder = model.decoder(model.params(weights), 1, team)
        decoder.add(1)
        token, times = [np.zeros(1, np.int32)], []
        for _ in range(N_TOKENS):
            if decoder.room(0) < 1:
                decoder.restart(0)
            start = time.perf_counter()
            decoder.append(token)
            times.append(time.perf_counter() - start)
        points.append((model.n_parameters, min(times[1:])))
    (small, short), (large, long) = points
    each = max(0.0, (long - short) / (large - small))
    return max(0.0, short - each * small), each


def _measure_checkpoints() -> tuple[float, float]:
    """Seconds of a checkpoint, whatever its size, and for each byte of it."""
    with tempfile.TemporaryDirectory(prefix="bptool-") as folder:
        store = CheckpointStore(Path(folder))
        points = []
        for step, size in enumerate(CHECKPOINT_ELEMENTS):
            tensors = {"w": np.zeros(size, np.float32)}
            times = []
            for turn in range(3):
                start = time.perf_counter()
                store.save(tensors, {}, {"step": 10 * step + turn})
                times.append(time.perf_counter() - start)
            points.append((4 * size, min(times)))
    (small, short), (large, long) = points
    each = max(0.0, (long - short) / (large - small))
    return short, each
