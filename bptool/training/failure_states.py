"""Ways in which learning from rewards goes wrong, called by name.

*Reward hacking*: the reward rises while answers become much longer or shorter than they were, or
the model goes out of the bounds that the KL divergence is to keep to. *Collapse*: the entropy of
what is sampled falls to a small part of what it was, so that all answers are one. *Over-
optimisation* (Gao et al. 2023, arXiv:2210.10760): on prompts held out the reward falls back from
its best by more than its noise, while the model still moves away from its reference.

*Constant rewards*: all answers of a step have one reward, so that there is nothing to prefer.

Each is said once a run, and constant rewards at its end once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bptool.errors import RunError
from bptool.training.events import Notice

FIRST_STEPS = 5
"""Steps whose mean is where a run stands at its beginning."""
KEEP = 0.8
"""Of a running mean at each step."""
LENGTH_FACTOR = 2.0
KL_BOUND = 20.0
"""Nats an answer; with a target, four times that."""
ENTROPY_SHARE = 0.1
CONSTANT_STEPS = 3
NOISE = 2.0
"""Standard errors that a mean reward must fall by."""


@dataclass
class Watched:
    """What is remembered from step to step."""

    n: int = 0
    first: dict[str, float] = field(default_factory=dict)
    now: dict[str, float] = field(default_factory=dict)
    best: float = -math.inf
    best_kl: float = 0.0
    said: list[str] = field(default_factory=list)
    n_steps: int = 0
    n_constant: int = 0
    """Steps whose answers all had one reward; their last."""
    constant: float = 0.0


class FailureWatch:
    """Watches a run's statistics. Those of a step that is not finite are passed over.

    Args:
        kl_target: nats an answer that the run aims at, if it does.
    """

    def __init__(self, kl_target: float | None) -> None:
        self._bound = KL_BOUND if kl_target is None else 4 * kl_target
        self._seen = Watched()

    def after_step(self, step: int, statistics: Mapping[str, float]) -> list[Notice]:
        """What is to be said after a training step."""
        seen = self._seen
        said = self._of_constant(step, statistics)
        keys = ("reward", "answer length", "entropy per token", "KL, k3 per answer")
        values = {key: statistics[key] for key in keys}
        if not all(map(math.isfinite, values.values())):
            return said  # or every mean from here on were NaN
        seen.n += 1
        if seen.n <= FIRST_STEPS:
            mean = {k: v + (values[k] - v) / seen.n for k, v in (seen.first or values).items()}
            seen.first, seen.now = mean, dict(mean)
            return said
        seen.now = {k: KEEP * v + (1 - KEEP) * values[k] for k, v in seen.now.items()}
        texts = [f"step {step}: {text}" for text in self._of_training()]
        return said + [Notice(text, "warning") for text in texts]

    def _of_constant(self, step: int, statistics: Mapping[str, float]) -> list[Notice]:
        """Count steps whose answers all have one reward; said where that is so from the start."""
        seen, reward = self._seen, statistics["reward"]
        seen.n_steps += 1
        in_groups = statistics.get("groups without variance") == 1.0
        if _varies(statistics) and not in_groups:
            return []
        seen.n_constant, seen.constant = seen.n_constant + 1, reward
        always = seen.n_constant == seen.n_steps >= CONSTANT_STEPS
        if not (always and self._once("constant")):
            return []
        text = (
            f"step {step}: so far all answers {'to a prompt' if in_groups else 'of a step'} have "
            f"the same reward ({reward:.4g} in the mean): there is nothing to learn from; look at "
            "what rewards, and at samples.txt"
        )
        return [Notice(text, "warning")]

    def at_end(self) -> list[Notice]:
        """What is to be said once the run has ended."""
        seen = self._seen
        if 2 * seen.n_constant < max(seen.n_steps, 1):
            return []
        text = (
            f"in {seen.n_constant:,} of {seen.n_steps:,} steps all answers that were compared had "
            f"the same reward ({seen.constant:.4g} at last): these steps had nothing to learn from"
        )
        return [Notice(text, "warning")]

    def _of_training(self) -> Iterator[str]:
        first, now = self._seen.first, self._seen.now
        length, was = now["answer length"], max(first["answer length"], 1.0)
        risen = now["reward"] > first["reward"] + 0.05 * abs(first["reward"]) + 1e-6
        kl = now["KL, k3 per answer"]
        odd = length > LENGTH_FACTOR * was or length < was / LENGTH_FACTOR
        if risen and (odd or kl > self._bound) and self._once("reward hacking"):
            yield (
                f"reward hacking? The reward rose from {first['reward']:.3g} to "
                f"{now['reward']:.3g} while answers went from {was:.0f} to {length:.0f} tokens and "
                f"the KL divergence to {kl:.3g} nats an answer; read samples.txt, and give more "
                "rollouts.kl_weight or a reward that is harder to please"
            )
        entropy, before = now["entropy per token"], first["entropy per token"]
        if entropy < ENTROPY_SHARE * before and self._once("collapse"):
            yield (
                f"collapse: the entropy of answers fell from {before:.3g} to {entropy:.3g} nats a "
                "token, so that they hardly differ; lower optimizer.learning_rate or give more "
                "weight to the KL divergence"
            )

    def after_evaluation(
        self, statistics: Mapping[str, float], deviation: float, n: int
    ) -> list[Notice]:
        """What is to be said after ``n`` held-out answers, whose rewards have such a deviation."""
        seen, reward = self._seen, statistics["reward"]
        kl = statistics["KL, k3 per answer"]
        said: list[Notice] = []
        if n > 1 and not _varies(statistics) and self._once("constant held out"):
            text = (
                f"all {n:,} answers to held-out prompts have the same reward, {reward:.4g}; as "
                "long as rewards are equal there is nothing to learn from them"
            )
            said.append(Notice(text, "warning"))
        if reward > seen.best:
            seen.best, seen.best_kl = reward, kl
            return said
        fallen = seen.best - reward > NOISE * deviation * math.sqrt(2.0 / max(n, 1))
        if not (fallen and kl > seen.best_kl and self._once("over-optimisation")):
            return said
        text = (
            f"over-optimisation: on held-out prompts the reward fell from {seen.best:.3g} to "
            f"{reward:.3g} while the KL divergence rose from {seen.best_kl:.3g} to {kl:.3g} nats "
            "an answer; the best checkpoint is kept"
        )
        return [*said, Notice(text, "warning")]

    def _once(self, name: str) -> bool:
        if name in self._seen.said:
            return False
        self._seen.said.append(name)
        return True

    def state(self) -> dict[str, Any]:
        """All of it, as plain JSON values."""
        state = asdict(self._seen)
        return {**state, "best": None if math.isinf(self._seen.best) else self._seen.best}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            RunError: it is not that.
        """
        try:
            best = state["best"]
            self._seen = Watched(**{**state, "best": -math.inf if best is None else best})
        except (TypeError, KeyError) as error:
            raise RunError(f"the checkpoint's watch is damaged: {error}; restore it") from None


def _varies(statistics: Mapping[str, float]) -> bool:
    """Whether rewards differ by more than the rounding of their mean."""
    return not statistics["reward deviation"] <= 1e-12 * abs(statistics["reward"])
