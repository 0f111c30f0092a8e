"""A study: its trials spread over an executor, each kept as it ends, until none is left."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from bptool.comparison.events import (
    Event,
    Listener,
    StudyStarted,
    Timed,
    TimingStarted,
    TrialCompiling,
    TrialFinished,
    TrialRetried,
    TrialStarted,
    TrialStep,
)
from bptool.comparison.executors import Executor
from bptool.comparison.ground import Ground
from bptool.comparison.jobs import Job, Report
from bptool.comparison.plan import Plan, Trial, choice_of, make_trial, pending
from bptool.comparison.records import Record, Timing
from bptool.comparison.results import ResultsFolder
from bptool.config.schema import RunConfig
from bptool.ops.cores import usable_cores

MAX_ATTEMPTS = 2
"""How often a trial is begun whose process dies."""
POLL_SECONDS = 0.25
"""How long a stop may go unnoticed."""
TIMING_ROUNDS = 5
"""Optimizers are timed in turn, so that what slows the machine for a while slows none for good."""


def n_processes(plan: Plan) -> int:
    """Trials at once on this machine: as told, else as its cores allow."""
    if plan.study.processes != "auto":
        return plan.study.processes
    workers = max(int(w.config.training.workers) for w in plan.workloads)
    return max(1, usable_cores() // workers)


class Study:
    """A plan on its ground, with what has ended before.

    Args:
        folder: where results are kept. executor: where jobs run; closed when the study ends.
        records, timings: of an earlier start.

    Attributes:
        records, timings: all that have ended.
    """

    def __init__(
        self,
        plan: Plan,
        ground: Ground,
        folder: ResultsFolder,
        executor: Executor,
        records: Iterable[Record] = (),
        timings: Iterable[Timing] = (),
    ) -> None:
        self.plan, self.ground, self.folder, self.executor = plan, ground, folder, executor
        self.records = list(records)
        self.timings = list(timings)
        self._failed_now: set[str] = set()
        self._stop = False

    def request_stop(self) -> None:
        """Drop the trials that run, and return from :meth:`run`."""
        self._stop = True

    def run(self, listeners: Sequence[Listener] = ()) -> bool:
        """Run what is left of the study; True if it was stopped before its end."""

        def emit(event: Event) -> None:
            for listener in listeners:
                listener(event)

        emit(StudyStarted(self.plan, self.ground.sizes, self.executor.n_slots, tuple(self.records)))
        try:
            self._run_trials(emit)
            self._time_alone(emit)
        finally:
            self.executor.close()
        return self._stop

    def _run_trials(self, emit: Callable[[Event], None]) -> None:
        running: dict[str, tuple[Trial, int, float]] = {}
        again: list[tuple[Trial, int]] = []
        while not self._stop:
            while len(running) < self.executor.n_slots:
                waiting = itertools.chain(again, ((trial, 1) for trial in self._pending()))
                next_one = next((item for item in waiting if item[0].name not in running), None)
                if next_one is None:
                    break
                trial, attempt = next_one
                again = [item for item in again if item[0].name != trial.name]
                self.folder.write_config(trial)
                self.executor.submit(self._job(trial.name, "trial", trial.config))
                running[trial.name] = trial, attempt, time.monotonic()
                emit(TrialStarted(trial, self.executor.pids.get(trial.name)))
            if not running:
                break
            for report in self.executor.wait(POLL_SECONDS):
                trial, attempt, start = running[report["name"]]
                if report["kind"] in ("compiling", "step"):
                    emit(_progress(report))
                    continue
                del running[trial.name]
                if report["kind"] == "lost" and attempt < MAX_ATTEMPTS:
                    again.append((trial, attempt + 1))
                    emit(TrialRetried(trial, report["error"]))
                    continue
                emit(TrialFinished(self._keep(trial, report), time.monotonic() - start))

    def _pending(self) -> Iterable[Trial]:
        return (t for t in pending(self.plan, self.records) if t.name not in self._failed_now)

    def _keep(self, trial: Trial, report: Report) -> Record:
        if report["kind"] == "done":
            record = self.folder.add(trial, report["outcome"])
        else:
            self._failed_now.add(trial.name)
            record = self.folder.add(trial, {"error": report["error"]})
        self.records = [old for old in self.records if old.name != record.name] + [record]
        return record

    def _time_alone(self, emit: Callable[[Event], None]) -> None:
        """Time a step of every optimizer with nothing else of the study running."""
        by_name = {record.name: record for record in self.records}
        n_steps = -(-self.plan.study.timing_steps // TIMING_ROUNDS)
        trials = [
            make_trial(self.plan, "final", workload, optimizer, chosen, 0)
            for workload in self.plan.workloads
            for optimizer in self.plan.study.optimizers
            if (chosen := choice_of(self.plan, workload, optimizer, by_name)) is not None
        ]
        jobs = [(k, trial) for k in range(TIMING_ROUNDS) for trial in trials] if n_steps else []
        done = Counter((timing.workload, timing.optimizer) for timing in self.timings)
        for number, (k, trial) in enumerate(jobs):
            if done[trial.workload, trial.optimizer] > k:
                continue
            if self._stop:
                return
            emit(TimingStarted(trial, number, len(jobs)))
            self.executor.submit(self._job(trial.name, "timing", trial.config, n_steps))
            ended: list[Report] = []
            while not ended and not self._stop:
                ended = self.executor.wait(POLL_SECONDS)
            if ended and ended[-1]["kind"] == "done":
                seconds = ended[-1]["outcome"]["step_seconds"]
                timing = Timing(trial.workload, trial.optimizer, seconds)
                self.folder.add_timing(timing, n_steps)
                self.timings.append(timing)
        emit(Timed(tuple(self.timings)))

    def _job(self, name: str, kind: str, config: RunConfig, steps: int = 0) -> Job:
        return {
            "name": name,
            "kind": kind,
            "config": config.model_dump(mode="json"),
            "plugins": list(self.folder.plugins),
            "steps": steps,
        }


def _progress(report: Report) -> Event:
    if report["kind"] == "step":
        loss = float("nan") if report["loss"] is None else report["loss"]
        return TrialStep(report["name"], report["step"], loss)
    return TrialCompiling(report["name"], report["done"], report["seconds"], report["cached"])
