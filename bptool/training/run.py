"""A run in its folder: the training loop with all that goes on around its steps.

``begin.py`` starts and resumes runs.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from bptool.errors import DivergedError, RunError
from bptool.training import machine
from bptool.training.anomaly import diagnosis
from bptool.training.callback import Callback, Event, Observer, State
from bptool.training.callbacks.checkpoints import Checkpoints
from bptool.training.callbacks.evaluator import Evaluator
from bptool.training.callbacks.skips import NonFinite
from bptool.training.checkpoint import CheckpointStore
from bptool.training.closing import closing_notices
from bptool.training.compiling import compile_kernels
from bptool.training.early_stopping import Patience
from bptool.training.events import (
    Evaluated,
    Listener,
    Notice,
    StepDone,
    TrainingFinished,
    TrainingStarted,
)
from bptool.training.health import Health
from bptool.training.lessons.base import Lesson
from bptool.training.loop import Loop
from bptool.training.metrics import MetricsFile, read_metrics
from bptool.training.plot import plot_losses
from bptool.training.progress import Progress
from bptool.training.restore import load_checkpoint
from bptool.training.run_folder import RunFolder
from bptool.training.sampler import Sampler
from bptool.training.samples import SamplesFile
from bptool.training.setup import Pieces
from bptool.training.spikes import SpikeGuard


class Training:
    """A run in its folder, from where it stands to its last step.

    Args:
        pieces: what trains. folder: where it is kept. listeners: called with each event.
        progress: where it stands.
        detect_anomaly: stop at the first number that is not finite, and say which operation made
            it.

    Attributes:
        failed: whether the run ended without ever having been below guessing; see ``health.py``.
    """

    def __init__(
        self,
        pieces: Pieces,
        folder: RunFolder,
        listeners: Sequence[Listener] = (),
        progress: Progress | None = None,
        detect_anomaly: bool = False,
    ) -> None:
        self.pieces, self.folder, self.failed = pieces, folder, False
        self._detect_anomaly = detect_anomaly
        settings, progress = pieces.config.training, progress or Progress()
        self.store = CheckpointStore(
            folder.checkpoints, settings.keep_last, settings.keep_every, settings.is_checkpoint
        )
        saved_step = progress.step if self.store.index().last else None
        self._metrics = MetricsFile(folder.metrics)
        self.checkpoints = Checkpoints(
            pieces, self.store, self._progress, saved_step, self._metrics.sync
        )
        self._health = Health(pieces.lesson.guessing_loss, settings.steps, progress.best_val_loss)
        self._evaluator = Evaluator(pieces)
        self._non_finite = NonFinite(1 if detect_anomaly else settings.max_skipped)
        self._spikes = SpikeGuard(settings.spikes, self.checkpoints.last_regular_step)
        # Their order: a step is written down and shown; it is judged, which may undo it; it is
        # saved before it is evaluated; what follows an evaluation is last.
        self._callbacks: list[Callback] = [
            self._metrics,
            SamplesFile(folder.samples),
            *map(Observer, listeners),
            self._health,
            LessonNotices(pieces.lesson),
            self._non_finite,
            self._spikes,
            self.checkpoints,
            self._evaluator,
            Sampler(pieces),
            Patience(settings.early_stopping, lambda: self._evaluator.judged),
        ]
        pieces.step.accepts = self._spikes.accepts
        state = self._restored(progress)
        self.loop = Loop(pieces.lesson, self._learning_rate, self._callbacks, state, self._go_back)
        self.request_stop = self.loop.request_stop

    def run(self) -> bool:
        """Train to the last step or to early stopping; True if it was told to stop before.

        Raises:
            DivergedError: too many steps in a row had no finite gradient, or too many rollbacks.
            RunError: the last checkpoint could not be written.
        """
        start = time.perf_counter()
        self._metrics.open()
        try:
            self._announce()
            compile_kernels(self.pieces, self.loop.emit, writes=True)
            stop = self.loop.run()
        finally:
            self._metrics.close()
        step, lesson = self.loop.state.step, self.pieces.lesson
        if stop is not None and stop.reason == "diverged":
            self.failed = not (self._health.ever_below or self._detect_anomaly)
            text = stop.text or diagnosis(self.pieces.step, step, self._non_finite.in_a_row)
            raise DivergedError(text)
        interrupted = stop is not None and stop.reason == "asked"
        evaluations = self._evaluator.kept
        if not interrupted:
            for notice in closing_notices(lesson, evaluations):
                self.loop.emit(notice)
        files = self._draw()
        self.failed = not interrupted and self._health.has_failed(step)
        best = evaluations.best_val_loss
        self.loop.emit(
            TrainingFinished(
                step=step,
                seconds=time.perf_counter() - start,
                best_step=evaluations.best_step,
                best_val_loss=math.nan if best is None else best,
                interrupted=interrupted,
                run_dir=str(self.folder.path),
                stopped_early=stop is not None and stop.reason == "early stopping",
                files=files,
                peak_memory_bytes=machine.peak_memory_bytes(),
                answers=self.pieces.config.chat is not None,
                scores=self._run_it_scores(),
                counted=None if interrupted else self.pieces.counted(),
                left_out=lesson.left_out,
                guessing_loss=lesson.guessing_loss,
                failed=self.failed,
                warnings=() if interrupted else tuple(self._health.at_end(step)),
            )
        )
        return interrupted

    def _learning_rate(self, step: int) -> float:
        return self.pieces.learning_rate(step) * self._spikes.watch.rate_factor

    def _progress(self) -> Progress:
        """What a checkpoint of this moment holds besides tensors."""
        entries: dict[str, Any] = {}
        for callback in self._callbacks:
            entries |= callback.entries()
        state = self.loop.state
        n_updates = self.pieces.step.n_updates
        return Progress(step=state.step, n_updates=n_updates, n_skipped=state.n_skipped, **entries)

    def _restored(self, progress: Progress) -> State:
        """Give the callbacks what a checkpoint holds of them; where the loop stands by it."""
        entries = {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress)}
        for callback in self._callbacks:
            callback.restore(entries)
        return State(progress.step, self.pieces.config.training.steps, progress.n_skipped)

    def _go_back(self, step: int) -> State:
        """Put the checkpoint of ``step`` in the place of what was trained since."""
        checkpoint = self.store.resolve(f"step-{step:08d}")
        progress = load_checkpoint(checkpoint, self.pieces)
        self.store.go_back(checkpoint.name, progress.best_step)
        return self._restored(progress)

    def _run_it_scores(self) -> str:
        """Of a reward model, the run that it started from."""
        config = self.pieces.config
        is_reward = config.objective.name == "reward" and config.start is not None
        return config.start.run if is_reward and config.start else ""

    def _announce(self) -> None:
        pieces = self.pieces
        peak = machine.measure_peak_flops(pieces.team.run)
        self.loop.emit(
            TrainingStarted(
                run_dir=str(self.folder.path),
                model=pieces.config.model.name,
                n_parameters=pieces.model.n_parameters,
                n_train_tokens=pieces.corpus.n_train,
                n_validation_tokens=pieces.corpus.n_validation,
                tokens_per_step=pieces.lesson.tokens_per_step,
                start_step=self.loop.state.step,
                n_steps=pieces.config.training.steps,
                n_workers=pieces.team.n,
                engine=pieces.engine.name,
                peak_flops=peak,
                engine_choice=pieces.engine.why,
                judged_as=pieces.lesson.judged_as,
                maximised=pieces.lesson.maximised,
                material=pieces.lesson.material,
            )
        )

    def _draw(self) -> dict[str, str]:
        """Draw the curves; a plot that fails must not cost the run."""
        title = f"{self.folder.path.name}: {self.pieces.model.n_parameters:,} parameters"
        try:
            records = read_metrics(self.folder.metrics)
            plot_losses(records, self.folder.plot, title, self.pieces.lesson)
        except (OSError, RunError) as error:  # the weights are what matters
            self.loop.emit(Notice(f"could not draw {self.folder.plot}: {error}", "warning"))
            return {}
        written = {"plot": self.folder.plot, "samples": self.folder.samples}
        return {name: str(path) for name, path in written.items() if path.exists()}


class LessonNotices(Callback):
    """Says what the lesson has to say after steps and evaluations."""

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, StepDone | Evaluated):
            for notice in self._lesson.notices():
                self.emit(notice)
