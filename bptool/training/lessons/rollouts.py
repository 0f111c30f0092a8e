"""Learning from rewards of sampled answers: PPO and GRPO.

A step samples answers to its prompts, has them rewarded, and makes a few updates on them:

    PPO   rewards of a token: - kl_weight * KL estimate, and at the last token the answer's reward
          as normalised over the step; values from a scalar head on the policy's own trunk, which
          starts at 0; advantages by GAE
    GRPO  advantages within the answers to one prompt; the KL divergence is part of the loss

The value function shares the policy's trunk: on a CPU a second model would cost as much as the
first, and ``objective.value_weight`` says how much the trunk follows it. Answers are drawn at
temperature 1, so that what is sampled is the policy, and are functions of the weights, the seed,
the step and their number.

Sources: Ouyang et al. 2022, arXiv:2203.02155, sections 3.5 and C; Ziegler et al. 2019,
arXiv:1909.08593, section 2.2 for the adaptive weight; Shao et al. 2024, arXiv:2402.03300.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bptool.config.rollouts_section import RolloutsConfig
from bptool.config.schema import TrainingConfig
from bptool.data.batches import Batches
from bptool.data.chat.records import Message
from bptool.data.preference_set import PackedUnits
from bptool.data.record_report import RecordReport
from bptool.errors import RunError
from bptool.feedback.prompts import OF_PROMPTS, PromptRecord, as_messages
from bptool.models.base import Array
from bptool.objectives.base import Objective
from bptool.objectives.gae import gae
from bptool.objectives.grpo import GRPO, GroupRollout, group_advantages
from bptool.objectives.mixed import Both, Mixed
from bptool.objectives.next_token import Targets
from bptool.objectives.ppo import Rollout
from bptool.training.answers_now import Answered, kl_of, packed_answers, rows_of, sample_answers
from bptool.training.evaluation import Block, Evaluation
from bptool.training.events import Notice
from bptool.training.failure_states import FailureWatch
from bptool.training.lessons.base import Judged, Lesson, LessonStep
from bptool.training.lessons.records import epoch_rows
from bptool.training.prompt_set import PromptSet
from bptool.training.scorer import Rewards
from bptool.training.step import TrainingStep
from bptool.training.token_shards import Outputs, Rows, TokenShards

ADAPTATION, MOST_OFF = 0.1, 0.2
"""Ziegler et al.: how fast the weight of the KL divergence is adapted, the bound of its error."""
EVALUATED = 64
"""Prompts that an evaluation answers at most."""
FORWARD = 1 / 3
"""Share of a step's FLOPs that its forward takes."""


class Sampled(NamedTuple):
    """Answers of one step, rewarded and packed."""

    answered: Answered
    rewards: Array
    """(A,) as given, without the penalty."""
    packed: PackedUnits
    rows: Rows
    places: Array
    """(M,) flat places of all answers' tokens, answer after answer."""
    offsets: Array
    """(A + 1,) where each answer's tokens begin among them."""


