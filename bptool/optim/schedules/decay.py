"""What schedules share that fall once, from 1 to ``final_fraction``, by the end of the run.

    r      = (t - warmup_steps) / (decay_steps - warmup_steps)
    factor = f + (1 - f) curve(r)     while t < decay_steps
             f                        afterwards

with f the ``final_fraction`` and ``curve`` the schedule's own, from 1 at r = 0 to 0 at r = 1.
``decay_steps`` counts from the run's start, warm-up included, and is the run's length when not
given; the end value is then that of the step after the last, so the last step still learns.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from bptool.config.section import refuse
from bptool.optim.schedules.base import Fraction, Misfit, Schedule, ScheduleConfig, Steps


class DecayConfig(ScheduleConfig):
    """Settings of a schedule that falls once."""

    decay_steps: Steps | None = Field(
        None, description="Step at which the end value is reached; the run's last if not set."
    )
    final_fraction: Fraction = Field(
        0.0, description="End value, as a fraction of the optimizer's learning rate."
    )

    @model_validator(mode="after")
    def _warmup_comes_first(self) -> DecayConfig:
        end, warmup = self.decay_steps, self.warmup_steps
        if end is not None and end <= warmup:
            message = f"decay_steps ({end}) must be greater than warmup_steps ({warmup})"
            refuse("decay_steps", end, f"{message}: it counts from the start of the run")
        return self

    def misfits(self, n_steps: int) -> Iterator[Misfit]:
        """A warm-up or a decay that does not end within the run."""
        yield from super().misfits(n_steps)
        end = self.decay_steps
        if end is not None and end > n_steps:
            message = f"a decay of {end} steps does not end within a run of {n_steps}"
            yield Misfit("decay_steps", end, f"{message}; leave it away to decay over the run")


class Decay(Schedule):
    """A schedule that gives ``curve`` in place of ``shape``."""

    Config = DecayConfig
    config: DecayConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        end = n_steps if c.decay_steps is None else c.decay_steps
        if done >= end:
            return c.final_fraction
        rest = 1.0 - c.final_fraction
        return c.final_fraction + rest * self.curve(done - c.warmup_steps, end - c.warmup_steps)

    def curve(self, done: int, total: int) -> float:
        """From 1 at ``done`` = 0 down to 0 at ``total``."""
        raise NotImplementedError
