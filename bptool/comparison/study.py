"""A study: its trials spread over an executor, each kept as it ends, until none is left."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bptool.comparison.budget import resolve_at
from bptool.comparison.events import (
    Event,
    Listener,
    StudyStarted,
    Timed,
    TrialCompiling,
    TrialFinished,
    TrialRetried,
    TrialStarted,
    TrialStep,
    WorkloadSize,
)
from bptool.comparison.executors import Executor
from bptool.comparison.jobs import Job, Report
from bptool.comparison.plan import Plan, Trial, Workload, choice_of, make_trial, pending
from bptool.comparison.records import Record, Timing
from bptool.comparison.results import ResultsFolder
from bptool.config.load import StudyFile
from bptool.config.schema import RunConfig
from bptool.config.study_section import workload_names
from bptool.data.corpus import prepare
from bptool.errors import ConfigError, RunError, UserError
from bptool.training.machine import choose_engine, usable_cores
from bptool.training.manifest import describe, differences
from bptool.training.setup import build, build_model, context_of, sizes

MAX_ATTEMPTS = 2
"""How often a trial is begun whose process dies."""
POLL_SECONDS = 0.25
"""How long a stop may go unnoticed."""


@dataclass
class Ground:
    """What a study stands on, found by building every workload once, before anything runs."""

    workloads: tuple[Workload, ...]
    """With workers and engine pinned, so that a configuration alone says how sums are ordered."""
    sizes: dict[str, WorkloadSize]
    about: dict[str, Any]
    """Versions and machine, and each workload's manifest."""
    scaled: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """By workload, what was fitted to the steps: key -> value in the file, value now."""


def survey(
    file: StudyFile,
    sets: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Ground:
    """Resolve a study's workloads, and build each as its trials will.

    Args:
        sets, overrides: changes to every workload, as :func:`bptool.config.load.resolve` takes
            them. progress: told how far preparing the texts is.

    Raises:
        UserError: a workload cannot run; the message names its line in the study.
    """
    found: list[Workload] = []
    scaled = {}
    study = file.config
    for index, name in enumerate(workload_names(study.workloads)):
        workload = study.workloads[index]
        merged = _merge(workload.set, overrides or {})
        try:
            budgeted = resolve_at(workload.config, sets, merged, study.steps)
        except UserError as error:
            raise _blamed(file, index, name, error) from None
        found.append(Workload(name, budgeted.config, workload.target))
        scaled[name] = budgeted.scaled
    return _built(found, lambda i, name, error: _blamed(file, i, name, error), scaled, progress)


def survey_again(plan: Plan, about: dict[str, Any]) -> tuple[Ground, list[str]]:
    """Build a kept study's workloads anew; also what differs from when it began.

    Raises:
        UserError: a workload cannot run any more, or its text is another one.
    """
    ground = _built(plan.workloads, lambda i, name, error: error, {}, None)
    notes = []
    for workload in plan.workloads:
        before, now = about["manifests"][workload.name], ground.about["manifests"][workload.name]
        if before["data"]["text_sha256"] != now["data"]["text_sha256"]:
            raise RunError(
                f"workload {workload.name}: the text has changed since the study began; bring the "
                "old text back, or begin a new study"
            )
        notes += [note for note in differences(before, now) if note not in notes]
    return ground, notes


def _built(
    workloads: Iterable[Workload],
    blame: Callable[[int, str, UserError], UserError],
    scaled: dict[str, dict[str, tuple[int, int]]],
    progress: Callable[[str, int, int], None] | None,
) -> Ground:
    pinned, found, manifests = [], {}, {}
    for index, workload in enumerate(workloads):
        try:
            config, size, manifest = _build_once(workload.config, progress)
        except UserError as error:
            raise blame(index, workload.name, error) from None
        pinned.append(Workload(workload.name, config, workload.target))
        found[workload.name], manifests[workload.name] = size, manifest
    return Ground(tuple(pinned), found, {"manifests": manifests}, scaled)


def _build_once(
    config: RunConfig, progress: Callable[[str, int, int], None] | None
) -> tuple[RunConfig, WorkloadSize, dict[str, Any]]:
    corpus = prepare(config.data, context_of(config), progress)
    training = config.training
    if training.workers == "auto":
        training = training.model_copy(update={"workers": 1})
    engine = choose_engine(training.engine).name
    training = training.model_copy(update={"engine": engine})
    config = config.model_copy(update={"training": training})
    layout = sizes(config, build_model(config, corpus.tokenizer.vocab_size), corpus.n_train)
    training = training.model_copy(update={"workers": layout.n_workers})
    config = config.model_copy(update={"training": training})
    pieces = build(config, corpus)
    try:
        size = WorkloadSize(
            n_parameters=pieces.model.n_parameters,
            n_train_tokens=corpus.n_train,
            n_validation_tokens=corpus.n_validation,
            tokens_per_step=pieces.batches.n_sequences * pieces.sizes.n_time,
            n_workers=pieces.team.n,
        )
        return config, size, describe(pieces)
    finally:
        pieces.close()


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _blamed(file: StudyFile, index: int, name: str, error: UserError) -> UserError:
    text = "; ".join(str(error).splitlines())
    place = file.places(("workloads", index))
    if place.startswith("command line"):
        return error
    return ConfigError(f"{place}: workload '{name}' cannot run: {text}")


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
        n_steps = self.plan.study.timing_steps
        by_name = {record.name: record for record in self.records}
        timed = {(timing.workload, timing.optimizer) for timing in self.timings}
        for workload in self.plan.workloads:
            for optimizer in self.plan.study.optimizers:
                chosen = choice_of(self.plan, workload, optimizer, by_name)
                if n_steps == 0 or chosen is None or (workload.name, optimizer) in timed:
                    continue
                trial = make_trial(self.plan, "final", workload, optimizer, chosen, 0)
                if self._stop:
                    return
                self.executor.submit(self._job(trial.name, "timing", trial.config, n_steps))
                ended: list[Report] = []
                while not ended and not self._stop:
                    ended = self.executor.wait(POLL_SECONDS)
                if ended and ended[-1]["kind"] == "done":
                    seconds = ended[-1]["outcome"]["step_seconds"]
                    timing = Timing(workload.name, optimizer, seconds)
                    self.folder.add_timing(timing, n_steps)
                    self.timings.append(timing)
                    emit(Timed(timing))

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