class Rollouts(Lesson):
    """Answers that are sampled, rewarded and learnt from.

    Args:
        training_step: what trains. objective: ppo or grpo.
        prompts: what is answered. settings: how. rewards: what rewards an answer.
        training: seeds. reference: flat buffer of the weights that the run started from.
        mix: tokens of the pretraining mix, or None.
    """

    judged_as, maximised = "held-out reward less penalties", True
    judges_start = True

    def __init__(
        self,
        training_step: TrainingStep,
        objective: Objective,
        prompts: PromptSet,
        settings: RolloutsConfig,
        training: TrainingConfig,
        reference: Array,
        rewards: Rewards,
        mix: Array | None = None,
    ) -> None:
        assert isinstance(training_step.shards, TokenShards)
        self._step, self._shards = training_step, training_step.shards
        self._objective, self._rewards = objective, rewards
        self.prompts, self._settings, self._training = prompts, settings, training
        self._context = self._shards.n_time
        self._reference = self._shards.model.params(reference)
        self._mix = mix
        self._kl_weight = settings.kl_weight
        self._in_groups = isinstance(objective, GRPO)
        self._drops = self._shards.model.drops
        self._watch = FailureWatch(settings.kl_target)
        self._notices = [Notice(text, "warning") for text in prompts.report.notes()]

    @property
    def n_answers(self) -> int:
        """Answers of a step."""
        return self._settings.prompts * self._settings.answers

    @property
    def tokens_per_step(self) -> int:
        mean = float(np.mean([len(ids) for ids in self.prompts.train_ids]))
        return round(self.n_answers * (mean + self._settings.max_tokens))

    def check(self) -> None:
        """Also says which columns of the records the reward does not look at."""
        records = [*self.prompts.train, *self.prompts.validation]
        self._rewards.check(records)
        unused = RecordReport()
        for key in (key for record in records for key in record.columns):
            if key not in OF_PROMPTS and not self._rewards.uses(key):
                unused.add_unused(key)
        self._notices += [Notice(text) for text in unused.notes()]

    def digest(self, rewarded_by: str) -> str:
        """A hash of what is learnt from, where ``rewarded_by`` is that of what rewards."""
        return self.prompts.digest(self._mix, rewarded_by)

    def compile(self) -> None:
        sampled = self._sample(self._step.params, [0], 1, 0)
        self._shards.outputs(self._step.params, sampled.rows)

    def _sample(self, params: Any, numbers: Sequence[int], n: int, first: int) -> Sampled:
        """Answers to training prompts; ``first`` numbers the draws."""
        ids = [self.prompts.train_ids[i] for i in numbers]
        asked = [self.prompts.train[i] for i in numbers]
        return self._rewarded(params, asked, ids, n, self._training.seed, first)

    def _rewarded(
        self, params: Any, asked: Sequence[PromptRecord], ids: Any, n: int, seed: int, first: int
    ) -> Sampled:
        rendering, most = self.prompts.rendering, self._settings.max_tokens
        answered = sample_answers(self._shards, params, ids, n, most, rendering, seed, first)
        texts = [rendering.text(d.ids[d.n_prompt :].tolist()) for d in answered.documents]
        prompts = [prompt for prompt in asked for _ in range(n)]
        rewards = self._rewards.scores(prompts, texts)
        packed = packed_answers(answered, self._context)
        inside = np.flatnonzero(packed.owner >= 0)
        places = inside[np.argsort(packed.owner[inside], kind="stable")]
        counts = np.bincount(packed.owner[places], minlength=len(texts))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return Sampled(answered, rewards, packed, rows_of(packed), places, offsets)

    def _penalised(self, sampled: Sampled, unit: float = 1.0) -> Array:
        """Rewards less the penalty, so many ``unit``, of answers that do not end, (A,)."""
        unended = ~sampled.answered.ended
        rewards: Array = sampled.rewards - self._settings.end_penalty * unit * unended
        return rewards

    def _scaled(self, sampled: Sampled) -> Array:
        """What ppo makes of the rewards, (A,): with ``rollouts.normalise`` those of the step as one
        group, so that ``kl_weight`` and ``end_penalty`` are in standard deviations of them."""
        if not self._settings.normalise:
            return self._penalised(sampled)
        scaled, _ = group_advantages(sampled.rewards[np.newaxis])
        return scaled[0] - self._settings.end_penalty * ~sampled.answered.ended

    def step(self, number: int, learning_rate: float) -> LessonStep:
        settings, step = self._settings, self._step
        numbers = epoch_rows(
            len(self.prompts.train), settings.prompts, number, self._training.data_seed
        )
        sampled = self._sample(
            step.params, numbers.tolist(), settings.answers, (number - 1) * self.n_answers
        )
        reference = self._shards.outputs(self._reference, sampled.rows).logp
        rows, targets = self._with_mix(sampled.rows, number)
        seed, first_mask = self._training.seed, (number - 1) * settings.updates
        # where nothing is dropped, the forward of the first update is the model that sampled
        mask = None if self._drops else (seed, first_mask)
        outputs = self._shards.outputs(step.params, rows, mask)
        n = len(sampled.packed.owner)
        old = Outputs(outputs.logp[:n], outputs.scores[:n])
        statistics = self._statistics(sampled, old.logp, reference)
        objective, batch = self._objective, self._batch(sampled, old, reference, statistics)
        if targets is not None:
            objective = Mixed(objective, settings.mix_weight)
            longer = (np.concatenate([x, np.zeros(len(targets.targets) - n)]) for x in batch)
            batch = Both(Rollout(*longer), targets)
        for update in range(settings.updates):
            drawn = seed, first_mask + update
            if update > 0 or mask is None:
                outputs = self._shards.outputs(step.params, rows, drawn)
            losses = self._shards.gradient_at(objective, batch, outputs, step.params, rows, *drawn)
            result = step.apply(step.reduced(losses), learning_rate, seed)
            if not result.updated:
                break
        statistics |= objective.statistics(batch, *outputs)
        if not self._in_groups:
            self._kl_weight *= kl_factor(statistics["KL, k3 per answer"], settings.kl_target)
        self._notices += self._watch.after_step(number, statistics)
        used = int(sampled.packed.rows.used.sum())
        flops = step.model.flops_per_token(self._context) * used
        passes = settings.updates + 2 * FORWARD  # sampling, and the reference model
        return LessonStep(result, used, flops * passes, statistics)

    def _statistics(self, sampled: Sampled, logp: Array, reference: Array) -> dict[str, float]:
        n = len(sampled.rewards)
        k1, k3 = kl_of(logp, reference, sampled.packed.owner, n)
        return {
            "reward": float(sampled.rewards.mean()),
            "reward deviation": float(sampled.rewards.std()),
            "KL, k1 per answer": k1,
            "KL, k3 per answer": k3,
            # the mean of - log pi over what pi samples is an estimate of its entropy
            "entropy per token": -float(logp[sampled.places].mean(dtype=np.float64)),
            "answer length": float(sampled.answered.lengths.mean()),
            "answers that end": float(sampled.answered.ended.mean()),
        }

    def _rollout(self, sampled: Sampled, logp: Array, scores: Array, reference: Array) -> Rollout:
        """PPO's batch: KL penalties and rewards token by token, then advantages."""
        settings, places, offsets, n = self._settings, sampled.places, sampled.offsets, logp.size
        off = logp[places].astype(np.float64) - reference[places]
        if settings.kl_estimator == "k3":
            off = np.exp(np.minimum(-off, 20.0)) - 1.0 + off
        rewards = -self._kl_weight * off
        rewards[offsets[1:] - 1] += self._scaled(sampled)
        values = scores[places].astype(np.float64)
        advantages, returns = np.empty_like(rewards), np.empty_like(rewards)
        discounts = settings.gamma, settings.gae_lambda
        gae(advantages, returns, rewards, values, offsets, *discounts)
        if settings.whiten:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return Rollout(
            weights=_spread(n, places, np.full(len(places), 1.0 / len(places))),
            old_logp=logp.astype(np.float64),
            advantages=_spread(n, places, advantages),
            old_values=scores.astype(np.float64),
            returns=_spread(n, places, returns),
        )

    def _groups(
        self, sampled: Sampled, logp: Array, reference: Array
    ) -> tuple[GroupRollout, float]:
        """GRPO's batch, and the share of groups that teach nothing."""
        groups = self._penalised(sampled).reshape(-1, self._settings.answers)
        advantages, flat = group_advantages(groups)
        counts, n, places = np.diff(sampled.offsets), logp.size, sampled.places
        batch = GroupRollout(
            weights=_spread(n, places, np.repeat(1.0 / (len(counts) * counts), counts)),
            old_logp=logp.astype(np.float64),
            advantages=_spread(n, places, np.repeat(advantages.ravel(), counts)),
            reference=reference.astype(np.float64),
        )
        return batch, flat

    def _batch(
        self, sampled: Sampled, old: Outputs, reference: Array, statistics: dict[str, float]
    ) -> Any:
        """What the objective learns from; adds to ``statistics``."""
        if self._in_groups:
            batch, flat = self._groups(sampled, old.logp, reference)
            statistics["groups without variance"] = flat
            return batch
        statistics["KL weight"] = self._kl_weight
        return self._rollout(sampled, old.logp, old.scores, reference)

    def _with_mix(self, rows: Rows, number: int) -> tuple[Rows, Targets | None]:
        """Rows with as many of the pretraining mix behind, and what those are to predict."""
        if self._mix is None or self._in_groups:
            return rows, None
        shape = rows.tokens.shape
        windows = Batches(self._mix, shape[0], shape[1], "random", self._training.data_seed)
        tokens, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        n_targets = windows.fill(number - 1, tokens, targets)
        both = Rows(
            np.concatenate([rows.tokens, tokens]),
            np.concatenate([rows.targets, targets]),
            np.concatenate([rows.starts, np.zeros(shape, np.int32)]),
        )
        nothing = np.full(rows.tokens.size, -1, np.int32)
        flat = np.concatenate([nothing, targets.reshape(-1)])
        return both, Targets(flat, 1.0 / n_targets)

    def evaluate(self, params: Any) -> Judged:
        n = min(EVALUATED, len(self.prompts.validation))
        sampled = self._rewarded(
            *(params, self.prompts.validation[:n], self.prompts.validation_ids[:n], 1),
            *(self._training.seed + 1, 0),  # the same draws at every evaluation
        )
        logp = self._shards.outputs(params, sampled.rows).logp
        reference = self._shards.outputs(self._reference, sampled.rows).logp
        statistics = self._statistics(sampled, logp, reference)
        unit = self._unit(sampled.rewards)
        penalised = self._penalised(sampled, unit)
        loss = unit * self._kl_cost(statistics) - float(penalised.mean())
        self._notices += self._watch.after_evaluation(statistics, float(penalised.std()), n)
        blocks = tuple(Block(-float(reward), 1) for reward in penalised)
        return Judged(Evaluation(loss, n, 0, blocks), statistics)

    def _kl_cost(self, statistics: Mapping[str, float]) -> float:
        """What the KL divergence takes off an answer's reward, as the objective weighs it."""
        kl = statistics["KL, k3 per answer"]
        if self._in_groups:  # its weight is of the mean over tokens
            return float(self._objective.config.kl_weight) * kl / statistics["answer length"]
        return self._kl_weight * kl

    def _unit(self, rewards: Array) -> float:
        """What the KL weight and the penalty of answers that do not end are in: the deviation of
        the rewards where ppo normalises them."""
        normalised = self._settings.normalise and not self._in_groups
        return float(rewards.std()) if normalised else 1.0

    def notices(self) -> Iterable[Notice]:
        notices, self._notices = self._notices, []
        return notices

    def opening(self, step: int) -> Sequence[Message]:
        return as_messages(self.prompts.validation[step % len(self.prompts.validation)].prompt)

    @property
    def material(self) -> str:
        return str(self.prompts)

    @property
    def left_out(self) -> str:
        return self.prompts.report.left_out()

    def closing(self) -> Iterable[Notice]:
        return self._watch.at_end()

    def held_out(self) -> Sequence[Mapping[str, Any]]:
        return [{"place": r.place, "used_for": "choosing"} for r in self.prompts.validation]

    def state(self) -> dict[str, Any]:
        return {"kl_weight": self._kl_weight, "watch": self._watch.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        weight, watch = state.get("kl_weight"), state.get("watch")
        if not isinstance(weight, float) or not isinstance(watch, dict):
            raise RunError(f"the checkpoint is of another kind of training: {sorted(state)}")
        self._kl_weight = weight
        self._watch.load(watch)


def kl_factor(kl: float, target: float | None) -> float:
    """What the weight of the KL divergence is multiplied by after a step whose divergence was
    ``kl`` nats an answer; 1 without a target, and where the step was not finite."""
    if target is None or not math.isfinite(kl):
        return 1.0
    return 1.0 + ADAPTATION * min(max(kl / target - 1.0, -MOST_OFF), MOST_OFF)


def _spread(n: int, places: Array, values: Array) -> Array:
    """``values`` at their places among ``n``, and 0 elsewhere."""
    found = np.zeros(n)
    found[places] = values
    return found
