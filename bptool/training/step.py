"""One training step: shards, reduction, penalties, norm, clipping, update, constraints, average.

Every number that a step makes is a function of (weights, optimizer state, batch, seed, step), of
how many workers there are and of the split, never of timing: gradients are added in the order of
the workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bptool.models.base import Array, Losses, Model
from bptool.models.operation import Shard
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.reduction import add_into
from bptool.ops.team import ALONE, LINE, share
from bptool.optim.base import Optimizer
from bptool.optim.norm import sum_of_squares
from bptool.regularizers.base import Regularizer
from bptool.training.averaging import Averaging
from bptool.training.machine import Engine
from bptool.training.regularization import NO_CLIPPING, Clipping, Regularization
from bptool.training.split import Split
from bptool.training.update import TRAINED, WeightUpdate
from bptool.training.workers import WorkerTeam


@dataclass(frozen=True)
class StepResult:
    """What a step found, before and after its update."""

    loss: float
    """Mean negative log-likelihood of the batch, with what is dropped in training."""
    penalty: float
    """What else is minimised: label smoothing, z-loss, penalties on the weights."""
    grad_norm: float
    updated: bool


class Retraceable(Protocol):
    """What a gradient was taken of, to find where its numbers stopped being finite."""

    def results(self, shards: Any, params: Any) -> Iterator[tuple[str, Array]]:
        """What each operation leaves behind, by name, in the order in which a step runs them."""


class Shards:
    """A model's forward and backward over a batch, cut over a team of workers in one of two ways.

    Cut by sequences, each worker has a shard of its own, with activations and a gradient buffer.
    Cut inside, there is one shard, and the workers are a team in every operation of it.

    Args:
        model: what to run.
        team: the workers.
        engine: matrix engine.
        rows: sequences in memory at once, over all workers (the micro-batch).
        n_time: tokens of a sequence.
        dtype: float32 to train, float64 to check.
        with_gradients: False where only losses are wanted.
        split: which of the two.
        terms: label smoothing and z-loss of the training loss.
        documents: whether rows hold several documents; then every call says where they begin.

    Attributes:
        last_batch: what the gradient of the last training step was taken of.
    """

    def __init__(
        self,
        model: Model,
        team: WorkerTeam,
        engine: Engine,
        rows: int,
        n_time: int,
        dtype: npt.DTypeLike = np.float32,
        with_gradients: bool = True,
        split: Split = "batch",
        terms: LogitTerms = NO_TERMS,
        documents: bool = False,
    ) -> None:
        self.model, self.team, self.rows, self.n_time = model, team, rows, n_time
        self.split, self.engine, self.terms = split, engine, terms
        self._dtype = np.dtype(dtype)
        self.n_shards = 1 if split == "inside" else team.n
        self.rows_each = -(-rows // self.n_shards)
        shape = (self.rows_each, n_time)
        engines = [engine.make(dtype) for _ in range(team.n)]
        if split == "inside":
            self._members = team.members
            self._acts = model.workspaces(*shape, dtype, engines)
        else:
            self._members = [ALONE] * team.n
            self._acts = [model.workspace(*shape, dtype, own) for own in engines]
        # a worker's own, inside too: they are small, and need no barrier
        self._tokens = [np.zeros(shape, np.int32) for _ in range(team.n)]
        self._targets = [np.full(shape, -1, np.int32) for _ in range(team.n)]
        of_starts = shape if documents else ONE_DOCUMENT.shape
        self._starts = [np.zeros(of_starts, np.int32) for _ in range(team.n)]
        n_buffers = self.n_shards if with_gradients else 0
        self.gradients = [model.layout.allocate(dtype) for _ in range(n_buffers)]
        self._grads = [model.gradients(buffer) for buffer in self.gradients]
        self.cleared = model.layout.spans_without(model.stored)
        self.last_batch: Retraceable | None = None

    def _shard(self, worker: int) -> int:
        return 0 if self.split == "inside" else worker

    def _take(self, worker: int, first: int, tokens: Array, targets: Array, starts: Array) -> bool:
        """Copy a shard's rows of the micro-batch at ``first``; False if there are none."""
        start = first + self._shard(worker) * self.rows_each
        stop = min(start + self.rows_each, first + self.rows, len(tokens))
        n = max(stop - start, 0)
        self._tokens[worker][:n] = tokens[start:stop] if n else 0
        self._targets[worker][:n] = targets[start:stop] if n else 0
        self._tokens[worker][n:] = 0
        self._targets[worker][n:] = -1
        if self._starts[worker].size:
            self._starts[worker][:n] = starts[start:stop] if n else 0
            self._starts[worker][n:] = 0
        return n > 0

    def loss_and_gradient(
        self,
        params: Any,
        tokens: Array,
        targets: Array,
        n_targets: int,
        seed: int,
        step: int,
        starts: Array = ONE_DOCUMENT,
    ) -> Losses:
        """Mean losses of a batch of any number of rows; their gradient is left in ``gradients``,
        one part a shard, for :meth:`reduce`.

        ``tokens``, ``targets`` and, where rows hold several documents, ``starts`` are (B, n_time)
        int32; ``n_targets`` counts the unmasked targets.
        """
        inverse = 1.0 / max(n_targets, 1)

        def work(worker: int) -> Losses:
            shard, member = self._shard(worker), self._members[worker]
            adds = False  # the first micro-batch stores most gradients, the others add
            self.clear(worker)
            loss, penalty = 0.0, 0.0
            for first in range(0, len(tokens), self.rows):
                if self._take(worker, first, tokens, targets, starts):
                    key = MaskKey(seed, step, first + shard * self.rows_each)
                    found = self.model.loss_and_gradient(
                        params,
                        self._grads[shard],
                        self._acts[worker],
                        self._tokens[worker],
                        self._targets[worker],
                        inverse,
                        key,
                        member,
                        self.terms,
                        adds,
                        self._starts[worker],
                    )
                    adds = True
                    loss, penalty = loss + found.loss, penalty + found.penalty
            if not adds:
                self.gradients[shard][:] = 0  # no row was there
            return Losses(loss, penalty)

        return Losses(*map(math.fsum, zip(*self.team.run(work), strict=True)))

    def clear(self, worker: int) -> None:
        """Zero what the first micro-batch of a step adds to; this worker's buffer or part."""
        for span in self.cleared:
            start, stop = share(span.stop - span.start, LINE, self._members[worker])
            self.gradients[self._shard(worker)][span][start:stop] = 0

    def span(self, worker: int) -> tuple[int, int]:
        """This worker's part of a flat buffer, in whole cache lines."""
        start, stop = share(self.model.layout.size, LINE, self.team.members[worker])
        return int(start), int(stop)

    def reduce(self, worker: int) -> tuple[int, int]:
        """Add every shard's gradient into the first buffer, over this worker's span of it."""
        start, stop = self.span(worker)
        total = self.gradients[0][start:stop]
        for other in self.gradients[1:]:
            add_into(total, other[start:stop])
        return start, stop

    def shard(self, worker: int, params: Any) -> Shard:
        """A worker's arrays, with what its last micro-batch left in them."""
        arrays = (self._acts[worker], self._tokens[worker], self._targets[worker])
        return Shard(params, self._grads[self._shard(worker)], *arrays, self._members[worker])

    def loss(
        self, params: Any, tokens: Array, targets: Array, starts: Array = ONE_DOCUMENT
    ) -> float:
        """Sum of the negative log-likelihoods over unmasked targets; no dropout."""

        def work(worker: int) -> float:
            total = 0.0
            for first in range(0, len(tokens), self.rows):
                if self._take(worker, first, tokens, targets, starts):
                    total += self.model.loss(
                        params,
                        self._acts[worker],
                        self._tokens[worker],
                        self._targets[worker],
                        self._members[worker],
                        starts=self._starts[worker],
                    )
            return total

        return math.fsum(self.team.run(work))

    def sequence_losses(self) -> Array:
        """What each sequence adds to the last :meth:`loss`, which was of ``rows`` sequences."""
        found = []
        for shard in range(self.n_shards):
            n = min(self.rows_each, self.rows - shard * self.rows_each)
            if n > 0:
                logp = self.model.token_logprobs(self._acts[shard])
                found.append(-logp.reshape(self.rows_each, -1)[:n].sum(axis=1, dtype=np.float64))
        return np.concatenate(found)


