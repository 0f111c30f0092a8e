"""What every schedule has: a typed ``Config``, a linear warm-up, and the factor after it.

    factor(step) = shape(w) step / (w + 1)     for step <= w = warmup_steps
                   shape(t),  t = step - 1     afterwards

``step`` counts from 1, so ``t`` is the number of steps behind, and PyTorch's ``last_epoch``. The
warm-up never gives 0, so the first step is not wasted, and it meets the schedule's own first value
(1 for all but ``one-cycle``) at the step after it: nanoGPT's rule. PyTorch's ``LinearLR`` starts at
a third by default and optax's ``warmup_cosine_decay_schedule`` at 0.

Settings that count steps end in ``_steps``, by which a study knows what to fit to its own length
(``comparison/budget.py``). Those that name a step (``decay_steps``, ``milestone_steps``) count from
the start of the run; those that are a length (``cycle_steps``) count from wherever it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from bptool.config.section import Section

Steps = Annotated[int, Field(ge=1, le=10**9)]
"""A number of steps that is not 0."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A share of the optimizer's learning rate, or of the run."""


class Misfit(NamedTuple):
    """A setting that asks for more steps than the run has."""

    key: str
    value: object
    message: str


class ScheduleConfig(Section):
    """Settings that every schedule has."""

    warmup_steps: int = Field(
        0, ge=0, le=10**9, description="Steps of linear warm-up before the schedule."
    )

    def misfits(self, n_steps: int) -> Iterator[Misfit]:
        """What does not end within a run of ``n_steps``; a schedule with lengths adds its own."""
        if self.warmup_steps >= n_steps:
            message = f"a warm-up of {self.warmup_steps} steps leaves none of a run of {n_steps}"
            yield Misfit("warmup_steps", self.warmup_steps, f"{message}; need less than {n_steps}")


class Schedule:
    """What the optimizer's learning rate is multiplied by at each step.

    A schedule of one's own gives ``shape``; the warm-up comes with the base.
    """

    Config: ClassVar[type[ScheduleConfig]] = ScheduleConfig
    name: ClassVar[str]

    config: ScheduleConfig

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config

    def factor(self, step: int, n_steps: int) -> float:
        """The factor, in [0, 1], at ``step`` (from 1) of a run of ``n_steps``: of nothing else, so
        a resumed run goes on exactly."""
        warmup = self.config.warmup_steps
        if step <= warmup:
            return self.shape(warmup, n_steps) * step / (warmup + 1)
        return self.shape(step - 1, n_steps)

    def shape(self, done: int, n_steps: int) -> float:
        """The factor once the warm-up is over, with ``done`` steps behind (>= warmup_steps)."""
        raise NotImplementedError
