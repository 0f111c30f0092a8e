"""Supervised fine-tuning: what the assistant says in records of conversations.

loss = - sum of logp over the trained targets of the batch / their number, over all rows, shards and
micro-batches: a record counts by its tokens, however rows and micro-batches divide them.
Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from bptool.config.schema import TrainingConfig
from bptool.data.batches import raw_words, shuffled
from bptool.data.chat.dataset import ChatSet
from bptool.data.chat.records import Message
from bptool.models.base import Array
from bptool.training.evaluation import evaluate_rows
from bptool.training.events import Notice
from bptool.training.health import guessing_loss
from bptool.training.lessons.base import Judged, Lesson, LessonStep
from bptool.training.step import TrainingStep

_STREAM_EXAMPLES = 0x5F7A_0001


class Records(Lesson):
    """Rows of packed records, every row once an epoch in a fresh order.

    Args:
        training_step: what trains. records: the rows. batch_rows: rows of a step.
        training: seeds, and how much an evaluation reads. bytes_per_token: UTF-8 bytes of each id.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        records: ChatSet,
        batch_rows: int,
        training: TrainingConfig,
        bytes_per_token: Array,
    ) -> None:
        self._training_step, self.records = training_step, records
        self._batch_rows, self._training = batch_rows, training
        self._bytes_per_token = bytes_per_token
        self._notes = list(records.report.notes())
        most = training.eval_tokens
        context = training_step.shards.n_time
        self._n_judged = len(records.validation) if most is None else max(1, most // context)

    @cached_property
    def guessing_loss(self) -> float:
        judged = self.records.validation.first(self._n_judged).targets
        n_vocab = len(self._bytes_per_token)
        return guessing_loss(self.records.train.targets.ravel(), judged.ravel(), n_vocab)

    @property
    def tokens_per_step(self) -> int:
        return self._batch_rows * self._training_step.shards.n_time

    def rows(self, number: int) -> Array:
        """Which rows step ``number``, from 1, trains on."""
        return epoch_rows(
            len(self.records.train), self._batch_rows, number, self._training.data_seed
        )

    def step(self, number: int, learning_rate: float) -> LessonStep:
        rows, packed = self.rows(number), self.records.train
        tokens, targets, starts = (x[rows] for x in (packed.tokens, packed.targets, packed.starts))
        n_targets = int((targets >= 0).sum())
        take = self._training_step
        result = take(
            tokens, targets, n_targets, learning_rate, self._training.seed, number, starts
        )
        used = int(packed.used[rows].sum())
        return LessonStep(result, used, take.model.flops_per_token(tokens.shape[1]) * used)

    def evaluate(self, params: Any) -> Judged:
        shards, rows = self._training_step.shards, self.records.validation
        part = rows.first(self._n_judged)
        return Judged(evaluate_rows(shards, params, part, self._bytes_per_token))

    def notices(self) -> Iterable[Notice]:
        notes, self._notes = self._notes, []
        return [Notice(note, "warning") for note in notes]

    @property
    def material(self) -> str:
        return str(self.records)

    @property
    def left_out(self) -> str:
        return self.records.report.left_out()

    def opening(self, step: int) -> Sequence[Message]:
        examples = self.records.examples
        if not examples:
            return ()
        word = int(raw_words(self._training.seed, _STREAM_EXAMPLES, step, 1)[0])
        return examples[word % len(examples)].opening


def epoch_rows(n_rows: int, batch_rows: int, number: int, seed: int) -> Array:
    """The rows of step ``number``, from 1: each once an epoch, which may end within a step."""
    drawn = (number - 1) * batch_rows + np.arange(batch_rows, dtype=np.uint64)
    epochs, places = np.divmod(drawn, np.uint64(n_rows))
    rows = np.empty_like(drawn)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        of_epoch = epochs == epoch
        rows[of_epoch] = shuffled(places[of_epoch], n_rows, seed, epoch)
    return rows.astype(np.int64)
