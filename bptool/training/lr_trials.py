"""The learning rate by short runs: a range test says where to begin, runs say what is best.

Each trial trains the configuration from its initial weights for ``n_steps`` steps, with its
schedule squeezed into them, and takes the loss over the same first tokens of the validation part.
So trials differ by their rate alone, and the noise of batches cancels between them.

The search climbs down in factors of 2 from the sweep's promising rate, until the best rate has a
worse one on both sides, and then tries a factor of sqrt(2) to either side of it. It stays within
the rates that the sweep tried before it blew up. Going up from the lowest rate tried, rates from
the first **clear rise** on are left out: a loss above the lowest before it by ``CLEAR_RISE`` of the
whole fall. What is left and has a loss within ``TOLERANCE`` of the fall of the best is about as
good. **Suggested** is the middle one of those, the lower of two: where they are many, those at the
ends are likelier to be bad ones for the whole run. Nothing is suggested where the loss of no trial
fell by ``LEAST_FALL`` of that of the initial weights. ``docs/experiments.md`` has how well that
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bptool.config.schema import RunConfig
from bptool.data.corpus import Corpus
from bptool.training.callback import Answer, Callback, Event, State, Stop
from bptool.training.evaluation import evaluate_split
from bptool.training.events import StepDone
from bptool.training.loop import Loop
from bptool.training.lr_find import (
    LEAST_FALL,
    Listener,
    RangeTest,
    Sweep,
    TrialDone,
    TrialStep,
    sweep_rates,
)
from bptool.training.setup import Pieces, build
from bptool.training.start import Start

N_STEPS = 150
JUDGED_TOKENS = 8192
"""Of the validation part, by which a trial is judged."""
MOST_TRIALS = 10
CLEAR_RISE, TOLERANCE = 0.1, 0.02
WARMUP_SHARE = 4
"""A trial warms up for at most one in so many of its steps."""


@dataclass(frozen=True)
class Finding:
    """What a sweep and its trials found.

    Attributes:
        n_steps: of a trial.
        losses: validation loss after the trial at each rate, infinite where it diverged.
        initial_loss: that of the initial weights, NaN where there was no trial.
        interrupted: whether it was stopped.
    """

    sweep: Sweep
    n_steps: int
    losses: Mapping[float, float] = field(default_factory=dict)
    initial_loss: float = math.nan
    interrupted: bool = False

    @property
    def suggested(self) -> float | None:
        """The rate to train with; None where no trial's loss fell."""
        return suggest(self.losses, self.initial_loss)

    def to_json(self) -> dict[str, Any]:
        """As plain values; a loss that is not finite is null."""
        sweep = self.sweep
        return {
            "suggested_rate": self.suggested,
            "trials": [
                {"rate": rate, "validation_loss": _or_null(loss)}
                for rate, loss in sorted(self.losses.items())
            ],
            "trial_steps": self.n_steps,
            "initial_validation_loss": _or_null(self.initial_loss),
            "promising_rate": sweep.promising,
            "lowest_loss_rate": sweep.best,
            "steepest_descent_rate": sweep.steepest,
            "ending": sweep.ending,
            "low": sweep.test.low,
            "high": sweep.test.high,
            "n_steps": sweep.test.n_steps,
            "initial_loss": _or_null(sweep.losses[0]),
            "initial_smoothed_loss": sweep.smoothed[0],
            "rates": sweep.rates,
            "losses": [_or_null(loss) for loss in sweep.losses[1:]],
            "smoothed_losses": sweep.smoothed[1:],
        }


