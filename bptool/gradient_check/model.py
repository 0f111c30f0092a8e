"""A whole model's training loss as a function of its parameters, to check at float64.

The point is not the initial one: weights are drawn large enough, biases and norms moved off their
constants, so that no part of the model is idle and a fault anywhere shows. Weights are rounded to
float32, so that the program that trains can stand at exactly the same point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.gradient_check.check import Effort
from bptool.gradient_check.differentiable import Array, Differentiable, Signs
from bptool.models.base import Model
from bptool.ops.dropout import MaskKey
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.matmul import blas_engine
from bptool.regularizers.base import Penalty, Regularizer

Tokens = NDArray[np.int32]
HELD_KEY = MaskKey(0, 0, 0)
"""Every dropout mask of a check; the key that ``Model.loss`` uses."""
N_SEQUENCES = 3
_TRANSFORMER: dict[str, Any] = {
    **{"n_layer": 2, "n_head": 8, "n_kv_head": 4, "head_dim": 6, "n_embd": 20, "n_hidden": 11},
    **{"context": 7, "norm_epsilon": 0.01, "rotary_base": 50.0, "init_std": 0.04},
    "dropout": {"embedding": 0.1, "attention": 0.2, "residual": 0.25, "hidden": 0.3},
    "stochastic_depth": {"rate": 0.5, "rule": "uniform"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gpt2", "llama", "qwen2", "qwen3"), _TRANSFORMER),
    "mlp": {
        **{"window": 4, "n_embd": 5, "n_hidden": 9, "n_layer": 2, "context": 7},
        "dropout": {"embedding": 0.2, "hidden": 0.3},
    },
}
"""A small model of each kind in which no size and no probability equals another one, and nothing
is switched off, so that one in place of another shows."""
MAX_TIME = 16
N_IDS = 24
SAFE_MARGIN = 4e-6
"""Distance from a kink at which float32 and float64 stand on the same side of it."""
MAX_DRAWS = 20


class ModelFunction(Differentiable):
    """Mean loss of one batch plus penalties, as a function of every parameter tensor.

    Args:
        model: what to check.
        tokens: ids, (B, T). targets: next ids, -1 where masked, (B, T).
        weights: flat float64 buffer of the model's layout; checked in place.
        regularizers: those of training, of which penalties belong to the function.
        terms: label smoothing and z-loss, as training adds them.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        targets: Tokens,
        weights: Array,
        regularizers: Sequence[Regularizer] = (),
        terms: LogitTerms = NO_TERMS,
    ) -> None:
        self.name, self.terms = model.name, terms
        self.model, self.tokens, self.targets, self.weights = model, tokens, targets, weights
        self.n_targets = int((targets >= 0).sum())
        self.regularizers = tuple(regularizers)
        self._penalties = [r for r in regularizers if isinstance(r, Penalty)]
        self._kinked_weights = any(map(kinked_at_zero, self._penalties))
        self.inputs = model.layout.named(weights)
        self.gradient = model.layout.allocate(np.float64)
        """Flat gradient that the last ``gradients`` left."""
        self._params = model.params(weights)
        self._grads = model.gradients(self.gradient)
        self._scratch = model.layout.allocate(np.float64)
        workspace = model.workspace(
            tokens.shape[0], tokens.shape[1], np.float64, blas_engine(np.float64)
        )
        # The evaluating forward is cheaper than a whole step; given training's numbers it
        # computes the training loss, dropout and all, under HELD_KEY.
        self._held = workspace._replace(evaluating=workspace.training)
        self._workspace = workspace

    def _penalty(self, gradient: Array) -> float:
        decayed = slice(0, self.model.layout.n_decayed)
        return sum(
            float(r.penalty_and_gradient(self.weights[decayed], gradient[decayed]))
            for r in self._penalties
        )

    def value(self) -> float:
        loss = self.model.loss(
            self._params, self._held, self.tokens, self.targets, terms=self.terms
        )
        return loss / self.n_targets + self._penalty(self._scratch)

    def gradients(self) -> Mapping[str, Array]:
        self.step()
        return self.model.layout.named(self.gradient)

    def step(self) -> float:
        """Loss with penalties as the training step computes it, its gradient in ``gradient``."""
        self.gradient[:] = 0
        found = self.model.loss_and_gradient(
            *(self._params, self._grads, self._workspace, self.tokens, self.targets),
            *(1 / self.n_targets, HELD_KEY),
            terms=self.terms,
        )
        return found.loss + found.penalty + self._penalty(self.gradient)

    def kinks(self) -> dict[str, Signs]:
        signs: dict[str, Signs] = {}
        before = self.model.relu_inputs(self._workspace)
        if before is not None:
            signs |= {f"relu of layer {i}": layer > 0 for i, layer in enumerate(before)}
        if self._kinked_weights:
            signs["weight at 0"] = self.weights[: self.model.layout.n_decayed] > 0
        return signs

    def kink_margin(self) -> float:
        """Distance of the nearest ReLU input from its kink, at the last ``value``."""
        before = self.model.relu_inputs(self._workspace)
        return math.inf if before is None else float(np.min(np.abs(before)))


