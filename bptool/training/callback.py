"""What a training loop tells, and what those that it tells may answer.

A **callback** is told each event with the state of the loop, and answers nothing, :class:`Stop` or
:class:`RollBack`. Only the loop acts on an answer. Events that a callback makes itself, such as an
evaluation, go to all callbacks at once, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bptool.training import events
from bptool.training.events import Listener, Notice


@dataclass(frozen=True)
class State:
    """Where a loop stands.

    Attributes:
        step: steps done. n_steps: steps of the whole run.
        n_skipped: steps that changed no weight.
    """

    step: int
    n_steps: int
    n_skipped: int = 0


@dataclass(frozen=True)
class Reached:
    """The loop stands at ``step`` and all of that step is done: the moment to save or evaluate."""

    step: int
    after: Literal["start", "step", "rollback"]


@dataclass(frozen=True)
class LoopEnded:
    """No further step is taken: the last one is done, or the loop was stopped at ``step``."""

    step: int


@dataclass(frozen=True)
class Stop:
    """Take no further step. After ``diverged`` the weights are not worth keeping."""

    reason: Literal["asked", "early stopping", "diverged"]
    text: str = ""


@dataclass(frozen=True)
class RollBack:
    """Stand at the checkpoint of ``step`` again; ``text`` says why."""

    step: int
    text: str


Event = events.Event | Reached | LoopEnded
Answer = Stop | RollBack | None


class Callback:
    """Told every event of a loop.

    Attributes:
        emit: tells all callbacks of the loop an event; the loop sets it.
    """

    emit: Callable[[events.Event], None]

    def __call__(self, event: Event, state: State) -> Answer:
        """See to ``event``. An answer to a step ends it: later callbacks are not told of the step,
        and nobody that it was reached."""
        raise NotImplementedError

    def entries(self) -> dict[str, Any]:
        """What a resumed run needs, by the names of :class:`~bptool.training.progress.Progress`."""
        return {}

    def restore(self, entries: Mapping[str, Any]) -> None:
        """Take back what :meth:`entries` gave, among those of the other callbacks."""

    def warn(self, text: str) -> None:
        """Emit a warning."""
        self.emit(Notice(text, "warning"))


class Observer(Callback):
    """Passes on what happens, but not where the loop stands."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __call__(self, event: Event, state: State) -> None:
        if not isinstance(event, Reached | LoopEnded):
            self._listener(event)
