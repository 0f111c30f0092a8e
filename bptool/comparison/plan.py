"""What a study trains: a pure function of the study and of the trials that have ended.

Every optimizer has candidates, one with ruleset ``defaults``, an equal number of drawn ones with
``tuned``. Where there are several, each is trained with tuning's seeds, and the one with the least
mean loss is trained anew with the final seeds, which tuning has not seen. With one seed every
optimizer begins at the same weights, sees the same batches and drops the same units out, so that
differences between optimizers are paired. Trials go round over optimizers and workloads: whatever
slows the machine for a while slows every optimizer, and a study that is stopped has whole rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bptool.comparison.inference import require_power_to_reject
from bptool.comparison.records import Record
from bptool.comparison.settings import choose
from bptool.comparison.spaces import draw, space_of
from bptool.config.choice import Choice
from bptool.config.schema import RunConfig
from bptool.config.study_section import FinalConfig, Space, StudyConfig, TuningConfig
from bptool.registry import optimizers, schedules

Phase = Literal["tuning", "final"]
RateSource = Literal["tuned", "given", "configuration", "default"]
"""Where the learning rate that an optimizer is judged at comes from: this study's search, the
study's settings (or ``--learning-rate``), the workload's own file, or bptool's table."""
STEADY = "constant"


@dataclass(frozen=True)
class Workload:
    """A training configuration of the study's length, on pinned workers and engine."""

    name: str
    config: RunConfig
    target: float | None = None


@dataclass(frozen=True)
class Trial:
    """One training run: a workload, an optimizer with a candidate's settings, a pair of seeds."""

    phase: Phase
    workload: str
    number: int
    """The candidate's, from 0."""
    config: RunConfig

    @property
    def optimizer(self) -> str:
        return self.config.optimizer.name

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of dropout."""
        return self.config.training.seed

    @property
    def name(self) -> str:
        """``final-char-adamw-3-seed1``: unique in its study; for file names too."""
        return f"{self.phase}-{self.workload}-{self.optimizer}-{self.number}-seed{self.seed}"


Candidates = Mapping[str, Mapping[str, tuple[Mapping[str, Any], ...]]]
"""Workload -> optimizer -> settings to try, each with all the keys that are not defaults."""


@dataclass(frozen=True)
class Plan:
    """A study that is settled: nothing in it depends on files that may change."""

    study: StudyConfig
    workloads: tuple[Workload, ...]
    candidates: Candidates

    @property
    def is_tuned(self) -> bool:
        return self.study.ruleset == "tuned"

    @property
    def n_trials(self) -> int:
        """Trials of the whole study, if every optimizer has a candidate that does not diverge."""
        study = self.study
        tuning = study.n_candidates * study.tuning.seeds if self.is_tuned else 0
        return len(self.workloads) * len(study.optimizers) * (tuning + study.final.seeds)

    def space(self, optimizer: str) -> Space:
        """Where an optimizer's candidates were drawn from; empty with ruleset ``defaults``."""
        if not self.is_tuned:
            return {}
        return space_of(optimizer, self.study.spaces, self.study.settings.get(optimizer, {}))


def rate_source(plan: Plan, workload: Workload, optimizer: str) -> RateSource:
    """Where the learning rate of an optimizer on a workload comes from."""
    if "learning_rate" in plan.space(optimizer):
        return "tuned"
    if "learning_rate" in plan.study.settings.get(optimizer, {}):
        return "given"
    is_own = not plan.is_tuned and workload.config.optimizer.name == optimizer
    return "configuration" if is_own else "default"


def make_plan(study: StudyConfig, workloads: Iterable[Workload]) -> Plan:
    """Draw every optimizer's candidates.

    Raises:
        ConfigError: an optimizer has no search space, a setting is out of bounds, or the test
            cannot reject with so few seeds.
    """
    n_others = len(study.optimizers) - 1
    require_power_to_reject(study.test, study.final.seeds, n_others, study.alpha)
    workloads = tuple(workloads)
    candidates: dict[str, dict[str, tuple[Mapping[str, Any], ...]]] = {}
    for workload in workloads:
        for name in study.optimizers:
            fixed = study.settings.get(name, {})
            if study.ruleset == "tuned":
                drawn = draw(space_of(name, study.spaces, fixed), study.n_candidates)
                chosen = [choose(name, None, {**fixed, **values}) for values in drawn]
            else:
                chosen = [choose(name, workload.config, fixed)]
            settings = tuple(choice.config.model_dump(mode="json") for choice in chosen)
            candidates.setdefault(workload.name, {})[name] = settings
    return Plan(study, workloads, candidates)


def pending(plan: Plan, records: Iterable[Record]) -> Iterator[Trial]:
    """Trials that can run now and have not, in the order they should."""
    by_name = {record.name: record for record in records}
    done = {name for name, record in by_name.items() if record.status != "failed"}
    if plan.is_tuned:
        for number in range(plan.study.n_candidates):
            for k in range(plan.study.tuning.seeds):
                for workload in plan.workloads:
                    for name in plan.study.optimizers:
                        trial = make_trial(plan, "tuning", workload, name, number, k)
                        if trial.name not in done:
                            yield trial
    for k in range(plan.study.final.seeds):
        for workload in plan.workloads:
            for name in plan.study.optimizers:
                chosen = choice_of(plan, workload, name, by_name)
                if chosen is not None:
                    trial = make_trial(plan, "final", workload, name, chosen, k)
                    if trial.name not in done:
                        yield trial


def choice_of(
    plan: Plan, workload: Workload, optimizer: str, by_name: Mapping[str, Record]
) -> int | None:
    """The candidate with the least mean loss over tuning's seeds; None while tuning goes on.

    None too where every candidate diverged: no setting is left to be judged.
    """
    if not plan.is_tuned:
        return 0
    means = []
    for number in range(plan.study.n_candidates):
        losses = []
        for k in range(plan.study.tuning.seeds):
            name = make_trial(plan, "tuning", workload, optimizer, number, k).name
            if name not in by_name:
                return None
            losses.append(by_name[name].final_loss)
        means.append(math.fsum(losses) / len(losses))
    best = min(range(len(means)), key=means.__getitem__)
    return best if math.isfinite(means[best]) else None


def schedule_of(study: StudyConfig, workload: Workload, optimizer: str) -> Choice:
    """The optimizer's own schedule where the study gives one, else the workload's.

    A rule that averages its weights in place of a schedule keeps the workload's warm-up alone.
    """
    own = study.schedules.get(optimizer)
    if own is not None:
        return own
    if optimizers.get(optimizer).evaluates_elsewhere:
        warmup = workload.config.schedule.config.warmup_steps
        return Choice(STEADY, schedules.get(STEADY).Config(warmup_steps=warmup))
    return workload.config.schedule


def make_trial(
    plan: Plan, phase: Phase, workload: Workload, optimizer: str, number: int, k: int
) -> Trial:
    """The trial of a candidate with the ``k``-th pair of seeds of its phase."""
    seeds: TuningConfig | FinalConfig = plan.study.tuning if phase == "tuning" else plan.study.final
    update = {"seed": seeds.first_seed + k, "data_seed": seeds.first_data_seed + k}
    settings = plan.candidates[workload.name][optimizer][number]
    config = workload.config.model_copy(
        update={
            "optimizer": choose(optimizer, None, settings),
            "schedule": schedule_of(plan.study, workload, optimizer),
            "training": workload.config.training.model_copy(update=update),
        }
    )
    return Trial(phase, workload.name, number, config)
