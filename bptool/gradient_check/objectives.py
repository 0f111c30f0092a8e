"""The objectives of fine-tuning as functions of log-probabilities and scores.

``objective_batch`` draws, for any positions of answers, what an objective needs beside them: so
that the same batch serves the check of the objective alone and that of the chain through a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bptool.gradient_check.cases import Case, overwritten
from bptool.gradient_check.differentiable import Composed, Differentiable, Signs
from bptool.objectives.answers import Answers
from bptool.objectives.base import Array, Objective
from bptool.objectives.clipped import MAX_LOG_RATIO
from bptool.objectives.grpo import GroupRollout, group_advantages
from bptool.objectives.mixed import Both, Mixed
from bptool.objectives.next_token import Targets
from bptool.objectives.ppo import Rollout
from bptool.objectives.reward import ScoredPairs
from bptool.registry import objectives

SETTINGS: dict[str, dict[str, float]] = {
    "dpo": {"beta": 0.4, "label_smoothing": 0.15},
    "ipo": {"beta": 0.3},
    "kto": {"beta": 0.4, "desirable_weight": 1.2, "undesirable_weight": 0.7},
    "ppo": {"clip": 0.15, "value_clip": 0.3, "value_weight": 0.5},
    "grpo": {"clip": 0.15, "kl_weight": 0.3},
}
"""Far enough from none that a fault in any term shows, and each unlike the others, so that one in
place of another shows too; ``tests/test_gradcheck_settings.py`` demands it."""
MIX_WEIGHT = 0.7
"""Of the pretraining mix that ``mixed`` adds to PPO."""
MIX = -2
"""The owner of a position that belongs to no answer but to a pretraining mix."""
KERNELS: dict[str, tuple[str, ...]] = {
    "dpo": ("dpo_backward", "answer_sums_backward"),
    "ipo": ("ipo_backward", "answer_sums_backward"),
    "kto": ("kto_backward", "answer_sums_backward"),
    "reward": ("reward_backward",),
    "ppo": ("clipped_policy_backward", "clipped_value_backward"),
    "grpo": ("clipped_policy_backward", "kl_backward"),
    "next-token": ("next_token_backward",),
    "mixed": ("clipped_policy_backward", "clipped_value_backward", "next_token_backward"),
}


def checked_objective(name: str) -> Objective:
    """The registered objective with the settings it is checked with; ``mixed`` is PPO with a
    pretraining mix."""
    if name == Mixed.name:
        return Mixed(checked_objective("ppo"), MIX_WEIGHT)
    objective = objectives.get(name)
    found: Objective = objective(objective.Config(**SETTINGS.get(name, {})))
    return found


def objective_cases() -> Iterator[Case]:
    """An entry for each objective."""
    for name, covers in KERNELS.items():
        yield Case(f"objective {name}", covers, partial(_alone, name=name))


def objective_batch(
    name: str, rng: np.random.Generator, owner: Array, logp: Array, scores: Array
) -> Any:
    """A batch for the answers that ``owner`` (N,) names, an even number of them, near enough to
    ``logp`` and ``scores`` that every branch of the objective is met. Positions whose owner is
    :data:`MIX` matter to ``mixed`` alone."""
    if name == Mixed.name:
        mix = np.where(owner == MIX, 0, -1)
        targets = Targets(mix, 1 / max(1, int((mix == 0).sum())))
        return Both(objective_batch("ppo", rng, owner, logp, scores), targets)
    n_answers = int(owner.max()) + 1
    inside = owner >= 0
    if name == "next-token":
        return Targets(owner, 1 / 7)
    if name == "reward":
        return ScoredPairs(np.array([np.flatnonzero(owner == a)[-1] for a in range(n_answers)]))
    old = logp + rng.choice((-1.0, 1.0), owner.size) * rng.uniform(0.05, 0.4, owner.size)
    if name == "ppo":
        values = scores + rng.choice((-1.0, 1.0), owner.size) * rng.uniform(0.05, 0.5, owner.size)
        returns = scores + rng.normal(size=owner.size)
        weights = inside / inside.sum()
        return Rollout(weights, old, rng.normal(size=owner.size), values, returns)
    if name == "grpo":
        rewards = group_advantages(rng.normal(size=(2, n_answers // 2)))[0].ravel()
        lengths = np.bincount(owner[inside], minlength=n_answers)
        weights = np.where(inside, 1.0 / (n_answers * lengths[owner]), 0.0)
        reference = logp + 0.5 * rng.normal(size=owner.size)
        return GroupRollout(weights, old, np.where(inside, rewards[owner], 0.0), reference)
    sums = np.bincount(owner[inside], weights=logp[inside], minlength=n_answers)
    reference = sums + rng.normal(size=n_answers)
    if name == "kto":
        labels = np.resize(np.array([1, -1, 0, -1], np.int8), n_answers)
        return Answers(owner, reference, labels, 0.3)
    return Answers(owner, reference)


def objective_kinks(
    batch: Any, logp: Array, scores: Array, objective: Objective
) -> dict[str, Signs]:
    """The side of each kink of the clipped losses."""
    if isinstance(objective, Mixed):
        return objective_kinks(batch.batch, logp, scores, objective.objective)
    signs: dict[str, Signs] = {}
    if isinstance(batch, Rollout | GroupRollout):
        ratio = np.exp(np.minimum(logp - batch.old_logp, MAX_LOG_RATIO))
        clip = objective.config.clip
        signs["clip of a ratio"] = np.array([ratio > 1 + clip, ratio < 1 - clip])
    if isinstance(batch, Rollout):
        clip = objective.config.value_clip
        off = scores - batch.old_values
        kept = np.clip(off, -clip, clip) + batch.old_values - batch.returns
        larger = np.abs(scores - batch.returns) >= np.abs(kept)
        larger |= np.abs(off) <= clip  # the two are one there, but for rounding
        signs["clip of a value"] = np.array([off > clip, off < -clip, larger])
    return signs


def _alone(rng: np.random.Generator, name: str) -> Differentiable:
    """Four answers of uneven length, with positions of no answer before, between and behind."""
    owner = np.array([-1, 0, 0, 0, MIX, 1, 1, -1, MIX, 2, 2, 2, 2, MIX, 3, -1], np.int32)
    logp, scores = -rng.uniform(0.5, 3.0, owner.size), rng.normal(size=owner.size)
    objective = checked_objective(name)
    batch = objective_batch(name, rng, owner, logp, scores)

    def forward() -> dict[str, Array]:
        return {"loss": np.array([objective.loss(batch, logp, scores)])}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dlogp, dscores = overwritten(logp.shape), overwritten(scores.shape)
        objective.gradient(batch, logp, scores, dlogp, dscores)
        found = {"logp": dlogp, "scores": dscores}
        return {name: found[name] * d["loss"] for name in inputs}

    inputs = {}
    if objective.of_logp:
        inputs["logp"] = logp
    if objective.of_scores:
        inputs["scores"] = scores
    return Composed(
        *(f"objective {name}", inputs, forward, backward),
        lambda: objective_kinks(batch, logp, scores, objective),
    )
