"""Trials that have ended, as analysis reads them, and as a line of ``results.jsonl`` keeps them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["completed", "diverged", "failed"]
"""failed: its process died twice, or an error ended it; it says nothing about the optimizer."""


@dataclass(frozen=True)
class Point:
    """Losses (nats per token) after ``step`` updates, and the seconds in steps until then."""

    step: int
    train_loss: float
    """Mean over the batches since the point before; NaN at step 0, and where all were skipped."""
    val_loss: float
    seconds: float


@dataclass(frozen=True)
class Record:
    """A trial and what it came to."""

    name: str
    phase: str
    workload: str
    optimizer: str
    number: int
    """Which candidate, from 0."""
    settings: Mapping[str, Any]
    seed: int
    status: Status
    curve: tuple[Point, ...]
    """One point an evaluation, the initial weights' at step 0 first."""
    final_loss: float
    """Validation loss after the last step; infinite where the trial diverged or failed."""
    best_loss: float = math.inf
    """Lowest validation loss of any evaluation after the first step."""
    state_bytes: int = 0
    """Memory of the optimizer's state."""
    tokens_per_step: int = 0
    error: str = ""

    @property
    def learning_rate(self) -> float:
        return float(self.settings["learning_rate"])


@dataclass(frozen=True)
class Timing:
    """Seconds a step of one optimizer on one workload, with nothing else of the study running:
    the mean of one round of timing."""

    workload: str
    optimizer: str
    step_seconds: float


def median_step_seconds(timings: Iterable[Timing]) -> dict[tuple[str, str], float]:
    """The median over the rounds, by workload and optimizer."""
    rounds: dict[tuple[str, str], list[float]] = {}
    for timing in timings:
        rounds.setdefault((timing.workload, timing.optimizer), []).append(timing.step_seconds)
    return {key: statistics.median(values) for key, values in rounds.items()}


def record_from_line(line: Mapping[str, Any]) -> Record:
    """The record of a ``trial`` line, in which null stands for NaN and infinity."""
    return Record(
        name=line["name"],
        phase=line["phase"],
        workload=line["workload"],
        optimizer=line["optimizer"],
        number=line["number"],
        settings=line["config"]["optimizer"],
        seed=line["seed"],
        status=line["status"],
        curve=tuple(
            Point(
                p["step"],
                _or(p["train_loss"], math.nan),
                _or(p["val_loss"], math.nan),
                p["seconds"],
            )
            for p in line["curve"]
        ),
        final_loss=_or(line["final_loss"], math.inf),
        best_loss=_or(line["best_loss"], math.inf),
        state_bytes=line["state_bytes"],
        tokens_per_step=line["tokens_per_step"],
        error=line["error"],
    )


def timing_from_line(line: Mapping[str, Any]) -> Timing:
    """The record of a ``timing`` line."""
    return Timing(line["workload"], line["optimizer"], _or(line["step_seconds"], math.nan))


def finite(value: Any) -> Any:
    """``value`` with None for every NaN and infinity in it, which JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _or(value: float | None, missing: float) -> float:
    return missing if value is None else value
