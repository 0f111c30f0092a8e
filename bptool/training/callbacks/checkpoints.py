"""Writing checkpoints, and marking which of them is the best.

The checkpoint of a step is written *before* its evaluation, which a resumed run does again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bptool.errors import RunError
from bptool.training.callback import Callback, Event, LoopEnded, Reached, State
from bptool.training.checkpoint import CheckpointStore
from bptool.training.events import CheckpointSaved, Evaluated
from bptool.training.progress import Progress
from bptool.training.restore import save_checkpoint
from bptool.training.setup import Pieces


class Checkpoints(Callback):
    """Saves where a checkpoint is due, and at the end.

    Args:
        pieces: what is saved. store: where.
        progress: what a checkpoint of this moment holds besides tensors.
        saved_step: of the last checkpoint, if there is one.
        before: called before each checkpoint.
    """

    def __init__(
        self,
        pieces: Pieces,
        store: CheckpointStore,
        progress: Callable[[], Progress],
        saved_step: int | None,
        before: Callable[[], None],
    ) -> None:
        self._pieces, self._store, self._before = pieces, store, before
        self._progress_now, self._saved_step = progress, saved_step
        self._due: Progress | None = None
        """As it was when the last checkpoint was due, before the evaluation of its step."""
        self._unmarked: str | None = None
        """A best checkpoint that could not be marked."""
        self.seconds = 0.0
        """What the last checkpoint took."""

    def last_regular_step(self) -> int | None:
        """The newest checkpoint that an unbroken run makes too."""
        names = self._store.regular()
        return int(names[-1].removeprefix("step-")) if names else None

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, Reached):
            if event.after == "rollback":
                self._saved_step = event.step
            elif event.step > 0 or self._pieces.lesson.judges_start:  # it may turn out the best
                if self._pieces.config.training.is_checkpoint(event.step):
                    self._save_or_warn(event.step)
        elif isinstance(event, Evaluated) and event.is_best:
            self._mark_best(event.step)
        elif isinstance(event, LoopEnded):
            self._save(event.step)
            self._mark_again()

    def _save(self, step: int) -> None:
        """Write a checkpoint, unless the last one is of this very step."""
        if self._saved_step == step:
            return
        start = time.perf_counter()
        self._before()
        self._mark_again()  # or what is best would be removed
        if self._due is None or self._due.step != step:
            self._due = self._progress_now()
        name = save_checkpoint(self._store, self._pieces, self._due)
        self._saved_step, self.seconds = step, time.perf_counter() - start
        self.emit(CheckpointSaved(step, str(self._store.folder / name), is_best=False))

    def _save_or_warn(self, step: int) -> None:
        """Save; where that fails the run goes on, and tries again at the next checkpoint."""
        self._due = self._progress_now()
        try:
            self._save(step)
        except RunError as error:
            kept = "none is kept yet" if self._saved_step is None else "the last is untouched"
            self.warn(f"step {step:,}: no checkpoint: {error}; {kept}, training goes on")

    def _mark_best(self, step: int) -> None:
        """Make this step's checkpoint the best, if it could be written."""
        if self._saved_step != step:
            return
        self._unmarked = self._store.resolve("last").name
        try:
            self._mark_again()
        except RunError as error:
            self.warn(f"the best checkpoint is not marked yet: {error}")

    def _mark_again(self) -> None:
        """Mark the best checkpoint where that failed before; a RunError if it fails again."""
        if self._unmarked is not None:
            self._store.mark_best(self._unmarked)
            self._unmarked = None
