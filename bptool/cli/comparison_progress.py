"""How far a study is, gathered from its events; what the live display and the lines read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bptool.cli.progress import RunningMean

if TYPE_CHECKING:
    from bptool.comparison.events import Event, StudyStarted, TrialStarted
    from bptool.comparison.trial import Outcome
    from bptool.training.events import Compiling


class StudyProgress:
    """Takes events one by one.

    Args:
        clock: seconds from any start; a test gives its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._stepped = 0
        """Steps really done: a diverged trial leaves some out."""
        self.started: StudyStarted | None = None
        self.running: TrialStarted | None = None
        self.compiling: Compiling | None = None
        self.step = 0
        self.loss = RunningMean()
        self.outcomes: list[Outcome] = []

    def observe(self, event: Event) -> None:
        """Take in one event."""
        from bptool.comparison import events
        from bptool.training.events import Compiling

        match event:
            case events.StudyStarted():
                self.started, self._began = event, self._clock()
            case events.TrialStarted():
                self.running, self.step, self.loss = event, 0, RunningMean()
            case Compiling():
                self.compiling = None if event.done else event
                if event.done:
                    self._began += event.seconds  # no part of a trial's usual time
            case events.TrialStep():
                self.step = event.step
                self._stepped += 1
                if math.isfinite(event.loss):
                    self.loss.add(event.loss)
            case events.TrialFinished():
                self.outcomes.append(event.outcome)
                self.running, self.step = None, 0

    @property
    def n_trials(self) -> int:
        return len(self.started.trials) if self.started else 0

    @property
    def n_steps(self) -> int:
        """Steps of one trial."""
        return self.started.trials[0].config.training.steps if self.started else 0

    @property
    def share(self) -> float:
        """Share of the study that is done, 0 to 1."""
        total = self.n_trials * self.n_steps
        return (len(self.outcomes) * self.n_steps + self.step) / total if total else 0.0

    @property
    def seconds_left(self) -> float:
        """Estimate from the steps so far, evaluations and all; NaN before the first."""
        if not self._stepped:
            return math.nan
        left = self.n_trials * self.n_steps * (1.0 - self.share)
        return left * (self._clock() - self._began) / self._stepped
