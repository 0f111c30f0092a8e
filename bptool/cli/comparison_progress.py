"""How far a study is, gathered from its events; what the live display and the lines read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptool.comparison.events import Event, StudyStarted, TimingStarted
    from bptool.comparison.plan import Trial
    from bptool.comparison.records import Record


@dataclass
class Running:
    """A trial that runs."""

    trial: Trial
    pid: int | None
    step: int = 0
    loss: float = math.nan
    compiling: bool = False

    @property
    def share(self) -> float:
        return self.step / self.trial.config.training.steps


class StudyProgress:
    """Takes events one by one.

    Args:
        clock: seconds from any start; a test gives its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self.started: StudyStarted | None = None
        self.running: dict[str, Running] = {}
        self.records: list[Record] = []
        """All that ended, those of earlier starts first."""
        self.n_before = 0
        self.timing: TimingStarted | None = None
        self.n_timed = 0
        self.n_diverged = self.n_failed = 0

    def observe(self, event: Event) -> None:
        """Take in one event."""
        from bptool.comparison import events

        match event:
            case events.StudyStarted():
                self.started, self._began = event, self._clock()
                self.records = [r for r in event.records if r.status != "failed"]
                self.n_before = len(self.records)
                self._count()
            case events.TrialStarted():
                self.running[event.trial.name] = Running(event.trial, event.pid)
            case events.TrialCompiling():
                self.running[event.name].compiling = not event.done
            case events.TrialStep():
                one = self.running[event.name]
                one.step, one.loss = event.step, event.loss
            case events.TrialRetried():
                self.running.pop(event.trial.name, None)
            case events.TrialFinished():
                self.running.pop(event.record.name, None)
                self.records.append(event.record)
                self._count()
            case events.TimingStarted():
                self.n_timed += self.timing is not None
                self.timing = event
            case events.Timed():
                self.timing = None

    def _count(self) -> None:
        self.n_diverged = sum(r.status == "diverged" for r in self.records)
        self.n_failed = sum(r.status == "failed" for r in self.records)

    @property
    def n_trials(self) -> int:
        return self.started.plan.n_trials if self.started else 0

    @property
    def done(self) -> float:
        """Trials done, and parts of those that run."""
        return len(self.records) + sum(one.share for one in self.running.values())

    @property
    def share(self) -> float:
        """Share of the study that is done, 0 to 1."""
        return min(1.0, self.done / self.n_trials) if self.n_trials else 0.0

    @property
    def seconds_left(self) -> float:
        """Estimate from the trials of this start so far; NaN before there is anything to go by."""
        now_done = self.done - self.n_before
        if now_done <= 0:
            return math.nan
        return (self.n_trials - self.done) * (self._clock() - self._began) / now_done

    @property
    def best(self) -> dict[tuple[str, str], Record]:
        """By workload and optimizer the trial with the lowest final loss so far, in the order of
        the study."""
        found: dict[tuple[str, str], Record] = {}
        for record in self.records:
            key = record.workload, record.optimizer
            if math.isfinite(record.final_loss):
                old = found.get(key)
                if old is None or record.final_loss < old.final_loss:
                    found[key] = record
        study = self.started.plan if self.started else None
        if study is None:
            return found
        order = [(w.name, name) for w in study.workloads for name in study.study.optimizers]
        return {key: found[key] for key in order if key in found}
