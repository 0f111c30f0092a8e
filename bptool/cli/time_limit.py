"""``--time-limit``: stopping and saving before a batch system's own limit ends the process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bptool.errors import UserError

if TYPE_CHECKING:
    from bptool.training.events import Event
    from bptool.training.run import Training

EXIT_CODE = 124
"""As of the ``timeout`` of GNU."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_TEXT = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?\Z")
_SLACK_SECONDS = 1.0


def seconds_of(text: str) -> float:
    """Seconds of ``55m``, ``1h30m`` or ``90s``.

    Raises:
        UserError: it is no such time.
    """
    found = _TEXT.match(text)
    seconds = 0.0
    if found:
        parts = zip(_UNITS.values(), found.groups(), strict=True)
        seconds = sum(unit * int(part) for unit, part in parts if part)
    if seconds <= 0:
        raise UserError(f"--time-limit {text!r} is no time; write 55m, 1h30m or 90s")
    return seconds


class TimeLimit:
    """A listener that stops a run in time for its last checkpoint.

    What the next step, its evaluation and two checkpoints have taken at most is kept free.

    Args:
        seconds: the limit, from now on. clock: seconds from any start; a test gives its own.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, clock() + seconds
        self.has_passed = False
        self.training: Training | None = None
        self._step_seconds = self._evaluation_seconds = 0.0

    def __call__(self, event: Event) -> None:
        """Look at the clock after a step."""
        from bptool.training.events import Evaluated, StepDone

        if isinstance(event, Evaluated):
            self._evaluation_seconds = max(self._evaluation_seconds, event.seconds)
        if not isinstance(event, StepDone) or self.training is None:
            return
        self._step_seconds = max(self._step_seconds, event.seconds)
        needed = (
            self._step_seconds + self._evaluation_seconds + 2 * self.training.checkpoints.seconds
        )
        if self._clock() + needed + _SLACK_SECONDS > self._end and not self.has_passed:
            self.has_passed = True
            self.training.request_stop()
