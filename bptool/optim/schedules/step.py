"""Step: the rate drops by ``gamma``, at milestones or every so many steps.

    factor = gamma^(number of milestones <= t)            with milestone_steps
             gamma^floor((t - warmup_steps) / k)          with k = every_steps

Milestones count from the run's start, warm-up included. When neither is given they are half and
three quarters of the run, where the residual networks' authors had theirs. There is no end value
but ``gamma`` to the number of drops.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (section 4.2: by ten at
32,000 and 48,000 of 64,000 steps).

Where frameworks differ: PyTorch has two, ``MultiStepLR`` and ``StepLR``, with the same ``gamma`` of
0.1; as there, a milestone given twice counts twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from bptool.config.section import refuse
from bptool.optim.schedules.base import Misfit, Schedule, ScheduleConfig, Steps
from bptool.registry import schedules


class StepConfig(ScheduleConfig):
    """Settings of ``step``."""

    milestone_steps: Annotated[tuple[Steps, ...], Field(min_length=1, max_length=1000)] | None = (
        Field(None, description="Steps after which the rate drops; half and 3/4 of the run.")
    )
    every_steps: Steps | None = Field(
        None, description="Steps from one drop to the next, in place of milestones."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="What the rate is multiplied by at a drop.")

    @model_validator(mode="after")
    def _drops_come_in_order(self) -> StepConfig:
        drops = self.milestone_steps or ()
        if drops and self.every_steps is not None:
            message = "every_steps and milestone_steps both say when the rate drops; keep one"
            refuse("every_steps", self.every_steps, message)
        for i, drop in enumerate(drops):
            before = drops[i - 1] if i else self.warmup_steps
            if drop < before:
                what = "the milestone before" if i else "warmup_steps"
                refuse(f"milestone_steps.{i}", drop, f"found {drop}, which is less than {what}, "
                       f"{before}; milestones count from the start of the run")  # fmt: skip
        return self

    def misfits(self, n_steps: int) -> Iterator[Misfit]:
        """A warm-up or a drop that the run does not reach."""
        yield from super().misfits(n_steps)
        for i, drop in enumerate(self.milestone_steps or ()):
            if drop >= n_steps:
                message = f"a run of {n_steps} steps does not reach a milestone at {drop}"
                yield Misfit(f"milestone_steps.{i}", drop, message)
        left = n_steps - self.warmup_steps
        if self.every_steps is not None and self.every_steps >= left > 0:
            message = (
                f"the {left} steps after the warm-up do not reach a drop at {self.every_steps}"
            )
            yield Misfit("every_steps", self.every_steps, message)


@schedules.register("step")
class Step(Schedule):
    """Drops by ``gamma``; see the module's docstring."""

    Config = StepConfig
    config: StepConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        if c.every_steps is not None:
            return float(c.gamma ** ((done - c.warmup_steps) // c.every_steps))
        milestones: Sequence[float] = c.milestone_steps or (n_steps / 2, 3 * n_steps / 4)
        return float(c.gamma ** bisect_right(milestones, done))
