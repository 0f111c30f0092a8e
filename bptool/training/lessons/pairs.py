"""Learning from preferences: DPO, IPO and KTO against a reference model, and reward models.

The reference is the model as it was when the run started. What it says of each answer is computed
once, before the first step, and again on a resume, from the run that was started from, whose
weights are held to the hash in the manifest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bptool.config.schema import TrainingConfig
from bptool.data.chat.records import Message
from bptool.data.preference_set import (
    PackedUnits,
    PreferenceSet,
    Unit,
    UnitBatches,
    pack_documents,
)
from bptool.feedback.win_rate import wilson
from bptool.models.base import Array
from bptool.objectives.answers import Answers
from bptool.objectives.base import Objective, accuracy
from bptool.objectives.reward import ScoredPairs
from bptool.training.answers_now import kl_of, packed_answers, rows_of, sample_answers
from bptool.training.calibration import calibration_error
from bptool.training.evaluation import MAX_BLOCKS, Block, Evaluation
from bptool.training.events import Notice
from bptool.training.lessons.base import Judged, Lesson, LessonStep
from bptool.training.step import TrainingStep
from bptool.training.token_shards import Outputs, TokenShards

SAMPLED = 16
"""Prompts that are answered at an evaluation, to see length and KL."""
SAMPLED_TOKENS = 64
UNITS = {"dpo": "nats per pair", "ipo": "squared nats per pair", "kto": "per answer"}


class Pairs(Lesson):
    """Pairs of answers, or single judged ones.

    Args:
        training_step: what trains. objective: dpo, ipo, kto or reward.
        units: what is learnt from, and judged by. batch_rows: rows of a step.
        training: seeds, and how much an evaluation reads.
        reference: flat buffer of the weights that the run started from.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        objective: Objective,
        units: PreferenceSet,
        batch_rows: int,
        training: TrainingConfig,
        reference: Array | None,
    ) -> None:
        assert isinstance(training_step.shards, TokenShards)
        self._step, self._shards = training_step, training_step.shards
        self._objective, self.units, self._training = objective, units, training
        self._context, self._batch_rows = self._shards.n_time, batch_rows
        self._scored = not objective.of_logp
        self.batches = UnitBatches(
            units.train, self._context, batch_rows, training.data_seed, self._scored
        )
        self.loss_unit = UNITS.get(objective.name, "nats per pair")  # type: ignore[misc]
        self._notes = list(units.notes(self._context))
        most = training.eval_tokens
        self._judged = units.validation if most is None else _first(units.validation, most)
        self._reference_params = None
        if reference is not None and not self._scored:
            self._reference_params = self._shards.model.params(reference)
        self._reference: Array | None = None
        self._reference_judged: Array | None = None

    @property
    def tokens_per_step(self) -> int:
        return self._batch_rows * self._context

    def compile(self) -> None:
        """Also asks the reference, which takes a pass over all answers."""
        rows = rows_of(self._pack(self._judged[:1]))
        self._shards.outputs(self._step.params, rows, of_logp=self._objective.of_logp)
        self._ask_reference()

    def _pack(self, units: Sequence[Unit]) -> PackedUnits:
        documents = [document for unit in units for document in unit[:2]]
        return pack_documents(documents, self._context, self._scored)

    def _ask_reference(self) -> None:
        if self._reference is None and self._reference_params is not None:
            self._reference = self._sums(self._reference_params, self.units.train)
            self._reference_judged = self._sums(self._reference_params, self._judged)

    def _sums(self, params: Any, units: Sequence[Unit]) -> Array:
        """Log-probability of each answer, (2 * units,)."""
        found = []
        for first in range(0, len(units), 256):
            packed = self._pack(units[first : first + 256])
            logp = self._shards.outputs(params, rows_of(packed)).logp
            inside = packed.owner >= 0
            n = len(packed.last)
            found.append(np.bincount(packed.owner[inside], weights=logp[inside], minlength=n))
        return np.concatenate(found)

    def _batch(
        self, packed: PackedUnits, units: Sequence[Unit], reference: Array | None
    ) -> Answers | ScoredPairs:
        """What the objective needs beside the model's outputs; ``reference`` is of these units."""
        if self._scored:
            return ScoredPairs(packed.last)
        assert reference is not None
        # of each unit the second document is labelled 0: of a pair, no label is read
        labels = np.array([(unit.label, 0) for unit in units], np.int8).reshape(-1)
        return Answers(packed.owner, reference, labels)

    def step(self, number: int, learning_rate: float) -> LessonStep:
        self._ask_reference()
        numbers = self.batches.batch(number)
        units = [self.units.train[i] for i in numbers]
        packed = self._pack(units)
        of_units = np.array([(2 * i, 2 * i + 1) for i in numbers]).reshape(-1)
        reference = None if self._reference is None else self._reference[of_units]
        batch, rows = self._batch(packed, units, reference), rows_of(packed)
        step, seed = self._step, self._training.seed
        losses, outputs = self._shards.gradient_of(
            self._objective, batch, step.params, rows, seed, number
        )
        result = step.apply(step.reduced(losses), learning_rate, seed)
        used = int(packed.rows.used.sum())
        flops = step.model.flops_per_token(self._context) * used
        statistics = self._objective.statistics(batch, *outputs)
        return LessonStep(result, used, flops, statistics)

    def evaluate(self, params: Any) -> Judged:
        self._ask_reference()
        packed = self._pack(self._judged)
        rows = rows_of(packed)
        outputs = self._shards.outputs(params, rows, of_logp=self._objective.of_logp)
        batch = self._batch(packed, self._judged, self._reference_judged)
        loss = self._objective.loss(batch, *outputs)
        statistics = dict(self._objective.statistics(batch, *outputs))
        if self._scored:
            statistics |= self._of_scores(packed, outputs)
        else:
            statistics |= self._of_answers(params)
        blocks = tuple(self._blocks(batch, outputs))
        return Judged(Evaluation(loss, len(self._judged), 0, blocks), statistics)

    def _blocks(self, batch: Answers | ScoredPairs, outputs: Outputs) -> Iterable[Block]:
        """Losses of groups of units."""
        n = len(self._judged)
        n_groups = min(n, MAX_BLOCKS)
        edges = [n * g // n_groups for g in range(n_groups + 1)]
        for first, stop in itertools.pairwise(edges):
            part = _part(batch, 2 * first, 2 * stop)
            yield Block(self._objective.loss(part, *outputs), stop - first)

    def _of_scores(self, packed: PackedUnits, outputs: Outputs) -> dict[str, float]:
        margins = outputs.scores[packed.last].astype(np.float64).reshape(-1, 2) @ [1.0, -1.0]
        low, high = wilson(accuracy(margins), len(margins))
        return {
            "accuracy at least": low,
            "accuracy at most": high,
            "calibration error": calibration_error(margins),
        }

    def _of_answers(self, params: Any) -> dict[str, float]:
        """Length and KL of answers sampled now."""
        rendering = self.units.rendering
        prompts = list(dict.fromkeys(unit.prompt for unit in self._judged))[:SAMPLED]
        answered = sample_answers(
            *(self._shards, params, [rendering.prompt(p) for p in prompts], 1, SAMPLED_TOKENS),
            *(rendering, self._training.seed),
        )
        packed = packed_answers(answered, self._context)
        rows, n = rows_of(packed), len(answered.documents)
        logp = self._shards.outputs(params, rows).logp
        reference = self._shards.outputs(self._reference_params, rows).logp
        k1, k3 = kl_of(logp, reference, packed.owner, n)
        return {
            "KL, k1 per answer": k1,
            "KL, k3 per answer": k3,
            "answer length": float(answered.lengths.mean()),
            "answers that end": float(answered.ended.mean()),
        }

    def notices(self) -> Iterable[Notice]:
        notes, self._notes = self._notes, []
        return [Notice(note, "warning") for note in notes]

    def opening(self, step: int) -> Sequence[Message]:
        return self._judged[step % len(self._judged)].prompt


def _first(units: Sequence[Unit], n_tokens: int) -> tuple[Unit, ...]:
    """The first units of about ``n_tokens``, at least one."""
    ends = np.cumsum([sum(len(d.ids) for d in unit[:2]) for unit in units])
    return tuple(units[: max(1, math.floor(np.searchsorted(ends, n_tokens, side="right")))])


def _part(batch: Answers | ScoredPairs, first: int, stop: int) -> Answers | ScoredPairs:
    """The documents from ``first`` to ``stop`` of a batch."""
    if isinstance(batch, ScoredPairs):
        return ScoredPairs(batch.places[first:stop])
    inside = (batch.owner >= first) & (batch.owner < stop)
    owner = np.where(inside, batch.owner - first, -1).astype(np.int32)
    part = slice(first, stop)
    return Answers(owner, batch.reference[part], batch.labels[part])
