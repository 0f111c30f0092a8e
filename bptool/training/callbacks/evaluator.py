"""Evaluating the weights, keeping account of the best, and saying when they overfit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

from bptool.training.callback import Callback, Event, Reached, State
from bptool.training.evaluation import Evaluation
from bptool.training.events import Evaluated, StepDone
from bptool.training.progress import OVERFITTING_AFTER, Evaluations
from bptool.training.setup import Pieces


class Evaluator(Callback):
    """Evaluates the weights, and their average where one is made, at each interval."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self.kept = Evaluations()
        self.judged: Evaluation | None = None
        """The last evaluation that the best checkpoint is chosen by."""

    def entries(self) -> dict[str, Any]:
        return dataclasses.asdict(self.kept)

    def restore(self, entries: Mapping[str, Any]) -> None:
        names = [field.name for field in dataclasses.fields(Evaluations)]
        self.kept = Evaluations(**{name: entries[name] for name in names})

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, StepDone) and not event.skipped:
            self.kept.loss_sum += event.loss
            self.kept.n_losses += 1
        elif isinstance(event, Reached):
            starts = event.step == 0 and self._pieces.lesson.judges_start
            if starts or (
                event.step > 0 and self._pieces.config.training.is_evaluation(event.step)
            ):
                self._evaluate(event.step)
        elif isinstance(event, Evaluated) and event.overfitting:
            if self.kept.evaluations_since_best == OVERFITTING_AFTER:
                self.warn(
                    f"overfitting: validation loss was best at step {self.kept.best_step:,} "
                    "and rises while the training loss falls; that checkpoint is kept"
                )

    def _evaluate(self, step: int) -> None:
        pieces, kept = self._pieces, self.kept
        start = time.perf_counter()
        raw = pieces.lesson.evaluate(pieces.step.evaluation_params())
        average = None
        if pieces.step.averaging:
            average = pieces.lesson.evaluate(pieces.step.average_params())
        judged = average or raw
        self.judged = judged.evaluation
        train_loss = kept.loss_sum / kept.n_losses if kept.n_losses else None
        kept.loss_sum, kept.n_losses = 0.0, 0
        is_best = kept.best_val_loss is None or self.judged.loss < kept.best_val_loss
        is_best = is_best and self.judged.loss < math.inf
        if is_best:
            kept.best_val_loss, kept.best_step = self.judged.loss, step
            kept.train_loss_at_best, kept.evaluations_since_best = train_loss, 0
        else:
            kept.evaluations_since_best += 1
        of_average = average.evaluation if average else None
        self.emit(
            Evaluated(
                step=step,
                train_loss=math.nan if train_loss is None else train_loss,
                val_loss=raw.evaluation.loss,
                bits_per_byte=raw.evaluation.bits_per_byte,
                n_tokens=raw.evaluation.n_tokens,
                seconds=time.perf_counter() - start,
                is_best=is_best,
                overfitting=kept.overfits(train_loss) and not pieces.lesson.maximised,
                average_val_loss=of_average.loss if of_average else None,
                average_bits_per_byte=of_average.bits_per_byte if of_average else None,
                statistics=judged.statistics,
            )
        )
