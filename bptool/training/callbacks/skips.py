"""Steps whose loss or gradient is not finite: they are skipped, but not for ever."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bptool.training.callback import Answer, Callback, Event, State, Stop
from bptool.training.events import StepDone


class NonFinite(Callback):
    """Says that a step was skipped, and stops after ``limit`` of them in a row."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_a_row = 0

    def entries(self) -> dict[str, Any]:
        return {"skipped_in_a_row": self.in_a_row}

    def restore(self, entries: Mapping[str, Any]) -> None:
        self.in_a_row = entries["skipped_in_a_row"]

    def __call__(self, event: Event, state: State) -> Answer:
        if not isinstance(event, StepDone):
            return None
        if not event.skipped:
            self.in_a_row = 0
        elif not (math.isfinite(event.loss) and math.isfinite(event.grad_norm)):
            self.in_a_row += 1
            if self.in_a_row >= self._limit:
                return Stop("diverged")
            if self.in_a_row == 1:
                self.warn(f"step {event.step}: loss or gradient not finite; skipped")
        return None