class Batch(NamedTuple):
    """What a gradient was taken of."""

    tokens: Array
    targets: Array
    n_targets: int
    seed: int
    step: int
    starts: Array

    def results(self, shards: Shards, params: Any) -> Iterator[tuple[str, Array]]:
        """What each operation leaves behind, micro-batch by micro-batch, run again with the masks
        it had."""
        for stop in range(shards.rows, len(self.tokens) + shards.rows, shards.rows):
            part = (self.tokens[:stop], self.targets[:stop], self.n_targets, self.seed, self.step)
            starts = self.starts[:stop] if self.starts.size else self.starts
            shards.loss_and_gradient(params, *part, starts)
            for worker in range(shards.n_shards):
                yield from shards.model.intermediates(shards.shard(worker, params).work)


class TrainingStep:
    """Weights, optimizer state, and the step that changes them.

    Args:
        clipping: how the gradient is clipped. averaging: what is evaluated beside the weights.

    Attributes:
        weights: flat buffer of the parameters that gradients are taken at.
        evaluation_weights: those to evaluate and to keep, brought up to date by
            :meth:`evaluation_params`; for most optimizers ``weights`` itself.
        slots: flat optimizer state by name.
        n_updates: updates done; a skipped step is none.
        accepts: told the loss of a step before its update, which is left out where it says no.
    """

    def __init__(
        self,
        shards: Shards,
        optimizer: Optimizer,
        regularizers: Sequence[Regularizer] = (),
        clipping: Clipping = NO_CLIPPING,
        averaging: Averaging | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.shards, self.optimizer, self.averaging = shards, optimizer, averaging
        self.model = shards.model
        layout = self.model.layout
        self.weights = layout.allocate(dtype)
        self.params = self.model.params(self.weights)
        self.update = WeightUpdate(optimizer, layout, shards.team.n, shards.engine, dtype)
        self.regularization = Regularization(
            *(regularizers, clipping, layout, self.update.frozen), shards.team
        )
        self.slots = self.update.state.buffers
        self.evaluation_weights = self.weights
        if optimizer.evaluates_elsewhere:
            self.evaluation_weights = layout.allocate(dtype)
        self._evaluation_params = self.model.params(self.evaluation_weights)
        self._average_params = self.model.params(averaging.weights) if averaging else None
        self.n_updates = 0
        self.accepts: Callable[[float], bool] = lambda loss: True

    @property
    def regularizers(self) -> Sequence[Regularizer]:
        return self.regularization.regularizers

    def evaluation_params(self) -> Any:
        """The parameters to evaluate, as they are now; the same views at every call."""
        if self.evaluation_weights is not self.weights:
            self.optimizer.evaluation_weights(self.evaluation_weights, self.weights, self.slots)
        return self._evaluation_params

    def average_params(self) -> Any:
        """Their average; :meth:`evaluation_params` while there is none, or where none is made."""
        raw = self.evaluation_params()
        if self.averaging is None:
            return raw
        if self.averaging.n_taken == 0:
            self.averaging.weights[:] = self.evaluation_weights
        return self._average_params

    def state(self) -> dict[str, Array]:
        """All that a resume needs besides the weights to evaluate and their average, by the names
        of a checkpoint."""
        named = self.update.state.named()
        if self.evaluation_weights is not self.weights:
            weights = self.model.layout.named(self.weights)
            named |= {f"{TRAINED}/{name}": view for name, view in weights.items()}
        return named | (self.averaging.state() if self.averaging else {})

    def compute_gradient(
        self,
        tokens: Array,
        targets: Array,
        n_targets: int,
        seed: int,
        step: int,
        starts: Array = ONE_DOCUMENT,
    ) -> StepResult:
        """Loss, penalties, and the whole gradient with its norm in the first buffer."""
        found = self.shards.loss_and_gradient(
            self.params, tokens, targets, n_targets, seed, step, starts
        )
        return self.reduced(found)

    def reduced(self, found: Losses) -> StepResult:
        """The same for losses whose gradient the shards hold, one part each."""
        gradient = self.shards.gradients[0]

        def work(worker: int) -> tuple[float, float]:
            start, stop = self.shards.reduce(worker)
            penalty = self.regularization.penalize(self.weights, gradient, start, stop)
            return penalty, float(sum_of_squares(gradient[start:stop]))

        parts = self.shards.team.run(work)
        squares = math.fsum(p[1] for p in parts) if all(map(_finite, parts)) else math.nan
        penalty = found.penalty + sum(p[0] for p in parts)
        return StepResult(found.loss, penalty, math.sqrt(squares), updated=False)

    def __call__(
        self,
        tokens: Array,
        targets: Array,
        n_targets: int,
        learning_rate: float,
        seed: int,
        step: int,
        starts: Array = ONE_DOCUMENT,
    ) -> StepResult:
        """One update; left out, with ``updated=False``, where loss or gradient is not finite or
        the loss is not accepted."""
        found = self.compute_gradient(tokens, targets, n_targets, seed, step, starts)
        self.shards.last_batch = Batch(tokens, targets, n_targets, seed, step, starts)
        return self.apply(found, learning_rate, seed)

    def apply(self, found: StepResult, learning_rate: float, seed: int) -> StepResult:
        """The update by the gradient that :meth:`reduced` left, as in a whole step."""
        if not (math.isfinite(found.loss) and math.isfinite(found.grad_norm)):
            return found
        if not self.accepts(found.loss):
            return found
        self._update(learning_rate, found.grad_norm, seed)
        return StepResult(found.loss, found.penalty, found.grad_norm, updated=True)

    def _update(self, rate: float, norm: float, seed: int) -> None:
        """Change the weights by the gradient in the first buffer, whose norm is ``norm``."""
        self.n_updates += 1
        gradient, step = self.shards.gradients[0], self.n_updates
        scale = self.regularization.change_gradient(gradient, self.weights, norm, seed, step)
        self.update.begin(rate, step)

        def work(worker: int) -> None:
            part = self.shards.span(worker)
            self.update(worker, part, self.weights, gradient, rate, scale, step)

        self.shards.team.run(work)
        self.regularization.constrain(self.weights)
        if self.averaging and self.averaging.begin(step):
            self.evaluation_params()
            source, take = self.evaluation_weights, self.averaging.take
            self.shards.team.run(lambda worker: take(source, *self.shards.span(worker)))

    def compile(self) -> None:
        """Compile the step's kernels, or load them from the cache; no weight changes."""
        rows = np.zeros((1, self.shards.n_time), np.int32)
        self.compute_gradient(rows, rows, rows.size, 0, 0, rows)
        self.update.compile(self.weights, self.shards.gradients[0])
        self.regularization.compile(self.weights, self.shards.gradients[0])
        if self.averaging:
            self.averaging.compile(self.weights)
        self.shards.loss(self.evaluation_params(), rows, rows, rows)


def _finite(part: tuple[float, float]) -> bool:
    return math.isfinite(part[1])
