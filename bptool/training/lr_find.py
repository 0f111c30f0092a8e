"""The learning-rate range test: one short run whose rate grows at every step.

    rate(i) = low (high / low)^((i - 1) / (n - 1)),   i = 1 ... n

The loss that belongs to a rate is that of the batch after its update, which the next step computes
anyway: one run of n steps and a forward. The optimizer, its parameter groups, clipping, penalties
and batches are those of the configuration; its schedule and its rate are not used.

Losses are smoothed by a Gaussian of ``WIDTH`` decades over the rate's logarithm; while the sweep
runs, over what there is. One above ``CAP`` times the initial weights' counts as that, so that the
explosion at the end does not reach back. The sweep ends at the highest rate, at a loss or gradient
that is not finite, or where the loss has blown up: its smoothed value has lost ``LOST`` of what it
had gained, and more than ``CLEAR`` of the initial loss.

**Promising** is the first rate at which the smoothed loss has made ``GAINED`` of its fall, from its
first value to its lowest. One sweep is noisy, and what a step at a rate gains is not what a run at
it comes to: from one seed to the next the promising rate differs up to fourfold. So it is only
where ``lr_trials.py`` begins to train short runs, and the rate at which the sweep ended is one that
those do not go beyond.

Paper: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv:1506.01186
(section 3.3; its rate grows linearly, over a few epochs). The exponential sweep and the smoothing
are those of fastai's finder, which takes the steepest descent or a tenth of the lowest point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bptool.errors import ConfigError, DivergedError
from bptool.training import callback
from bptool.training.callback import Answer, Callback, State, Stop
from bptool.training.compiling import compile_kernels
from bptool.training.events import Compiling, StepDone
from bptool.training.loop import Loop
from bptool.training.setup import Pieces, new_batch
from bptool.training.step import StepResult

WIDTH = 0.1
"""Standard deviation of the smoothing, in powers of ten of the rate."""
CAP = 1.5
LOST, CLEAR = 0.5, 0.1
GAINED = 0.9
LEAST_FALL = 0.02
"""A loss that fell by less than this share of its first value has not fallen."""
MIN_STEPS = 20

Ending = Literal["highest rate", "blew up", "not finite", "interrupted"]


@dataclass(frozen=True)
class RangeTest:
    """Which rates are tried: ``n_steps`` of them, from ``low`` to ``high``, at equal ratios.

    Raises:
        ConfigError: they do not rise, or are too few.
    """

    low: float
    high: float
    n_steps: int

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high < math.inf:
            raise ConfigError(
                f"learning rates from {self.low:g} to {self.high:g}: need two above 0, rising"
            )
        if self.n_steps < MIN_STEPS:
            raise ConfigError(f"a sweep of {self.n_steps} steps is too short; need {MIN_STEPS}")

    def rate(self, step: int) -> float:
        """The learning rate of ``step``, from 1."""
        return self.low * (self.high / self.low) ** ((step - 1) / (self.n_steps - 1))

    @property
    def steps_a_decade(self) -> float:
        return (self.n_steps - 1) / math.log10(self.high / self.low)


DEFAULT = RangeTest(1e-6, 10.0, 100)
"""What ``bptool lr-find`` sweeps unless told otherwise."""


@dataclass(frozen=True)
class SweepStarted:
    model: str
    n_parameters: int
    optimizer: str
    test: RangeTest
    tokens_per_step: int
    n_workers: int
    engine: str


@dataclass(frozen=True)
class RateTried:
    """A step of the sweep, and how the loss stands after it."""

    step: int
    rate: float
    loss: float
    """Of the batch after the update, in nats per token; maybe not finite."""
    smoothed: float
    best: float
    """Lowest smoothed loss so far."""
    best_rate: float


@dataclass(frozen=True)
class TrialStep:
    """A step of a short run."""

    number: int
    """Of the run, from 1."""
    rate: float
    step: int
    n_steps: int
    loss: float


@dataclass(frozen=True)
class TrialDone:
    """A short run at a rate, and the validation loss after it; infinite where it diverged."""

    number: int
    rate: float
    n_steps: int
    loss: float


Event = SweepStarted | Compiling | RateTried | TrialStep | TrialDone
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to. Losses are mean negative log-likelihoods in nats per token.

    Attributes:
        rates: those that were tried, in order.
        losses, smoothed: before the first update, then after that of each rate: one more.
            The last loss may not be finite.
        ending: why the sweep ended.
    """

    test: RangeTest
    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    ending: Ending

    @property
    def fall(self) -> float:
        """From the first smoothed loss to the lowest."""
        return self.smoothed[0] - min(self.smoothed)

    @property
    def best(self) -> float:
        """The rate after which the smoothed loss was lowest; the first if it only rose."""
        return self.rates[max(0, self._lowest - 1)]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss fell fastest, per power of ten."""
        falls = -np.diff(self.smoothed[: max(2, self._lowest + 1)])
        return self.rates[int(falls.argmax())]

    @property
    def promising(self) -> float | None:
        """The first rate that made ``GAINED`` of the fall; None where the loss did not fall."""
        if self.fall < LEAST_FALL * self.smoothed[0]:
            return None
        enough = self.smoothed[0] - GAINED * self.fall
        return next(
            r for r, loss in zip(self.rates, self.smoothed[1:], strict=True) if loss <= enough
        )

    @property
    def _lowest(self) -> int:
        return int(np.argmin(self.smoothed))


def smooth(losses: Sequence[float], width: float) -> list[float]:
    """Each loss as the mean of those near it, weighted by a Gaussian of ``width`` steps.

    Those above ``CAP`` times the first, and those not finite, count as that.
    """
    limit = CAP * losses[0]
    held = np.array([loss if loss < limit else limit for loss in losses])
    reach = math.ceil(4 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    inside = slice(reach, reach + len(held))
    sums, counts = (np.convolve(v, weights)[inside] for v in (held, np.ones_like(held)))
    return [float(level) for level in sums / counts]


def sweep_rates(
    pieces: Pieces,
    test: RangeTest,
    listener: Listener = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Sweep:
    """Sweep the rate over one run from the initial weights, which are trained meanwhile.

    Args:
        listener: told what starts, what is compiled, and each rate tried.
        should_stop: asked after each step; True ends the sweep.

    Raises:
        DivergedError: the loss of the initial weights is not finite.
    """
    listener(_started(pieces, test))
    compile_kernels(pieces, listener)
    sweeping = Sweeping(test, listener, should_stop)
    Loop(pieces.lesson, test.rate, [sweeping], State(0, test.n_steps)).run()
    if sweeping.ending is None:
        sweeping.note(_next_loss(pieces, test.n_steps))
    losses = sweeping.losses
    if sweeping.ending == "not finite" and len(losses) == 1:
        raise DivergedError(
            "loss or gradient of the initial weights is not finite, at any learning rate"
        )
    rates = sweeping.rates[: len(losses) - 1]
    return Sweep(test, rates, losses, sweeping.smoothed, sweeping.ending or "highest rate")


class Sweeping(Callback):
    """Collects the losses of a sweep, and ends it where a higher rate would show nothing new."""

    def __init__(
        self, test: RangeTest, listener: Listener, should_stop: Callable[[], bool]
    ) -> None:
        self._width = WIDTH * test.steps_a_decade
        self._listener, self._should_stop = listener, should_stop
        self.rates = [test.rate(step) for step in range(1, test.n_steps + 1)]
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.ending: Ending | None = None

    def __call__(self, event: callback.Event, state: State) -> Answer:
        if not isinstance(event, StepDone):
            return None
        self.note(event)
        return Stop("asked") if self.ending else None

    def note(self, step: StepDone | StepResult) -> None:
        """Take down the loss of a step: that of the weights before its update."""
        self.losses.append(step.loss)
        self.smoothed = smooth(self.losses, self._width)
        n_tried = len(self.losses) - 1
        if n_tried:
            near = self.rates[max(0, int(np.argmin(self.smoothed)) - 1)]
            rate, now, lowest = self.rates[n_tried - 1], self.smoothed[-1], min(self.smoothed)
            self._listener(RateTried(n_tried, rate, step.loss, now, lowest, near))
        if not (math.isfinite(step.loss) and math.isfinite(step.grad_norm)):
            self.ending = "not finite"
        elif _blew_up(self.smoothed):
            self.ending = "blew up"
        elif self._should_stop():
            self.ending = "interrupted"


def _next_loss(pieces: Pieces, n_steps: int) -> StepResult:
    """The loss and gradient of the batch after ``n_steps``; no weight changes."""
    tokens, targets = new_batch(pieces)
    n_targets = pieces.batches.fill(n_steps, tokens, targets)
    seed = pieces.config.training.seed
    return pieces.step.compute_gradient(tokens, targets, n_targets, seed, n_steps + 1)


def _blew_up(smoothed: Sequence[float]) -> bool:
    """Whether the loss now stands well above its lowest."""
    first, lowest, now = smoothed[0], min(smoothed), smoothed[-1]
    return now - lowest > max(LOST * (first - lowest), CLEAR * first)


def _started(pieces: Pieces, test: RangeTest) -> SweepStarted:
    return SweepStarted(
        model=pieces.config.model.name,
        n_parameters=pieces.model.n_parameters,
        optimizer=pieces.config.optimizer.name,
        test=test,
        tokens_per_step=pieces.batches.n_sequences * pieces.sizes.n_time,
        n_workers=pieces.team.n,
        engine=pieces.engine.name,
    )
