"""Loss spikes: steps whose loss stands out from those before it, and what is done about them.

With m and s the mean and standard deviation of the losses of the last ``over`` steps that were
taken, the loss l of a step is a spike where

    (l - m) / max(s, 0.001 |m|) > standard_deviations

It is known before the update, which is then left out. ``skip`` goes on with the next step;
``rollback`` goes back to the last checkpoint, with a learning rate smaller by ``rate_factor`` from
there. Spikes that are found again on the way to where it came from are skipped: their batches are
of their own kind. A loss that stays as high is the new level after ``PATIENCE`` steps, and the
window is emptied.

All of it is a function of the losses, and what it remembers is in the checkpoint, so a resumed run
finds the spikes of an unbroken one. Skipping and rolling back as in Chowdhery et al. 2022 (PaLM),
arXiv:2204.02311, section 5.1, which goes back by hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bptool.config.schema import Spikes
from bptool.training.callback import Answer, Callback, Event, RollBack, State, Stop
from bptool.training.events import StepDone

PATIENCE = 10
"""Spikes in a row that are one no more."""
LEAST_DEVIATION = 1e-3
"""Of the mean: a smaller standard deviation counts as this."""


@dataclasses.dataclass
class Watch:
    """What is remembered of the losses; part of a run's progress.

    Attributes:
        losses: of the last steps that were taken. in_a_row: spikes since the last of them.
        rollbacks: done so far. back_from: the last step one was for.
        rate_factor: what they have made of the learning rate.
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    in_a_row: int = 0
    rollbacks: int = 0
    back_from: int = 0
    rate_factor: float = 1.0

    def score(self, loss: float, settings: Spikes) -> float:
        """How many standard deviations a loss is above those before; NaN while they are few."""
        if len(self.losses) < settings.over // 2:
            return math.nan
        mean, deviation = float(np.mean(self.losses)), float(np.std(self.losses))
        return (loss - mean) / max(deviation, LEAST_DEVIATION * abs(mean), 1e-30)

    def is_spike(self, loss: float, settings: Spikes) -> bool:
        """Whether the step with this loss is to be left out."""
        return self.score(loss, settings) > settings.standard_deviations

    def note_spike(self) -> bool:
        """Count a spike; True where so many came in a row that they are the new level."""
        self.in_a_row += 1
        if self.in_a_row < PATIENCE:
            return False
        self.losses, self.in_a_row = [], 0
        return True

    def note_loss(self, loss: float, settings: Spikes) -> None:
        """Remember the loss of a step that was taken."""
        self.in_a_row = 0
        self.losses = [*self.losses, loss][-settings.over :]


class SpikeGuard(Callback):
    """Sees to the steps that were left out for a spike.

    Args:
        settings: what is done about spikes; None: nothing is a spike.
        checkpoint_step: the newest checkpoint that can be gone back to, if there is one.
    """

    def __init__(self, settings: Spikes | None, checkpoint_step: Callable[[], int | None]) -> None:
        self._settings, self._checkpoint_step = settings, checkpoint_step
        self.watch = Watch()
        self._rolled_back: dict[str, Any] = {}
        """What outlives the checkpoint that the run goes back to."""

    def accepts(self, loss: float) -> bool:
        """Whether a step with this loss changes the weights."""
        return self._settings is None or not self.watch.is_spike(loss, self._settings)

    def entries(self) -> dict[str, Any]:
        return {"watch": dataclasses.replace(self.watch)}

    def restore(self, entries: Mapping[str, Any]) -> None:
        self.watch = dataclasses.replace(entries["watch"], **self._rolled_back)

    def __call__(self, event: Event, state: State) -> Answer:
        settings, watch = self._settings, self.watch
        if settings is None or not isinstance(event, StepDone):
            return None
        if not event.skipped:
            watch.note_loss(event.loss, settings)
            return None
        if not (math.isfinite(event.loss) and math.isfinite(event.grad_norm)):
            return None
        spike = f"step {event.step:,}: the loss {event.loss:.4g} is a spike"
        back_to = self._checkpoint_step()
        if settings.then == "rollback" and back_to is not None and event.step > watch.back_from:
            return self._roll_back(event.step, back_to, settings, spike)
        how = "the new level from now on" if watch.note_spike() else "skipped"
        self.warn(f"{spike}, {how}")
        return None

    def _roll_back(self, step: int, back_to: int, settings: Spikes, spike: str) -> Answer:
        watch = self.watch
        if watch.rollbacks >= settings.max_rollbacks:
            return Stop(
                "diverged",
                f"{spike} again after {watch.rollbacks} rollbacks; go on from an earlier "
                "checkpoint with --checkpoint, or train anew with a lower optimizer.learning_rate",
            )
        factor = watch.rate_factor * settings.rate_factor
        self._rolled_back = {
            "rollbacks": watch.rollbacks + 1,
            "back_from": step,
            "rate_factor": factor,
        }
        how = f"back to step {back_to:,}, learning rate times {factor:.3g}"
        return RollBack(back_to, f"{spike}, {how}")
