"""An objective of fine-tuning through a whole model, as a function of its parameters.

Everything between the weights and the loss is in it: the forward to log-probabilities and scores
over rows of several documents, the objective, and the backward from its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bptool.gradient_check.differentiable import Array, Signs
from bptool.gradient_check.model import (
    HELD_KEY,
    MAX_DRAWS,
    MAX_TIME,
    SAFE_MARGIN,
    ModelFunction,
    Tokens,
    draw_batch,
    draw_weights,
)
from bptool.gradient_check.objectives import (
    MIX,
    checked_objective,
    objective_batch,
    objective_kinks,
)
from bptool.models.base import Model
from bptool.objectives.base import Objective
from bptool.regularizers.base import Regularizer

N_ANSWERS = 4


class ObjectiveFunction(ModelFunction):
    """Loss of one objective plus penalties, as a function of every parameter tensor.

    Args:
        objective: the loss. starts: where the documents of the rows begin, (B, T).
        owner: the answer that each position's target belongs to, (B, T); -1 for none, ``MIX`` for a
            pretraining mix.
        seed: of what the objective needs beside log-probabilities and scores.
        Others as for :class:`ModelFunction`.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        tokens: Tokens,
        targets: Tokens,
        starts: Tokens,
        owner: Tokens,
        weights: Array,
        regularizers: Sequence[Regularizer] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, tokens, targets, weights, regularizers)
        self.name: str = f"{objective.name} through {model.name}"
        self.objective, self.starts = objective, starts
        self.batch: Any = None
        logp, scores = self._outputs()
        rng = np.random.default_rng([seed, 4])
        self.batch = objective_batch(objective.name, rng, owner.reshape(-1), logp, scores)

    def _outputs(self) -> tuple[Array, Array]:
        """Copies of log-probabilities and scores at the present weights."""
        acts = self._workspace
        self.model.forward_tokens(
            *(self._params, acts, self.tokens, self.targets, HELD_KEY),
            starts=self.starts,
            of_logp=self.objective.of_logp,
        )
        logp = self.model.token_logprobs(acts) if self.objective.of_logp else self._none()
        scores = self.model.token_scores(acts) if self.objective.of_scores else self._none()
        return logp.copy(), scores.copy()

    def _none(self) -> Array:
        return np.zeros(self.tokens.size)

    def value(self) -> float:
        loss = self.objective.loss(self.batch, *self._outputs())
        return loss + self._penalty(self._scratch)

    def step(self) -> float:
        self.gradient[:] = 0
        outputs = self._outputs()
        d = self._none(), self._none()
        self.objective.gradient(self.batch, *outputs, *d)
        self.model.backward_tokens(
            *(self._params, self._grads, self._workspace, self.tokens, self.targets, HELD_KEY),
            *d,
            adds=False,
            starts=self.starts,
            of_logp=self.objective.of_logp,
        )
        return self.objective.loss(self.batch, *outputs) + self._penalty(self.gradient)

    def kinks(self) -> dict[str, Signs]:
        return super().kinks() | objective_kinks(self.batch, *self._outputs(), self.objective)


def objective_function(
    model: Model, name: str, *, seed: int = 0, regularizers: Sequence[Regularizer] = ()
) -> ObjectiveFunction:
    """The function to check for ``model`` and the objective called ``name``, at a point clear of
    every kink of the model."""
    n_time, objective = min(model.context, MAX_TIME), checked_objective(name)
    weights, best = draw_weights(model, seed), None
    for draw in range(MAX_DRAWS):
        number = seed * MAX_DRAWS + draw
        tokens, _ = draw_batch(model.n_vocab, N_ANSWERS, n_time, number)
        targets, starts, owner = _answers(np.roll(tokens, -1, axis=1))
        rows = tokens, targets, starts, owner
        function = ObjectiveFunction(model, objective, *rows, weights, regularizers, number)
        function.value()
        if best is None or function.kink_margin() > best.kink_margin():
            best = function
        if function.kink_margin() >= SAFE_MARGIN:
            return function
    assert best is not None
    return best


def _answers(targets: Tokens) -> tuple[Tokens, Tokens, Tokens]:
    """Targets masked but for one answer a row and some of a pretraining mix, starts, and owners;
    every other row has its answer in a second document."""
    owner, starts = np.full_like(targets, -1), np.zeros_like(targets)
    n_time = targets.shape[1]
    for row in range(len(targets)):
        first = n_time // 3 if row % 2 else n_time // 2
        owner[row, :first:2] = MIX
        owner[row, first : max(n_time - row % 2, first + 1)] = row
        if row % 2 == 0:
            starts[row, first:] = first
    return np.where(owner == -1, np.int32(-1), targets), starts, owner
