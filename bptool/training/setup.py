"""From a configuration to the pieces that train: corpus, model, workers, step, batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bptool.config.schema import CLIPPING, RunConfig
from bptool.data.batches import Batches, count_windows
from bptool.data.chat.dataset import ChatSet, prepare_records
from bptool.data.corpus import Corpus, prepare
from bptool.data.counted import Counted, counted
from bptool.data.preference_set import PreferenceSet
from bptool.errors import ConfigError
from bptool.files import format_bytes as format_bytes
from bptool.models.base import Model
from bptool.ops.cores import usable_cores
from bptool.ops.logit_terms import LogitTerms
from bptool.ops.matmul.blocked import SCRATCH
from bptool.optim.schedules.base import Schedule
from bptool.optim.tensor_rule import TensorRule
from bptool.registry import optimizers, regularizers, schedules, templates
from bptool.training import early_stopping
from bptool.training.averaging import Averaging, average_elements
from bptool.training.fine_tuning import Material, open_material
from bptool.training.lessons.base import Lesson
from bptool.training.lessons.next_token import NextToken
from bptool.training.lessons.records import Records
from bptool.training.machine import (
    Engine,
    choose_engine,
    total_memory_bytes,
)
from bptool.training.parts import build_adapted, build_average, build_model, build_optimizer
from bptool.training.regularization import Clipping
from bptool.training.split import Split, choose_split
from bptool.training.start import Start, open_start
from bptool.training.step import Shards, TrainingStep
from bptool.training.token_shards import TokenShards
from bptool.training.update import elements_held, tensor_settings
from bptool.training.workers import WorkerTeam

FULL_BATCH_BYTES = 256 * 2**20
"""Activations that a full batch may take at once; the rest is accumulated."""
PROGRAM_BYTES = 280 * 10**6
"""Interpreter, libraries and compiled kernels, roughly; a plan measures them."""


@dataclass(frozen=True)
class Sizes:
    """How a step is laid out, and the memory it takes."""

    batch_rows: int
    micro_rows: int
    n_workers: int
    split: Split
    n_time: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    buffers_bytes: int
    """Batches, panels of the matrix engines, and what writing a sample takes."""

    @property
    def arrays_bytes(self) -> int:
        """All that is allocated for this model and batch."""
        parts = self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes
        return parts + self.activations_bytes + self.buffers_bytes

    @property
    def total_bytes(self) -> int:
        return self.arrays_bytes + PROGRAM_BYTES


def sizes(
    config: RunConfig,
    model: Model,
    n_train: int,
    n_workers: int | None = None,
    split: str | None = None,
) -> Sizes:
    """Lay out the step of ``config`` on a training split of ``n_train`` tokens.

    ``n_workers``, ``split``: as a run's manifest says; by default what the configuration and
    machine give.

    Raises:
        ConfigError: more memory would be needed than the machine has, or a parameter group
            matches no tensor.
    """
    training = config.training
    n_time = model.context
    optimizer = build_optimizer(config)
    tensor_settings(optimizer, model.layout)
    if training.batch_size == "full":
        batch_rows = count_windows(n_train, n_time)
        one_row = model.workspace_bytes(1, n_time, 4)
        fitting = max(1, FULL_BATCH_BYTES // one_row)
        micro_rows = training.micro_batch_size or min(batch_rows, fitting)
    else:
        batch_rows = training.batch_size
        micro_rows = training.micro_batch_size or batch_rows
    if n_workers is None:
        n_workers = usable_cores() if training.workers == "auto" else training.workers
    n_bytes = model.layout.size * 4
    chosen = choose_split(split or training.split, n_workers, micro_rows, n_bytes)
    if chosen == "batch":
        n_workers = min(n_workers, micro_rows)
        n_shards, n_members = n_workers, 1
    else:
        n_shards, n_members = 1, n_workers
    rows_each = -(-micro_rows // n_shards)
    average = build_average(config)
    n_kept = elements_held(optimizer, model.layout, n_workers)
    n_kept += average_elements(average, model.layout) if average else 0
    found = Sizes(
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        n_workers=n_workers,
        split=chosen,
        n_time=n_time,
        parameters_bytes=n_bytes + 4 * model.frozen_size,
        gradients_bytes=n_bytes * n_shards,
        optimizer_bytes=4 * n_kept,
        activations_bytes=n_shards * model.workspace_bytes(rows_each, n_time, 4, n_members),
        buffers_bytes=_buffers_bytes(config, model, batch_rows, micro_rows, rows_each, n_workers),
    )
    memory = total_memory_bytes()
    if memory is not None and found.total_bytes > memory:
        raise ConfigError(
            f"this needs {format_bytes(found.total_bytes)} of memory and the machine has "
            f"{format_bytes(memory)}: {model.n_parameters:,} parameters with gradients and "
            f"optimizer state take "
            f"{format_bytes(found.total_bytes - found.activations_bytes)}, activations "
            f"{format_bytes(found.activations_bytes)}; make the model, its context, or "
            "training.micro_batch_size smaller"
        )
    return found


def _buffers_bytes(
    config: RunConfig,
    model: Model,
    batch_rows: int,
    micro_rows: int,
    rows_each: int,
    n_workers: int,
) -> int:
    """Tokens and targets of the step, of each worker and of an evaluation; panels; a decoder."""
    rows = batch_rows + n_workers * rows_each + micro_rows
    by_tensors = issubclass(optimizers.get(config.optimizer.name), TensorRule)
    n_engines = (2 if by_tensors else 1) * n_workers
    return 8 * rows * model.context + 4 * SCRATCH * n_engines + model.decoder_bytes(1)


@dataclass
class Pieces:
    """Everything that a training run is made of."""

    config: RunConfig
    corpus: Corpus
    model: Model
    sizes: Sizes
    engine: Engine
    team: WorkerTeam
    step: TrainingStep
    schedule: Schedule
    lesson: Lesson
    start: Start | None = None
    at_close: list[Callable[[], None]] = field(default_factory=list)
    """What else ends with the run: the lock on its folder."""

    @property
    def batches(self) -> Batches:
        """What pretraining draws its windows from.

        Raises:
            ConfigError: the configuration does not train on a text.
        """
        if isinstance(self.lesson, NextToken):
            return self.lesson.batches
        raise ConfigError("this works on a text, and the configuration trains on records")

    def counted(self) -> Counted | None:
        """What counting reaches on the bytes that the run is judged on; None without a text."""
        if not isinstance(self.lesson, NextToken):
            return None
        return counted(self.corpus, self.config.training.eval_tokens)

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step``, from 1."""
        base = self.step.optimizer.config.learning_rate
        return base * self.schedule.factor(step, self.config.training.steps)

    def close(self) -> None:
        """End the worker threads, and give the run's folder back."""
        self.team.close()
        self.release()

    def release(self) -> None:
        """Give the run's folder back."""
        while self.at_close:
            self.at_close.pop()()