def suggest(losses: Mapping[float, float], initial: float) -> float | None:
    """The rate to train with, by the losses after trials and that of the initial weights."""
    fall = initial - min(losses.values(), default=math.inf)
    before_rise: dict[float, float] = {}
    for rate, loss in sorted(losses.items()):
        if loss > min([*before_rise.values(), initial]) + CLEAR_RISE * fall:
            break
        before_rise[rate] = loss
    lowest = min(before_rise.values(), default=math.inf)
    fall = initial - lowest
    if not fall >= LEAST_FALL * initial:
        return None
    good = [rate for rate, loss in before_rise.items() if loss <= lowest + TOLERANCE * fall]
    return good[(len(good) - 1) // 2]


def search(loss_at: Callable[[float], float], start: float, low: float, high: float) -> None:
    """Ask for the losses at rates from ``start`` on, downhill, between ``low`` and ``high``."""
    tried: dict[int, float] = {}

    def ask(place: int) -> bool:
        """Whether there was a loss to ask for: of ``place`` factors of sqrt(2) from the start."""
        rate = start * math.sqrt(2.0) ** place
        if place in tried or not low <= rate <= high or len(tried) == MOST_TRIALS:
            return False
        tried[place] = loss_at(rate)
        return True

    ask(0)
    best = 0
    while ask(best + 2) or ask(best - 2):
        best = min(tried, key=lambda place: (tried[place], place))
    for place in (best + 1, best - 1):
        ask(place)


class Interrupted(Exception):
    """A trial was told to stop."""


@dataclass
class Trials:
    """Short runs of a configuration, each from its initial weights."""

    config: RunConfig
    corpus: Corpus
    start: Start | None
    n_steps: int
    listener: Listener
    should_stop: Callable[[], bool]
    losses: dict[float, float] = field(default_factory=dict)
    initial_loss: float = math.nan

    def __call__(self, rate: float) -> float:
        """The validation loss after a run at ``rate``; infinite where it diverged.

        Raises:
            Interrupted: it was told to stop.
        """
        pieces = build(self.config, self.corpus, start=self.start)
        try:
            pieces.step.compile()
            if not self.losses:
                self.initial_loss = self._judge(pieces)
            loss = self._judge(pieces) if self._train(pieces, rate) else math.inf
        finally:
            pieces.close()
        self.losses[rate] = loss = loss if math.isfinite(loss) else math.inf
        self.listener(TrialDone(len(self.losses), rate, self.n_steps, loss))
        return loss

    def _train(self, pieces: Pieces, rate: float) -> bool:
        """Take the steps; False where a loss or gradient was not finite."""
        watching = TrialWatch(
            lambda step, loss: self.listener(
                TrialStep(len(self.losses) + 1, rate, step, self.n_steps, loss)
            ),
            self.should_stop,
        )
        loop = Loop(
            pieces.lesson,
            lambda step: rate * squeezed_factor(pieces, step, self.n_steps),
            [watching],
            State(0, self.n_steps),
        )
        stop = loop.run()
        if watching.interrupted:
            raise Interrupted
        return stop is None

    def _judge(self, pieces: Pieces) -> float:
        """Loss over the first tokens of the validation part."""
        most = min(JUDGED_TOKENS, self.config.training.eval_tokens or JUDGED_TOKENS)
        sizes = self.corpus.tokenizer.token_bytes()
        params, shards = pieces.step.evaluation_params(), pieces.step.shards
        return evaluate_split(shards, params, self.corpus.validation, sizes, most).loss


class TrialWatch(Callback):
    """Ends a trial at a number that is not finite, or where it is told to stop."""

    def __init__(self, tell: Callable[[int, float], None], should_stop: Callable[[], bool]) -> None:
        self._tell, self._should_stop = tell, should_stop
        self.interrupted = False

    def __call__(self, event: Event, state: State) -> Answer:
        if not isinstance(event, StepDone):
            return None
        if event.skipped:
            return Stop("diverged")
        if self._should_stop():
            self.interrupted = True
            return Stop("asked")
        self._tell(event.step, event.loss)
        return None


def squeezed_factor(pieces: Pieces, step: int, n_steps: int) -> float:
    """The factor of the learning rate at ``step`` of a trial: the schedule of the whole run, its
    warm-up and what follows each fitted to the trial."""
    whole, warmup = pieces.config.training.steps, pieces.schedule.config.warmup_steps
    if n_steps == whole:
        return pieces.schedule.factor(step, whole)
    short = min(warmup, n_steps // WARMUP_SHARE)
    if step <= short:
        place = math.ceil(step * warmup / short)
    else:
        done = (step - short - 1) / max(n_steps - short - 1, 1)
        first = min(warmup + 1, whole)
        place = first + round(done * (whole - first))
    return pieces.schedule.factor(place, whole)


def find_rate(
    config: RunConfig,
    test: RangeTest,
    n_steps: int = N_STEPS,
    listener: Listener = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    corpus: Corpus | None = None,
) -> Finding:
    """Sweep the rate, then train short runs, and suggest a rate.

    Args:
        n_steps: of a short run; a configuration of fewer steps is trained whole.
        listener: told what starts, what is compiled, each rate tried, and each step of a trial.
        should_stop: asked after each step; True ends the search.
        corpus: the text, prepared before.

    Raises:
        DivergedError: the loss of the initial weights is not finite.
    """
    n_steps = min(n_steps, config.training.steps)
    pieces = build(config, corpus)
    try:
        sweep = sweep_rates(pieces, test, listener, should_stop)
    finally:
        pieces.close()
    if sweep.ending == "interrupted":
        return Finding(sweep, n_steps, interrupted=True)
    run = Trials(config, pieces.corpus, pieces.start, n_steps, listener, should_stop)
    low, high = sweep.rates[0], sweep.rates[-1]
    start = sweep.promising or math.sqrt(low * high)
    try:
        search(run, start, low, high)
    except Interrupted:
        return Finding(sweep, n_steps, run.losses, run.initial_loss, interrupted=True)
    return Finding(sweep, n_steps, run.losses, run.initial_loss)


def _or_null(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
