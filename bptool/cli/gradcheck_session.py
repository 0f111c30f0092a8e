"""What ``bptool gradcheck`` runs, in order, and what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from bptool.gradcheck.model import ModelFunction
    from bptool.gradcheck.report import Report
    from bptool.gradcheck.training_path import PathReport
    from bptool.training.setup import Pieces
    from bptool.training.step import TrainingStep

Watch = Callable[[str, int, int], None]
"""Called with what is being checked, how much of it is done, and how much there is."""

MAX_PATH_TOKENS = 4096
"""Tokens of the batch on which the training gradient is compared in training's own shape."""
MAX_PATH_DRAWS = 32
TRAINING_BATCH = "a training batch"
"""Name of the comparison in training's own shape."""


@dataclass
class Findings:
    """Everything that was checked."""

    operations: list[Report] = field(default_factory=list)
    model: Report | None = None
    training: list[PathReport] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """How the model was checked: parameters, engine, workers, sequences."""

    @property
    def reports(self) -> list[Report]:
        """Every finite-difference report."""
        return [*self.operations, *([self.model] if self.model is not None else [])]

    @property
    def ok(self) -> bool:
        return all(r.ok for r in self.reports) and all(r.ok for r in self.training)

    def failures(self) -> list[str]:
        """Every problem, one line each."""
        lines = [line for report in self.reports for line in report.failures()]
        return lines + [line for report in self.training for line in report.failures()]

    def to_json(self) -> dict[str, Any]:
        """One object for ``--json``."""
        return {
            "ok": self.ok,
            "failures": self.failures(),
            **self.facts,
            "operations": [r.to_json() for r in self.operations],
            "model": self.model.to_json() if self.model is not None else None,
            "training": [r.to_json() for r in self.training],
        }


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Watch]:
    """A bar on stderr where that is a terminal, else nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = quiet or not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task("compiling", total=None)

        def watch(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield watch


def check_operations(found: Findings, seed: int, watch: Watch) -> None:
    """Every operation, activation, loss and regulariser alone."""
    from bptool.gradcheck import operations

    total = len(list(operations.cases()))

    def heard(report: Report) -> None:
        found.operations.append(report)
        watch(report.name, len(found.operations), total)

    operations.check_operations(seed=seed, on_report=heard)


def check_model(
    found: Findings, path: Path | None, sets: Sequence[str], seed: int, watch: Watch
) -> None:
    """The model of a configuration by finite differences, then the program that trains it."""
    from threadpoolctl import threadpool_limits

    from bptool.config.load import resolve
    from bptool.gradcheck.check import check
    from bptool.gradcheck.model import effort_for, model_function
    from bptool.training.setup import build

    pieces = build(resolve(path, sets).config)
    # The products of a check are small: threads of the BLAS would only wait for each other.
    one_thread = threadpool_limits(1, user_api="blas")
    try:
        function = model_function(
            pieces.model,
            seed=seed,
            regularizers=pieces.step.regularizers,
            terms=pieces.step.shards.terms,
        )
        done: list[str] = []

        def heard(tensor: Any) -> None:
            done.append(tensor.name)
            watch(tensor.name, len(done), len(function.inputs))

        watch("compiling for float64", 0, len(function.inputs))
        found.model = check(function, seed=seed, effort=effort_for(function), on_tensor=heard)
        watch("the training gradient", len(done), len(done))
        found.training = compare_training(pieces, function, seed)
        found.facts = {
            "name": pieces.model.name,
            "n_parameters": pieces.model.n_parameters,
            "n_vocab": pieces.model.n_vocab,
            "engine": pieces.engine.name,
            "engine_version": pieces.engine.version,
            "n_workers": pieces.sizes.n_workers,
            "n_sequences": len(function.tokens),
            "n_time": function.tokens.shape[1],
        }
    finally:
        one_thread.restore_original_limits()
        pieces.close()


def compare_training(pieces: Pieces, function: ModelFunction, seed: int) -> list[PathReport]:
    """Training's gradient on the very batch that was checked, and in training's own shape.

    The checked batch is cut so that nothing is even: three sequences over two workers, one row
    each, so that the second micro-batch leaves a worker without work; and again with both workers
    inside each operation. Then comes a batch of the user's own text as a step of the run cuts it.
    """
    from bptool.gradcheck.training_path import compare
    from bptool.training.split import Split
    from bptool.training.step import Shards, TrainingStep
    from bptool.training.workers import WorkerTeam

    model, step = pieces.model, pieces.step
    reports = []
    with WorkerTeam(2) as team:
        for split in get_args(Split):
            n_time = function.tokens.shape[1]
            shards = Shards(
                *(model, team, pieces.engine, team.n, n_time),
                split=split,
                terms=function.terms,
            )
            small = TrainingStep(shards, step.optimizer, step.regularizers)
            name = f"the checked batch, split {split}"
            reports.append(compare(name, function, partial(gradient_of, small)))

    whole = _training_batch(pieces, function, seed)
    if whole is None:
        return reports
    return [*reports, compare(TRAINING_BATCH, whole, lambda f: gradient_of(step, f))]


def _training_batch(pieces: Pieces, function: ModelFunction, seed: int) -> ModelFunction | None:
    """The loss of a batch of the user's text; None where every batch is too near a kink.

    A ReLU input within float32 rounding of zero may fall on the other side of it in training,
    which is right and yet another gradient, so such a model is compared on one sequence clear of
    that.
    """
    from bptool.gradcheck.model import SAFE_MARGIN, ModelFunction, mask_unevenly
    from bptool.training.setup import new_batch

    tokens, targets = new_batch(pieces)
    pieces.batches.fill(0, tokens, targets)

    def loss_of(first: int, rows: int) -> ModelFunction:
        batch = slice(first, first + rows)
        masked = mask_unevenly(targets[batch], seed)
        return ModelFunction(
            *(pieces.model, tokens[batch], masked, function.weights),
            *(function.regularizers, function.terms),
        )

    rows = min(len(tokens), max(1, MAX_PATH_TOKENS // pieces.sizes.n_time))
    for first, n_rows in [(0, rows), *((i, 1) for i in range(min(rows, MAX_PATH_DRAWS)))]:
        candidate = loss_of(first, n_rows)
        candidate.value()
        if candidate.kink_margin() >= SAFE_MARGIN:
            return candidate
    return None


def gradient_of(step: TrainingStep, function: ModelFunction) -> tuple[float, Any]:
    """Loss with penalties and flat gradient, as the training step computes them."""
    from bptool.gradcheck.model import HELD_KEY

    step.weights[:] = function.weights
    result = step.compute_gradient(
        function.tokens, function.targets, function.n_targets, HELD_KEY.seed, HELD_KEY.step
    )
    return result.loss + result.penalty, step.shards.gradients[0]
