"""From log-probabilities to gradient: an objective that needs those of the whole step at once.

Workers run the forward of their rows; the objective sees what all of them gathered and gives the
gradient by each log-probability and score; workers run the backward. Where a step has several
micro-batches their activations are not kept, so the second round runs each forward again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bptool.models.base import Array, Losses
from bptool.objectives.base import Objective
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey
from bptool.training.step import Shards


class Rows(NamedTuple):
    """A step's rows."""

    tokens: Array
    """(B, T) int32."""
    targets: Array
    """(B, T) int32, -1 where masked."""
    starts: Array = ONE_DOCUMENT
    """(B, T) int32, where the document of each position begins."""


class Outputs(NamedTuple):
    """What a model says of rows, flat."""

    logp: Array
    """(B*T,) log-probability of each target, 0 where masked."""
    scores: Array
    """(B*T,) of the scalar head, 0 without one."""


class TokenBatch(NamedTuple):
    """What a gradient was taken of, and what the objective made of it."""

    rows: Rows
    seed: int
    step: int
    of_logp: bool
    made: tuple[tuple[str, Array], ...]
    """What the objective was given beside the model's outputs, and what it gave, by name."""

    def results(self, shards: TokenShards, params: Any) -> Iterator[tuple[str, Array]]:
        """What each operation leaves behind, run again with the masks it had."""
        for found in shards.forwards(params, self.rows, (self.seed, self.step), self.of_logp):
            yield from found
        yield from self.made


class TokenShards(Shards):
    """Shards that any objective can train, beside the loss of the next token."""

    def outputs(
        self, params: Any, rows: Rows, mask: tuple[int, int] | None = None, of_logp: bool = True
    ) -> Outputs:
        """Log-probabilities and scores; ``mask`` is the seed and step of what is dropped."""
        size = rows.tokens.shape
        dtype = self._dtype
        found = Outputs(np.zeros(size, dtype), np.zeros(size, dtype))

        def work(worker: int) -> None:
            for first in range(0, len(rows.tokens), self.rows):
                if self._take(worker, first, *rows):
                    self._forward(worker, params, first, mask, of_logp)
                    self._gather(worker, first, found)

        self.team.run(work)
        return Outputs(found.logp.reshape(-1), found.scores.reshape(-1))

    def gradient_of(
        self,
        objective: Objective,
        batch: Any,
        params: Any,
        rows: Rows,
        seed: int,
        step: int,
    ) -> tuple[Losses, Outputs]:
        """The objective's loss, its gradient left in ``gradients``, one part a shard; and what it
        was taken at."""
        found = self.outputs(params, rows, (seed, step), objective.of_logp)
        return self.gradient_at(objective, batch, found, params, rows, seed, step), found

    def gradient_at(
        self,
        objective: Objective,
        batch: Any,
        found: Outputs,
        params: Any,
        rows: Rows,
        seed: int,
        step: int,
    ) -> Losses:
        """The same where the last :meth:`outputs` was of these very arguments, and gave ``found``;
        so the batch may depend on it."""
        loss = objective.loss(batch, found.logp, found.scores)
        dlogp, dscores = np.zeros_like(found.logp), np.zeros_like(found.scores)
        objective.gradient(batch, found.logp, found.scores, dlogp, dscores)
        gave = (("log-probabilities", dlogp), ("scores", dscores))
        made = (
            *((f"{name}, given to {objective.name}", array) for name, array in _given(batch)),
            *((f"{objective.name}, its gradient by {name}", array) for name, array in gave),
        )
        self.last_batch = TokenBatch(rows, seed, step, objective.of_logp, made)
        self._backward(params, rows, dlogp, dscores, (seed, step), objective.of_logp)
        return Losses(loss, 0.0)

    def _backward(
        self,
        params: Any,
        rows: Rows,
        dlogp: Array,
        dscores: Array,
        mask: tuple[int, int],
        of_logp: bool,
    ) -> None:
        again = len(rows.tokens) > self.rows
        shape = rows.tokens.shape

        def work(worker: int) -> None:
            shard, adds = self._shard(worker), False
            self.clear(worker)
            for first in range(0, len(rows.tokens), self.rows):
                if not self._take(worker, first, *rows):
                    continue
                if again:
                    self._forward(worker, params, first, mask, of_logp)
                self.model.backward_tokens(
                    params,
                    self._grads[shard],
                    self._acts[worker],
                    self._tokens[worker],
                    self._targets[worker],
                    self._key(worker, first, mask),
                    self._part(worker, first, dlogp.reshape(shape)),
                    self._part(worker, first, dscores.reshape(shape)),
                    team=self._members[worker],
                    adds=adds,
                    starts=self._starts[worker],
                    of_logp=of_logp,
                )
                adds = True
            if not adds:
                self.gradients[shard][:] = 0  # no row was there

        self.team.run(work)

    def forwards(
        self, params: Any, rows: Rows, mask: tuple[int, int], of_logp: bool
    ) -> Iterator[Sequence[tuple[str, Array]]]:
        """The model's intermediates of each shard, after the forward of each micro-batch."""
        for first in range(0, len(rows.tokens), self.rows):

            def work(worker: int, first: int = first) -> bool:
                if not self._take(worker, first, *rows):
                    return False
                self._forward(worker, params, first, mask, of_logp)
                return True

            ran = self.team.run(work)
            for worker in range(self.n_shards):
                if ran[worker]:
                    yield self.model.intermediates(self._acts[worker])

    def _key(self, worker: int, first: int, mask: tuple[int, int]) -> MaskKey:
        return MaskKey(*mask, first + self._shard(worker) * self.rows_each)

    def _forward(
        self, worker: int, params: Any, first: int, mask: tuple[int, int] | None, of_logp: bool
    ) -> None:
        self.model.forward_tokens(
            params,
            self._acts[worker],
            self._tokens[worker],
            self._targets[worker],
            None if mask is None else self._key(worker, first, mask),
            team=self._members[worker],
            starts=self._starts[worker],
            of_logp=of_logp,
        )

    def _span(self, worker: int, first: int, n_rows: int) -> tuple[int, int]:
        """The rows of the whole step that a shard has in the micro-batch at ``first``."""
        start = first + self._shard(worker) * self.rows_each
        return start, min(start + self.rows_each, first + self.rows, n_rows)

    def _part(self, worker: int, first: int, whole: Array) -> Array:
        """A shard's rows of (B, T), flat, with zeros for the rows that it has too many."""
        start, stop = self._span(worker, first, len(whole))
        part = np.zeros((self.rows_each, whole.shape[1]), whole.dtype)
        part[: stop - start] = whole[start:stop]
        return part.reshape(-1)

    def _gather(self, worker: int, first: int, found: Outputs) -> None:
        """Copy what a shard's forward gave; the forward ends with a barrier, and the next begins
        with one."""
        if self.split == "inside" and worker > 0:
            return
        start, stop = self._span(worker, first, len(found.logp))
        acts = self._acts[worker]
        parts = [(self.model.token_logprobs(acts), found.logp)]
        if self.model.has_scores:
            parts.append((self.model.token_scores(acts), found.scores))
        for source, whole in parts:
            whole[start:stop] = source.reshape(self.rows_each, -1)[: stop - start]


def _given(batch: Any) -> Iterator[tuple[str, Array]]:
    """The arrays of numbers in an objective's batch, by name."""
    for name, value in batch._asdict().items():
        if isinstance(value, tuple):
            yield from _given(value)
        elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
            yield name.replace("_", " "), value
