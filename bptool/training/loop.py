"""The training loop: it takes steps and acts on what its callbacks answer.

Every kind of training goes through it: a run in its folder (``run.py``), the trials of a study, and
those of ``lr-find``. Evaluation, checkpoints, samples and all else are callbacks (``callback.py``).

Exact resume: a checkpoint holds weights, optimizer state, the loop's counters and the entries of
the callbacks; batches, masks and samples are functions of seed and step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bptool.training.callback import Callback, Event, LoopEnded, Reached, RollBack, State, Stop
from bptool.training.events import Notice, StepDone
from bptool.training.lessons.base import Lesson


class Loop:
    """Steps of a lesson, from where ``state`` stands.

    Args:
        lesson: what takes the steps.
        learning_rate: that of each step, from 1.
        callbacks: told what happens, in this order.
        state: where the loop stands, and how many steps there are.
        load: puts the checkpoint of a step in the place of what was trained since, and says where
            that stands; only needed where a callback rolls back.
    """

    def __init__(
        self,
        lesson: Lesson,
        learning_rate: Callable[[int], float],
        callbacks: Sequence[Callback],
        state: State,
        load: Callable[[int], State] | None = None,
    ) -> None:
        self.lesson, self.learning_rate, self.callbacks = lesson, learning_rate, callbacks
        self.state, self._load = state, load
        self._stop: Stop | None = None
        self._back: RollBack | None = None
        for callback in callbacks:
            callback.emit = self.emit

    def request_stop(self) -> None:
        """Finish the step at hand, with all that belongs to it, and take no other."""
        self._stop = self._stop or Stop("asked")

    def run(self) -> Stop | None:
        """Train; why it stopped before its last step, or None.

        Of a stop that was asked for during the last step, nothing is said.
        """
        self.emit(Reached(self.state.step, "start"))
        while self.state.step < self.state.n_steps and self._stop is None:
            ended = self._tell(self._step())
            if self._back is not None:
                self._go_back(self._back)
            elif not ended:
                self.emit(Reached(self.state.step, "step"))
        if self._stop is None or self._stop.reason != "diverged":
            self.emit(LoopEnded(self.state.step))
        asked = self._stop is not None and self._stop.reason == "asked"
        return None if asked and self.state.step == self.state.n_steps else self._stop

    def emit(self, event: Event) -> None:
        """Tell every callback of ``event``, in their order."""
        self._tell(event)

    def _tell(self, event: Event) -> bool:
        """Tell every callback; True where the answer of one has ended the step at hand."""
        for callback in self.callbacks:
            answer = callback(event, self.state)
            if isinstance(answer, RollBack):
                self._back = answer
            elif answer is not None:  # to be asked to stop is the weakest of reasons
                self._stop = answer if answer.reason != "asked" else self._stop or answer
            if answer is not None and isinstance(event, StepDone):
                return True
        return False

    def _step(self) -> StepDone:
        """Take the step that is next."""
        start = time.perf_counter()
        step = self.state.step + 1
        rate = self.learning_rate(step)
        taken = self.lesson.step(step, rate)
        result = taken.result
        self.state = replace(
            self.state,
            step=step,
            n_skipped=self.state.n_skipped + (not result.updated),
        )
        return StepDone(
            step=step,
            loss=result.loss,
            penalty=result.penalty,
            grad_norm=result.grad_norm,
            learning_rate=rate,
            seconds=time.perf_counter() - start,
            n_tokens=taken.n_tokens,
            flops=taken.flops,
            skipped=not result.updated,
            statistics=taken.statistics,
        )

    def _go_back(self, back: RollBack) -> None:
        """Stand at a checkpoint again."""
        assert self._load is not None
        self._back, self.state = None, self._load(back.step)
        self.emit(Reached(self.state.step, "rollback"))
        self.emit(Notice(back.text, "warning"))
