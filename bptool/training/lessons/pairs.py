"""Learning from preferences: DPO, IPO and KTO against a reference model, and reward models.

The reference is the model as it was when the run started. What it says of each answer is computed
once, before the first step, and again on a resume, from the run that was started from, whose
weights are held to the hash in the manifest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
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
from bptool.objectives.base import Objective
from bptool.objectives.reward import ScoredPairs
from bptool.training.answers_now import kl_of, packed_answers, rows_of, sample_answers
from bptool.training.baselines import baselines
from bptool.training.calibration import calibration_error
from bptool.training.evaluation import MAX_BLOCKS, Block, Evaluation
from bptool.training.events import Notice
from bptool.training.lessons.base import Judged, Lesson, LessonStep
from bptool.training.step import TrainingStep
from bptool.training.token_shards import Outputs, TokenShards

IMBALANCE = 2.0
"""How often as much one kind of answers may count as the other before that is said."""
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
        notes = [*units.report.notes(), *self._of_labels()]
        self._notices = [Notice(note, "warning") for note in notes]
        most = training.eval_tokens
        self._judged = units.validation if most is None else _first(units.validation, most)
        self._reference_params = None
        if reference is not None and not self._scored:
            self._reference_params = self._shards.model.params(reference)
        self._reference: Array | None = None
        self._reference_judged: Array | None = None

    judges_start = True

    def _of_labels(self) -> Iterable[str]:
        """What to know of the kinds of judged answers, for kto."""
        labels = [unit.label for unit in self.units.train]
        n_good, n_bad = labels.count(1), labels.count(-1)
        if n_good + n_bad == 0:
            return
        if not (n_good and n_bad):
            kind, other = ("desirable", "undesirable")[:: 1 if n_good else -1]
            yield (
                f"all {n_good + n_bad:,} answers to train on are {kind}, none is {other}: there is "
                "nothing that they could be told from, and no margin to show"
            )
            return
        weights = self._objective.config.desirable_weight, self._objective.config.undesirable_weight
        ratio = weights[0] * n_good / max(weights[1] * n_bad, 1e-30)
        if not 1 / IMBALANCE <= ratio <= IMBALANCE:
            name, weight = "desirable_weight", weights[1] * n_bad / n_good
            if ratio > 1:
                name, weight = "undesirable_weight", weights[0] * n_good / n_bad
            yield (
                f"{n_good:,} answers to train on are desirable and {n_bad:,} are not; "
                f"--set objective.{name}={weight:.3g} would let both kinds count alike"
            )

    @property
    def material(self) -> str:
        return str(self.units)

    @property
    def left_out(self) -> str:
        return self.units.report.left_out()

    def held_out(self) -> Sequence[Mapping[str, Any]]:
        apart = "choosing" if self.units.test else "choosing and judging"
        return [
            {"place": unit.place, "used_for": what, "sha256": unit.sha256}
            for units, what in ((self.units.validation, apart), (self.units.test, "judging"))
            for unit in units
        ]

    @property
    def tokens_per_step(self) -> int:
        return self._batch_rows * self._context

    def compile(self) -> None:
        """Also asks the reference, which takes a pass over all answers."""
        rows = rows_of(self._pack(self._judged[:1]))
        self._shards.outputs(self._step.params, rows, of_logp=self._objective.of_logp)
        self._ask_reference()
        if not any(unit.label for unit in self._judged):
            found = baselines(self._judged, self.units.rendering, self._reference_judged)
            shares = ", ".join(f"{one.name} {100 * one.share:.1f} %" for one in found)
            n = len(self._judged)
            text = f"without training, of the {n:,} held-out pairs of the table: {shares}"
            self._notices.append(Notice(text))

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
        if "accuracy" in statistics:
            low, high = wilson(statistics["accuracy"], len(self._judged))
            statistics |= {"accuracy at least": low, "accuracy at most": high}
        if self._scored:
            statistics["calibration error"] = calibration_error(self._margins(packed, outputs))
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

    def _margins(self, packed: PackedUnits, outputs: Outputs) -> Array:
        """Scores of the chosen answers less those of the rejected ones."""
        margins: Array = outputs.scores[packed.last].astype(np.float64).reshape(-1, 2) @ [1.0, -1.0]
        return margins

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
        notices, self._notices = self._notices, []
        return notices

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
