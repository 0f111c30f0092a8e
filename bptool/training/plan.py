"""What a run would take: parameters, memory, and time, predicted without building the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bptool.config.schema import RunConfig
from bptool.data.batches import count_windows
from bptool.data.corpus import Corpus
from bptool.models.base import FlatLayout
from bptool.ops.logit_terms import LogitTerms
from bptool.optim.averages.base import WeightAverage
from bptool.optim.base import Optimizer
from bptool.registry import regularizers
from bptool.regularizers.base import Constraint, GradientModifier, Penalty
from bptool.training import cost
from bptool.training.averaging import average_elements
from bptool.training.measurements import Measurements
from bptool.training.parts import build_average, build_model, build_optimizer
from bptool.training.setup import (
    PROGRAM_BYTES,
    Sizes,
)
from bptool.training.update import slot_sizes


@dataclass(frozen=True)
class Plan:
    """What a run takes. Seconds are those of a machine that does nothing else.

    Attributes:
        memory_bytes: at most; the sum of the parts that follow it.
        step_seconds: of each part of a step; ``seconds_per_step`` is their sum.
        run_seconds: of each part of the whole run; ``expected_seconds`` is their sum.
    """

    n_parameters: int
    vocab_size: int
    n_train_tokens: int
    tokens_per_step: int
    steps: int
    epochs: float
    memory_bytes: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    buffers_bytes: int
    program_bytes: int
    flops_per_token: float
    engine: str
    workers: int
    split: str
    seconds_per_step: float
    expected_seconds: float
    step_seconds: dict[str, float]
    run_seconds: dict[str, float]


def make_plan(config: RunConfig, corpus: Corpus, sizes: Sizes, known: Measurements) -> Plan:
    """Plan a run on a text that has been prepared, with the sizes that its step would have."""
    model = build_model(config, corpus.tokenizer.vocab_size)
    optimizer, training = build_optimizer(config), config.training
    rates, small = known.rates(type(model)), known.small_run(type(model))
    layout = cost.StepLayout(
        *(sizes.batch_rows, sizes.micro_rows, sizes.n_workers, sizes.split, sizes.n_time),
        LogitTerms(training.label_smoothing, training.z_loss),
    )
    step = cost.step_seconds(rates, known.update(optimizer), model, optimizer, layout)
    step |= _other_passes(config, model.layout, known, rates, sizes.n_workers)
    each = math.fsum(step.values())

    intervals = (training.eval_interval, training.checkpoint_interval)
    n_checkpoints = count_checkpoints(training.steps, *intervals)
    average = build_average(config)
    n_evaluated = 2 if average else 1  # kinds of weights
    n_evaluations = math.ceil(training.steps / training.eval_interval)
    n_tokens = min(corpus.n_validation, (training.eval_tokens or corpus.n_validation) + 1)
    n_windows = count_windows(n_tokens, sizes.n_time)
    run = {
        "start": small.start_seconds,
        "steps": training.steps * each,
        "evaluations": n_evaluations
        * n_evaluated
        * cost.evaluation_seconds(rates, model, layout, n_windows),
        "samples": n_evaluations * cost.sample_seconds(rates, model, config.sample.max_tokens),
        "checkpoints": n_checkpoints
        * cost.checkpoint_seconds(rates, 4 * _elements_saved(optimizer, average, model.layout)),
        "end": small.end_seconds,
    }
    program = small.program_bytes or PROGRAM_BYTES
    tokens_per_step = sizes.batch_rows * sizes.n_time
    return Plan(
        n_parameters=model.n_parameters,
        vocab_size=model.n_vocab,
        n_train_tokens=corpus.n_train,
        tokens_per_step=tokens_per_step,
        steps=training.steps,
        epochs=training.steps * tokens_per_step / corpus.n_train,
        memory_bytes=sizes.arrays_bytes + program,
        parameters_bytes=sizes.parameters_bytes,
        gradients_bytes=sizes.gradients_bytes,
        optimizer_bytes=sizes.optimizer_bytes,
        activations_bytes=sizes.activations_bytes,
        buffers_bytes=sizes.buffers_bytes,
        program_bytes=program,
        flops_per_token=model.flops_per_token(sizes.n_time),
        engine=known.engine.name,
        workers=sizes.n_workers,
        split=sizes.split,
        seconds_per_step=each,
        expected_seconds=math.fsum(run.values()),
        step_seconds=step,
        run_seconds=run,
    )


def count_checkpoints(steps: int, eval_interval: int, checkpoint_interval: int) -> int:
    """How often one is written: at its interval, before evaluations, and at the end."""
    intervals = (eval_interval, checkpoint_interval)
    alone = sum(steps // interval for interval in intervals) - steps // math.lcm(*intervals)
    return alone + all(steps % interval for interval in intervals)


def _elements_saved(optimizer: Optimizer, average: WeightAverage | None, layout: FlatLayout) -> int:
    """Numbers in a checkpoint: weights, the optimizer's state, weights in training where others
    are evaluated, and an average with its own state."""
    n_weights = 2 if optimizer.evaluates_elsewhere else 1
    averaged = average_elements(average, layout) if average else 0
    return n_weights * layout.size + averaged + sum(slot_sizes(optimizer, layout).values())


def _other_passes(
    config: RunConfig,
    layout: FlatLayout,
    known: Measurements,
    rates: cost.Rates,
    n_workers: int,
) -> dict[str, float]:
    """Seconds of what regularizers, clipping and an average add to a step. Passes that read one or
    two buffers and write one are taken for such as add gradients."""
    rules = [regularizers.get(r.name)(r.config) for r in config.regularizers]
    size, training = layout.size, config.training
    found: dict[str, float] = {}

    def add(name: str, seconds: float) -> None:
        found[name] = found.get(name, 0.0) + seconds

    for rule in rules:
        if isinstance(rule, Penalty):
            add("penalties on weights", rates.add.seconds(layout.n_decayed, n_workers))
        if isinstance(rule, GradientModifier):
            add("changes of the gradient", known.modifier(rule).seconds(size, n_workers))
        if isinstance(rule, Constraint):
            add("constraints", rates.add.seconds(layout.n_decayed, n_workers))
    if training.clip_value is not None:
        add("changes of the gradient", rates.add.seconds(size, n_workers))
    if training.clip_adaptive is not None:
        add("clipping of units", rates.add.seconds(size, n_workers))
    average = build_average(config)
    if average:
        each = rates.add.seconds(size, n_workers)
        add("average of the weights", each / average.interval(training.eval_interval))
    return found