def build(
    config: RunConfig,
    corpus: Corpus | None = None,
    n_workers: int | None = None,
    engine: str | None = None,
    split: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    start: Start | None = None,
    data: ChatSet | PreferenceSet | None = None,
) -> Pieces:
    """Prepare the data and build every piece, with initial weights of the configured seed.

    Args:
        config: the resolved configuration. corpus: data prepared before.
        n_workers, engine, split: as a run's manifest says.
        progress: told how far preparing the data is.
        start: what to start from, where that is open already.
        data: records or preferences of ``config`` that were read before.

    Raises:
        UserError: any setting or file is unfit; nothing has been written then.
    """
    if start is None and config.start is not None:
        start = open_start(config)
    records: ChatSet | None = None
    material: Material | None = None
    if config.objective.name != "next-token":
        assert start is not None  # the configuration says so
        units = data if isinstance(data, PreferenceSet) else None
        material = open_material(config, start, context_of(config), units)
        corpus = material.corpus
    elif config.data.records is not None:
        records = data if isinstance(data, ChatSet) else read_records(config, start)
        corpus = _corpus_of(records)
    if corpus is None:
        tokenizer = start.tokenizer if start else None
        corpus = prepare(config.data, context_of(config), progress, tokenizer=tokenizer)
    model = build_model(config, corpus.tokenizer.vocab_size)
    if config.lora is not None:
        assert start is not None  # the configuration says so
        assert start.weights is not None
        model = build_adapted(config, model, start.weights) or model
    plan = sizes(config, model, corpus.n_train, n_workers, split)
    if config.training.early_stopping is not None:
        n_targets = min(corpus.n_validation - 1, config.training.eval_tokens or corpus.n_validation)
        early_stopping.check(-(-n_targets // plan.n_time))
    if material and not model.logprobs:
        raise model.no_logprobs()
    chosen = choose_engine(engine or config.training.engine)
    team = WorkerTeam(plan.n_workers)
    terms = LogitTerms(config.training.label_smoothing, config.training.z_loss)
    shards = (TokenShards if material else Shards)(
        *(model, team, chosen, plan.micro_rows, plan.n_time),
        split=plan.split,
        terms=terms,
        documents=records is not None or material is not None,
    )
    average = build_average(config)
    step = TrainingStep(
        shards,
        build_optimizer(config),
        [regularizers.get(r.name)(r.config) for r in config.regularizers],
        Clipping(*(getattr(config.training, key) for key in CLIPPING)),
        Averaging(average, config.training.eval_interval, model.layout) if average else None,
    )
    if start is None or config.lora is not None:
        model.initialise(step.weights, config.training.seed)
    elif start.weights is not None:
        step.weights[:] = start.weights
    if material is None:
        lesson = _lesson(config, corpus, records, step, plan)
    else:
        lesson = material.lesson(config, step, plan.batch_rows)
    schedule = schedules.get(config.schedule.name)(config.schedule.config)
    return Pieces(config, corpus, model, plan, chosen, team, step, schedule, lesson, start)


def _lesson(
    config: RunConfig, corpus: Corpus, records: ChatSet | None, step: TrainingStep, plan: Sizes
) -> Lesson:
    training, bytes_per_token = config.training, corpus.tokenizer.token_bytes()
    if records is not None:
        return Records(step, records, plan.batch_rows, training, bytes_per_token)
    batch_size: int | Literal["full"] = training.batch_size
    batches = Batches(
        corpus.train, batch_size, plan.n_time, config.data.sampling, training.data_seed
    )
    return NextToken(
        *(step, batches, corpus.validation, bytes_per_token, training.eval_tokens, training.seed)
    )


def read_records(config: RunConfig, start: Start | None) -> ChatSet:
    """The records of ``config``, packed in rows."""
    if start is None or config.chat is None:
        missing = "start.run" if start is None else "chat.template"
        raise ConfigError(f"data.records needs {missing}; use `bptool finetune sft RUN`")
    template = templates.get(config.chat.template)()
    return prepare_records(config.data, template, start.tokenizer, context_of(config))


def _corpus_of(records: ChatSet) -> Corpus:
    """The rows of records as the two arrays of a text."""
    validation = records.validation.targets
    n_bytes = int(records.tokenizer.token_bytes()[validation[validation >= 0]].sum())
    return Corpus(
        train=records.train.tokens.ravel(),
        validation=records.validation.tokens.ravel(),
        tokenizer=records.tokenizer,
        text_sha256=records.sha256,
        n_characters=0,
        validation_bytes=n_bytes,
        token_file=None,
        reused=False,
    )


def context_of(config: RunConfig) -> int:
    """Tokens of a training sequence."""
    return int(config.model.config.context)


def new_batch(pieces: Pieces) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Arrays for the tokens and targets of a whole step."""
    shape = (pieces.batches.n_sequences, pieces.sizes.n_time)
    return np.zeros(shape, np.int32), np.zeros(shape, np.int32)


def seconds_per_step(pieces: Pieces, n_timed: int = 3) -> float:
    """Median seconds of a few gradients of the first batch; no weight changes."""
    tokens, targets = new_batch(pieces)
    n_targets = pieces.batches.fill(0, tokens, targets)
    times = []
    for _ in range(n_timed):
        start = time.perf_counter()
        pieces.step.compute_gradient(tokens, targets, n_targets, 0, 0)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
