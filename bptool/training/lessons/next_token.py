"""Pretraining: the next token of windows of a text, judged on its validation split."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from bptool.data.batches import Batches
from bptool.models.base import Array
from bptool.training.evaluation import evaluate_split
from bptool.training.health import guessing_loss
from bptool.training.lessons.base import Judged, Lesson, LessonStep
from bptool.training.step import TrainingStep


class NextToken(Lesson):
    """Windows of a text and their next tokens.

    Args:
        training_step: what trains. batches: draws the windows.
        validation: the validation split, 1-D. bytes_per_token: UTF-8 bytes of each id, (V,).
        max_tokens: an evaluation reads so many of its tokens at most.
        seed: of what is dropped.

    Attributes:
        tokens, targets: of the last step, (rows, T).
    """

    def __init__(
        self,
        training_step: TrainingStep,
        batches: Batches,
        validation: Array,
        bytes_per_token: Array,
        max_tokens: int | None,
        seed: int,
    ) -> None:
        self._training_step, self.batches = training_step, batches
        self._validation, self._bytes_per_token = validation, bytes_per_token
        self._max_tokens, self._seed = max_tokens, seed
        shape = (batches.n_sequences, batches.context)
        self.tokens, self.targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)

    @cached_property
    def guessing_loss(self) -> float:
        read = len(self._validation) if self._max_tokens is None else self._max_tokens + 1
        n_vocab = len(self._bytes_per_token)
        return guessing_loss(self.batches.tokens, self._validation[1:read], n_vocab)

    @property
    def tokens_per_step(self) -> int:
        return self.batches.n_sequences * self.batches.context

    def step(self, number: int, learning_rate: float) -> LessonStep:
        tokens, targets = self.tokens, self.targets
        n_targets = self.batches.fill(number - 1, tokens, targets)
        take = self._training_step
        result = take(tokens, targets, n_targets, learning_rate, self._seed, number)
        flops = take.model.flops_per_token(self.batches.context) * n_targets
        return LessonStep(result, n_targets, flops)

    def evaluate(self, params: Any) -> Judged:
        shards = self._training_step.shards
        found = evaluate_split(
            shards, params, self._validation, self._bytes_per_token, self._max_tokens
        )
        return Judged(found)
