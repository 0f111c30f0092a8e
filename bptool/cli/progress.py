"""The state of a training run, gathered from its events; what the displays read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from bptool.training.events import (
    CheckpointSaved,
    Compiling,
    Evaluated,
    Event,
    Sampled,
    StepDone,
    TrainingFinished,
    TrainingStarted,
)

SMOOTHING = 0.95
"""What a running mean keeps of its past at each step: it looks back about 20 steps."""
SETTLED = 0.01
"""A run has settled whose last fifth takes less than this share off its validation loss."""
CURVE_POINTS = 512
"""The loss curve is thinned out when it has this many points, so its memory does not grow."""


class RunningMean:
    """An exponential mean that does not lean towards its start: Adam's bias correction."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> None:
        """Take in the next value."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * value
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)

    @property
    def value(self) -> float:
        """The mean, NaN before the first value."""
        return self._sum / self._weight if self._weight else math.nan


class TrainingProgress:
    """Takes events one by one and keeps the numbers that a display shows.

    Args:
        clock: seconds from any start; a test gives its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loss = RunningMean()
        self._step_seconds = RunningMean()
        self._step_tokens = RunningMean()
        self._step_flops = RunningMean()
        self._statistics: dict[str, RunningMean] = {}
        self._began: float | None = None
        self._busy_seconds = 0.0
        self._curve_stride = 1
        self.started: TrainingStarted | None = None
        self.finished: TrainingFinished | None = None
        self.compiling: Compiling | None = None
        self.last: StepDone | None = None
        self.evaluation: Evaluated | None = None
        self.best: Evaluated | None = None
        self._judged: dict[int, float] = {}
        self.sample: Sampled | None = None
        self.checkpoint: CheckpointSaved | None = None
        self.n_skipped = 0
        self.curve: list[float] = []
        """Smoothed losses from the first step to now, at equal distances."""

    def observe(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case TrainingStarted():
                self.started = event
            case Compiling():
                self.compiling = None if event.done else event
            case StepDone():
                self._observe_step(event)
            case Evaluated():
                self.evaluation = event
                self._judged[event.step] = event.judged_loss
                if event.is_best:
                    self.best = event
            case Sampled():
                self.sample = event
            case CheckpointSaved():
                self.checkpoint = event
            case TrainingFinished():
                self.finished = event

    def _observe_step(self, event: StepDone) -> None:
        if self._began is None:
            self._began = self._clock() - event.seconds
        self._busy_seconds += event.seconds
        self.last = event
        self._step_seconds.add(event.seconds)
        self._step_tokens.add(event.n_tokens)
        self._step_flops.add(event.flops)
        self.n_skipped += event.skipped
        for name, value in event.statistics.items():
            if math.isfinite(value):
                self._statistics.setdefault(name, RunningMean()).add(value)
        if math.isfinite(event.loss):
            self._loss.add(event.loss)
            if event.step % self._curve_stride == 0:
                self.curve.append(self._loss.value)
            if len(self.curve) >= CURVE_POINTS:
                self._curve_stride *= 2
                self.curve = self.curve[1::2]

    @property
    def step(self) -> int:
        """Steps done."""
        if self.last is not None:
            return self.last.step
        return self.started.start_step if self.started else 0

    @property
    def judged_as(self) -> str:
        """What weights are judged by, in words."""
        return self.started.judged_as if self.started else "validation loss"

    def judged(self, loss: float) -> float:
        """What weights are judged by, from the loss that stands for it."""
        return 0.0 - loss if self.started and self.started.maximised else loss

    @property
    def n_steps(self) -> int:
        """Steps there will be, 0 before the start."""
        return self.started.n_steps if self.started else 0

    @property
    def still_falls(self) -> bool:
        """Whether the run is at its last step, and its validation loss has not settled there."""
        before = [step for step in self._judged if 5 * step <= 4 * self.n_steps]
        now, best = self.evaluation, self.best
        if not before or now is None or best is not now or now.step != self.n_steps:
            return False
        return now.judged_loss < (1.0 - SETTLED) * self._judged[max(before)]

    @property
    def loss(self) -> float:
        """Training loss over about the last 20 steps, NaN before the first."""
        return self._loss.value

    @property
    def statistics(self) -> dict[str, tuple[float | None, float | None]]:
        """What the lesson measures, by name: over about the last 20 steps, and when evaluated."""
        judged = self.evaluation.statistics if self.evaluation else {}
        trained = {name: mean.value for name, mean in self._statistics.items()}
        names = [*trained, *(name for name in judged if name not in trained)]
        return {name: (trained.get(name), judged.get(name)) for name in names}

    @property
    def tokens_per_second(self) -> float:
        """Unmasked targets a second of stepping, NaN before the first step."""
        seconds = self._step_seconds.value
        return self._step_tokens.value / seconds if seconds else math.nan

    @property
    def peak_share(self) -> float | None:
        """Share of the machine's measured peak in use, None when it was not measured."""
        peak = self.started.peak_flops if self.started else None
        seconds = self._step_seconds.value
        if not peak or not seconds > 0:
            return None
        return self._step_flops.value / seconds / peak

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the first step of this session began."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def seconds_left(self) -> float:
        """Estimate that counts evaluations and saving in; NaN before the first step."""
        if self.last is None or self._busy_seconds <= 0:
            return math.nan
        overhead = max(1.0, self.elapsed_seconds / self._busy_seconds)
        return (self.n_steps - self.step) * self._step_seconds.value * overhead
