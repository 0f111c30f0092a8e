"""One trial of a study: a configuration trained from its first step to its last, nothing kept
but its numbers. Every number but the seconds is a function of the configuration and the text.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from dataclasses import dataclass

from bptool.comparison.records import Point, Status
from bptool.config.schema import RunConfig
from bptool.data.corpus import Corpus
from bptool.training.callback import Answer, Callback, Event, Observer, Reached, State, Stop
from bptool.training.callbacks.skips import NonFinite
from bptool.training.compiling import compile_kernels
from bptool.training.events import Listener, StepDone
from bptool.training.lessons.next_token import NextToken
from bptool.training.loop import Loop
from bptool.training.setup import Pieces, build

DIVERGED_AT = 10.0
"""A final loss above this many times the initial weights' is divergence, though it is a number."""
UNTIMED_STEPS = 3
"""Steps before those that :func:`time_steps` measures, in which caches and clocks settle."""


@dataclass(frozen=True)
class Outcome:
    """What a trial came to."""

    status: Status
    steps: int
    """Steps done, skipped ones among them."""
    skipped: int
    curve: tuple[Point, ...]
    """One point an evaluation, the initial weights' at step 0 first."""
    final_loss: float
    """Validation loss after the last step; infinite where the trial diverged."""
    best_loss: float
    """Lowest validation loss of any evaluation after the first step; infinite if none is."""
    best_step: int
    seconds: float
    """Wall time from the first evaluation to the last; compiling kernels is apart."""
    step_seconds: float
    """Median time of a step; NaN if there was none."""
    state_bytes: int
    """Memory of the optimizer's state."""
    tokens_per_step: int
    weights_sha256: str
    """Of the initial weights."""
    batches_sha256: str
    """Of all tokens and targets trained on, in order."""


def run_trial(
    config: RunConfig, corpus: Corpus, listener: Listener = lambda event: None
) -> Outcome:
    """Train ``config`` on ``corpus``, evaluating as it says.

    It has diverged where ten steps in a row had no finite gradient (as in ``bptool train``) or
    where a validation loss is not finite, and ends there. Also where its last step was skipped,
    since that changes no weight and the next ones would be skipped too, or where its last loss is
    above ``DIVERGED_AT`` times its first.

    ``listener`` is told when kernels are compiled, and of each step.
    """
    pieces = build(config, corpus)
    try:
        compile_kernels(pieces, listener)
        start = time.perf_counter()
        curve, skips = Curve(pieces), NonFinite(config.training.max_skipped)
        callbacks = [curve, Observer(listener), skips]
        state = State(0, config.training.steps)
        loop = Loop(pieces.lesson, pieces.learning_rate, callbacks, state)
        stop = loop.run()
    finally:
        pieces.close()
    points = curve.points
    later = [point for point in points[1:] if math.isfinite(point.val_loss)]
    best = min(later, key=lambda point: point.val_loss, default=None)
    bound = DIVERGED_AT * points[0].val_loss
    completed = stop is None and not skips.in_a_row and points[-1].val_loss <= bound
    return Outcome(
        status="completed" if completed else "diverged",
        steps=loop.state.step,
        skipped=loop.state.n_skipped,
        curve=tuple(points),
        final_loss=points[-1].val_loss if completed else math.inf,
        best_loss=best.val_loss if best else math.inf,
        best_step=best.step if best else 0,
        seconds=time.perf_counter() - start,
        step_seconds=statistics.median(curve.step_seconds) if curve.step_seconds else math.nan,
        state_bytes=sum(slot.nbytes for slot in pieces.step.slots.values()),
        tokens_per_step=pieces.lesson.tokens_per_step,
        weights_sha256=curve.weights_sha256,
        batches_sha256=curve.batches.hexdigest(),
    )


def time_steps(config: RunConfig, corpus: Corpus, n: int) -> float:
    """Mean seconds of ``n`` steps from the initial weights, batch, update and all.

    The mean, because a rule may do at some steps what it does not do at others: SOAP finds its
    eigenbasis at every tenth.
    """
    pieces = build(config, corpus)
    try:
        compile_kernels(pieces, lambda event: None)
        clock = Clock(UNTIMED_STEPS)
        Loop(pieces.lesson, pieces.learning_rate, [clock], State(0, UNTIMED_STEPS + n)).run()
        return (time.perf_counter() - clock.start) / n
    finally:
        pieces.close()


class Clock(Callback):
    """Knows when step ``n_before`` was done."""

    def __init__(self, n_before: int) -> None:
        self._n_before, self.start = n_before, 0.0

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, Reached) and event.step == self._n_before:
            self.start = time.perf_counter()


class Curve(Callback):
    """What a trial measures: its evaluations, what it trained on, and how long steps took."""

    def __init__(self, pieces: Pieces) -> None:
        assert isinstance(pieces.lesson, NextToken)
        self._lesson, self._step = pieces.lesson, pieces.step
        self._training = pieces.config.training
        self.weights_sha256 = hashlib.sha256(pieces.step.weights.tobytes()).hexdigest()
        self.batches = hashlib.sha256()
        self.points: list[Point] = []
        self.step_seconds: list[float] = []
        self._losses: list[float] = []
        """Training losses since the last evaluation."""

    def __call__(self, event: Event, state: State) -> Answer:
        if isinstance(event, StepDone):
            self.step_seconds.append(event.seconds)
            self.batches.update(self._lesson.tokens.tobytes())
            self.batches.update(self._lesson.targets.tobytes())
            if not event.skipped:
                self._losses.append(event.loss)
        elif isinstance(event, Reached):
            if event.step == 0 or self._training.is_evaluation(event.step):
                return self._evaluate(event.step)
        return None

    def _evaluate(self, step: int) -> Answer:
        """Add a point to the curve; where its loss is not finite, the trial ends."""
        loss = self._lesson.evaluate(self._step.average_params()).evaluation.loss
        train_loss = statistics.fmean(self._losses) if self._losses else math.nan
        self._losses = []
        self.points.append(Point(step, train_loss, loss, math.fsum(self.step_seconds)))
        return None if math.isfinite(loss) else Stop("diverged")
