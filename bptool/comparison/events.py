"""What a study says while it runs; displays and tests listen. Losses are in nats per token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bptool.comparison.plan import Plan, Trial
from bptool.comparison.records import Record, Timing


@dataclass(frozen=True)
class WorkloadSize:
    """What a workload's trials are made of."""

    n_parameters: int
    n_train_tokens: int
    n_validation_tokens: int
    tokens_per_step: int
    n_workers: int
    bigram_loss: float
    """Of a bigram model of the training text, on the tokens that trials are evaluated on."""


@dataclass(frozen=True)
class StudyStarted:
    plan: Plan
    sizes: dict[str, WorkloadSize]
    """By workload."""
    n_slots: int
    """Trials at once."""
    records: tuple[Record, ...]
    """Trials that an earlier start of the study has ended."""


@dataclass(frozen=True)
class TrialStarted:
    trial: Trial
    pid: int | None
    """Its process, where it is of this machine."""


@dataclass(frozen=True)
class TrialCompiling:
    name: str
    done: bool
    seconds: float
    cached: bool


@dataclass(frozen=True)
class TrialStep:
    name: str
    step: int
    loss: float
    """Training loss of this step's batch; NaN where it is not finite."""


@dataclass(frozen=True)
class TrialRetried:
    trial: Trial
    reason: str


@dataclass(frozen=True)
class TrialFinished:
    record: Record
    seconds: float
    """Wall time, kernels and all."""


@dataclass(frozen=True)
class TimingStarted:
    """The steps of a trial are timed, with nothing else running."""

    trial: Trial
    n_done: int
    n_timings: int


@dataclass(frozen=True)
class Timed:
    """All that could be timed has been."""

    timings: tuple[Timing, ...]


Event = (
    StudyStarted
    | TrialStarted
    | TrialCompiling
    | TrialStep
    | TrialRetried
    | TrialFinished
    | TimingStarted
    | Timed
)
Listener = Callable[[Event], None]