def kinked_at_zero(penalty: Penalty) -> bool:
    """Whether a penalty's slope jumps where a weight is zero, as that of |w| does."""
    w, g = np.array([-1e-12, 1e-12]), np.zeros(2)
    penalty.penalty_and_gradient(w, g)
    at_one = np.zeros(1)
    penalty.penalty_and_gradient(np.ones(1), at_one)
    return bool(abs(g[1] - g[0]) > 1e-3 * abs(at_one[0]))


def draw_weights(model: Model, seed: int) -> Array:
    """Weights of unit gain, norms and biases off their constants, rounded to float32."""
    weights = model.layout.allocate(np.float64)
    model.initialise(weights, seed)
    rng = np.random.default_rng([seed, 1])
    for spec, view in zip(model.layout.specs, model.layout.views(weights), strict=True):
        noise = rng.normal(size=view.shape)
        if spec.kind == "constant":
            view += 0.1 * noise
        elif spec.size:
            view[...] = noise * max(spec.init, 1 / math.sqrt(spec.shape[-1]))
    weights[:] = weights.astype(np.float32)
    return weights


def draw_batch(n_vocab: int, n_sequences: int, n_time: int, seed: int) -> tuple[Tokens, Tokens]:
    """Random ids, few enough that some repeat, and targets masked unevenly."""
    rng = np.random.default_rng([seed, 2])
    ids = rng.choice(n_vocab, min(N_IDS, n_vocab), replace=False)
    ids[: min(2, n_vocab)] = (0, n_vocab - 1)[:n_vocab]
    drawn = rng.choice(ids, (n_sequences, n_time + 1)).astype(np.int32)
    return drawn[:, :-1].copy(), mask_unevenly(drawn[:, 1:], seed)


def mask_unevenly(targets: Tokens, seed: int) -> Tokens:
    """A copy of (B, T) targets: the first row keeps all, the second half, others about 70 %."""
    rng = np.random.default_rng([seed, 3])
    masked = rng.random(targets.shape) < 0.3
    masked[0] = False
    masked[1:2] = np.arange(targets.shape[1]) >= (targets.shape[1] + 1) // 2
    return np.where(masked, np.int32(-1), targets)


def model_function(
    model: Model,
    *,
    seed: int = 0,
    regularizers: Sequence[Regularizer] = (),
    terms: LogitTerms = NO_TERMS,
    n_sequences: int = N_SEQUENCES,
    n_time: int | None = None,
) -> ModelFunction:
    """The function to check for ``model``, at a point clear of every kink.

    Args:
        n_time: length of the sequences; ``None`` for the context, at most 16.
    """
    n_time = min(model.context, n_time or MAX_TIME)
    best: ModelFunction | None = None
    margin = -math.inf
    weights = draw_weights(model, seed)
    for draw in range(MAX_DRAWS):
        batch = draw_batch(model.n_vocab, n_sequences, n_time, seed * MAX_DRAWS + draw)
        function = ModelFunction(model, *batch, weights, regularizers, terms)
        value = function.value()
        found = function.kink_margin()
        if draw == 0 and not math.isclose(value, function.step(), rel_tol=1e-9):
            raise ValueError(
                f"model '{model.name}': loss() under the training numbers is {value}, "
                f"loss_and_gradient() says {function.step()}; they must be one function"
            )
        if best is None or found > margin:
            best, margin = function, found
        if margin >= SAFE_MARGIN:
            break
    assert best is not None
    return best


def effort_for(function: ModelFunction) -> Effort:
    """Fewer probes a tensor where a single evaluation is dear."""
    multiplications = function.model.n_parameters * function.tokens.size * len(function.inputs)
    return Effort(8, 3) if multiplications < 5e9 else Effort(4, 2)
