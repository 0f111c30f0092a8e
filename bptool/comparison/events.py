"""What a study says while it runs; displays and tests listen. Losses are in nats per token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bptool.comparison.trial import Outcome, Trial
from bptool.training.events import Compiling


@dataclass(frozen=True)
class StudyStarted:
    trials: tuple[Trial, ...]
    n_parameters: int
    n_train_tokens: int
    n_validation_tokens: int
    tokens_per_step: int
    n_workers: int
    engine: str


@dataclass(frozen=True)
class TrialStarted:
    number: int
    """From 1."""
    trial: Trial


@dataclass(frozen=True)
class TrialStep:
    step: int
    loss: float
    """Training loss of this step's batch."""


@dataclass(frozen=True)
class TrialFinished:
    outcome: Outcome


Event = StudyStarted | TrialStarted | Compiling | TrialStep | TrialFinished
Listener = Callable[[Event], None]
