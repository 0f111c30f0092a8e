"""What training makes of the function that ``bptool gradcheck`` has checked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from bptool.gradient_check.model import ModelFunction
    from bptool.gradient_check.objective_model import ObjectiveFunction
    from bptool.gradient_check.training_path import PathReport
    from bptool.training.setup import Pieces
    from bptool.training.step import TrainingStep
    from bptool.training.token_shards import TokenShards

MAX_PATH_TOKENS = 4096
"""Tokens of the batch on which the training gradient is compared in training's own shape."""
MAX_PATH_DRAWS = 32
TRAINING_BATCH = "a training batch"
"""Name of the comparison in training's own shape."""


def compare_training(pieces: Pieces, function: ModelFunction, seed: int) -> list[PathReport]:
    """Training's gradient on the very batch that was checked, and in training's own shape.

    The checked batch is cut so that nothing is even: three sequences over two workers, one row
    each, so that the second micro-batch leaves a worker without work; and again with both workers
    inside each operation. Then comes a batch of the user's own text as a step of the run cuts it.
    """
    from bptool.gradient_check.training_path import compare
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


def compare_objective(pieces: Pieces, function: ObjectiveFunction) -> list[PathReport]:
    """The same for an objective: the checked rows over two workers, two at a time, in each way to
    cut a step, so that activations are made anew for the backward."""
    from bptool.gradient_check.model import HELD_KEY
    from bptool.gradient_check.training_path import compare
    from bptool.training.split import Split
    from bptool.training.step import TrainingStep
    from bptool.training.token_shards import Rows, TokenShards
    from bptool.training.workers import WorkerTeam

    rows = Rows(function.tokens, function.targets, function.starts)
    reports = []
    with WorkerTeam(2) as team:
        for split in get_args(Split):
            shards = TokenShards(
                *(pieces.model, team, pieces.engine, team.n, rows.tokens.shape[1]),
                split=split,
                documents=True,
            )
            small = TrainingStep(shards, pieces.step.optimizer, function.regularizers)
            small.weights[:] = function.weights

            def train(
                f: Any, shards: TokenShards = shards, small: TrainingStep = small
            ) -> tuple[float, Any]:
                losses, _ = shards.gradient_of(
                    *(f.objective, f.batch, small.params, rows, HELD_KEY.seed, HELD_KEY.step)
                )
                result = small.reduced(losses)
                return result.loss + result.penalty, shards.gradients[0]

            reports.append(compare(f"the checked rows, split {split}", function, train))
    return reports


def _training_batch(pieces: Pieces, function: ModelFunction, seed: int) -> ModelFunction | None:
    """The loss of a batch of the user's text; None where every batch is too near a kink.

    A ReLU input within float32 rounding of zero may fall on the other side of it in training,
    which is right and yet another gradient, so such a model is compared on one sequence clear of
    that.
    """
    from bptool.gradient_check.model import SAFE_MARGIN, ModelFunction, mask_unevenly
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
    from bptool.gradient_check.model import HELD_KEY

    step.weights[:] = function.weights
    result = step.compute_gradient(
        function.tokens, function.targets, function.n_targets, HELD_KEY.seed, HELD_KEY.step
    )
    return result.loss + result.penalty, step.shards.gradients[0]
