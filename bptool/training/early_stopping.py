"""When to stop: the validation loss has not improved by more than its own noise for long enough.

Two losses over the same split differ by less noise than each has on its own, since both models find
the same passages hard. So the comparison is paired. The split is cut into B consecutive blocks of
windows; with d_b the mean loss of block b at the last improvement, less that of now, and v_b its
share of the tokens:

    improvement    = sum_b v_b d_b                             (of the loss over the whole split)
    standard error = sqrt(B / (B - 1) sum_b v_b^2 (d_b - improvement)^2)

It is the standard error of the improvement over text of this kind. Blocks of neighbouring windows,
not single ones, since neighbours may be of one document and so not independent (the method of batch
means). An improvement counts that is above ``standard_errors`` times that and above
``min_improvement``; the evaluation that it is measured from stays the same until then, so that slow
progress adds up.

Sources: paired differences and batch means as in Law, "Simulation Modeling and Analysis", chapters
9 and 10; patience as in Goodfellow, Bengio, Courville, "Deep Learning", section 7.8.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bptool.config.schema import EarlyStopping
from bptool.errors import ConfigError
from bptool.training.callback import Answer, Callback, Event, State, Stop
from bptool.training.evaluation import Evaluation
from bptool.training.events import Evaluated, StoppedEarly

MIN_WINDOWS = 8
"""Fewer give no standard error worth the name."""


@dataclasses.dataclass
class Waiting:
    """Since when there is no improvement; part of a run's progress.

    Attributes:
        losses: mean loss of each block at the last improvement. tokens: targets of each.
        step: of that evaluation.
        evaluations: done since.
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    step: int = 0
    evaluations: int = 0

    @property
    def loss(self) -> float:
        """Mean loss at the last improvement."""
        return float(np.dot(self.losses, self.tokens)) / sum(self.tokens)


def check(n_windows: int) -> None:
    """Raise a ConfigError if so few windows are too few to know how exact a loss is."""
    if n_windows < MIN_WINDOWS:
        raise ConfigError(
            f"training.early_stopping: found {n_windows} windows of validation text, need at least "
            f"{MIN_WINDOWS} to know how exact their loss is; give more text, a larger "
            "data.split.validation_fraction or training.eval_tokens, or a shorter model.context"
        )


def compare(before: list[float], now: list[float], tokens: list[int]) -> tuple[float, float]:
    """Improvement of the mean loss and its standard error, from the mean losses of blocks."""
    share = np.asarray(tokens, np.float64) / sum(tokens)
    difference = np.asarray(before) - np.asarray(now)
    improvement = float(share @ difference)
    squares = share**2 @ (difference - improvement) ** 2
    return improvement, math.sqrt(len(tokens) / (len(tokens) - 1) * float(squares))


def judge(
    waiting: Waiting, found: Evaluation, step: int, settings: EarlyStopping
) -> tuple[float, float]:
    """Compare the evaluation of ``step`` with the last improvement, and bring ``waiting`` up to
    date: the improvement and the margin that it must be above, NaN for the first evaluation and
    for one over other tokens than before, which count as improvements.
    """
    losses, tokens = [b.loss for b in found.blocks], [b.n_tokens for b in found.blocks]
    improvement = margin = math.nan
    if tokens == waiting.tokens:
        improvement, error = compare(waiting.losses, losses, tokens)
        margin = max(settings.standard_errors * error, settings.min_improvement)
    if math.isfinite(found.loss) and (tokens != waiting.tokens or improvement > margin):
        waiting.losses, waiting.tokens = losses, tokens
        waiting.step, waiting.evaluations = step, 0
    else:
        waiting.evaluations += 1
    return improvement, margin


class Patience(Callback):
    """Stops the run where the settings want that and it is due.

    Args:
        settings: None: never. judged: the last evaluation.
    """

    def __init__(
        self, settings: EarlyStopping | None, judged: Callable[[], Evaluation | None]
    ) -> None:
        self._settings, self._judged = settings, judged
        self.waiting = Waiting()

    def entries(self) -> dict[str, Any]:
        return {"waiting": dataclasses.replace(self.waiting)}

    def restore(self, entries: Mapping[str, Any]) -> None:
        self.waiting = dataclasses.replace(entries["waiting"])

    def __call__(self, event: Event, state: State) -> Answer:
        if self._settings is None or not isinstance(event, Evaluated) or event.step == 0:
            return None
        evaluation, waiting = self._judged(), self.waiting
        assert evaluation is not None
        improvement, margin = judge(waiting, evaluation, event.step, self._settings)
        if waiting.evaluations < self._settings.patience:
            return None
        self.emit(
            StoppedEarly(
                step=event.step,
                n_evaluations=waiting.evaluations,
                since_step=waiting.step,
                since_val_loss=waiting.loss,
                improvement=improvement,
                margin=margin,
            )
        )
        return Stop("early stopping")
