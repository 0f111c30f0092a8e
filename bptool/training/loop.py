"""The training loop: steps, evaluations, samples, checkpoints; what happens goes out as events.

Exact resume: a checkpoint holds weights, optimizer state, the number of steps and the few sums
below; batches, masks and samples are functions of seed and step. It is written *before* the
evaluation of its step, which a resumed run does again. ``begin.py`` starts and resumes runs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np

from bptool.errors import DivergedError, RunError
from bptool.ops import jit
from bptool.training import early_stopping, machine
from bptool.training.anomaly import diagnosis
from bptool.training.checkpoint import CheckpointStore
from bptool.training.closing import closing_notices
from bptool.training.evaluation import Evaluation
from bptool.training.events import (
    CheckpointSaved,
    Compiling,
    Evaluated,
    Event,
    Listener,
    Notice,
    StepDone,
    StoppedEarly,
    TrainingFinished,
    TrainingStarted,
)
from bptool.training.health import Health
from bptool.training.metrics import MetricsFile, read_metrics
from bptool.training.plot import plot_losses
from bptool.training.progress import OVERFITTING_AFTER, Progress
from bptool.training.restore import load_checkpoint, save_checkpoint
from bptool.training.run_folder import RunFolder
from bptool.training.sampler import Sampler
from bptool.training.samples import SamplesFile
from bptool.training.samples import rewind as rewind_samples
from bptool.training.setup import Pieces


class Training:
    """A run in its folder, from where it stands to its last step.

    Args:
        pieces: what trains. folder: where it is kept. listeners: called with each event.
        progress: where it stands.
    """

    def __init__(
        self,
        pieces: Pieces,
        folder: RunFolder,
        listeners: Sequence[Listener] = (),
        progress: Progress | None = None,
    ) -> None:
        self.pieces, self.folder = pieces, folder
        self.progress = progress or Progress()
        self._metrics = MetricsFile(folder.metrics)
        self._samples = SamplesFile(folder.samples)
        self._listeners: list[Listener] = [self._metrics, *listeners]
        self._unevaluated: Progress | None = None
        """Where the run stood before its last evaluation."""
        self._unmarked: str | None = None
        """A best checkpoint that could not be marked."""
        self.failed = False
        """Whether the run ended without ever having been below guessing; see ``health.py``."""
        self.detect_anomaly = False
        """Stop at the first number that is not finite, and say which operation made it."""
        self.save_seconds = 0.0
        """What the last checkpoint took."""
        settings = pieces.config.training
        self._store = CheckpointStore(
            *(folder.checkpoints, settings.keep_last, settings.keep_every, self._is_regular)
        )
        self._saved_step = self.progress.step if self._store.index().last else None
        self._stop = self._stopped_early = False
        lowest = self.progress.best_val_loss
        self._health = Health(pieces.lesson.guessing_loss, settings.steps, lowest)
        self._sampler = Sampler(pieces)

    def _run_it_scores(self) -> str:
        """Of a reward model, the run that it started from."""
        config = self.pieces.config
        is_reward = config.objective.name == "reward" and config.start is not None
        return config.start.run if is_reward and config.start else ""

    def request_stop(self) -> None:
        """Finish the step at hand, save, and return from :meth:`run`."""
        self._stop = True

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
            self._compile()
            interrupted = self._loop()
        except DivergedError:
            self.failed = not (self._health.ever_below or self.detect_anomaly)
            raise
        finally:
            self._metrics.close()
        if not interrupted:
            for notice in closing_notices(self.pieces.lesson, self.progress):
                self._emit(notice)
        files = self._draw()
        step = self.progress.step
        self.failed = not interrupted and self._health.has_failed(step)
        self._emit(
            TrainingFinished(
                step=step,
                seconds=time.perf_counter() - start,
                best_step=self.progress.best_step,
                best_val_loss=_or_nan(self.progress.best_val_loss),
                interrupted=interrupted,
                run_dir=str(self.folder.path),
                stopped_early=self._stopped_early,
                files=files,
                peak_memory_bytes=machine.peak_memory_bytes(),
                answers=self.pieces.config.chat is not None,
                scores=self._run_it_scores(),
                counted=None if interrupted else self.pieces.counted(),
                left_out=self.pieces.lesson.left_out,
                guessing_loss=self.pieces.lesson.guessing_loss,
                failed=self.failed,
                warnings=() if interrupted else tuple(self._health.at_end(step)),
            )
        )
        return interrupted

    def _loop(self) -> bool:
        training = self.pieces.config.training
        settings = training.spikes
        if settings is not None:
            self.pieces.step.accepts = lambda loss: not self.progress.watch.is_spike(loss, settings)
        if self.progress.step > 0 and self._is_evaluation(self.progress.step):
            self._evaluate()  # the checkpoint was written before it
        if self.progress.step == 0 and self.pieces.lesson.judges_start:
            self._save_or_say_why_not()  # it may turn out to be the best
            self._evaluate()
        while self.progress.step < training.steps and not (self._stop or self._stopped_early):
            done = self._step()
            self._emit(done)
            self._warn(self._health.after_step(done))
            self._say_notices()
            if done.skipped and self._went_back(done):
                continue
            if self._is_regular(done.step):
                self._save_or_say_why_not()
            if self._is_evaluation(done.step):
                self._evaluate()
        self._save()  # where the run was stopped
        self._mark_again()
        return self.progress.step < training.steps and not self._stopped_early

    def _step(self) -> StepDone:
        """Train the step that is next."""
        pieces, progress = self.pieces, self.progress
        start = time.perf_counter()
        step = progress.step + 1
        rate = pieces.learning_rate(step) * progress.watch.rate_factor
        taken = pieces.lesson.step(step, rate)
        result = taken.result
        progress.step, progress.n_updates = step, pieces.step.n_updates
        if result.updated:
            progress.skipped_in_a_row = 0
            progress.loss_sum += result.loss
            progress.n_losses += 1
            if pieces.config.training.spikes is not None:
                progress.watch.note_loss(result.loss, pieces.config.training.spikes)
        else:
            progress.n_skipped += 1
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

    def _went_back(self, done: StepDone) -> bool:
        """See to a step that was left out; True where the run stands at a checkpoint again."""
        if not (math.isfinite(done.loss) and math.isfinite(done.grad_norm)):
            self._see_to_non_finite()
            return False
        settings, watch = self.pieces.config.training.spikes, self.progress.watch
        if settings is None:  # the lesson's own reasons
            return False
        text = f"step {done.step:,}: the loss {done.loss:.4g} is a spike, {{}}"
        can_go_back = bool(self._store.regular()) and done.step > watch.back_from
        if settings.then == "rollback" and can_go_back:
            if watch.rollbacks >= settings.max_rollbacks:
                raise DivergedError(
                    f"step {done.step:,}: the loss {done.loss:.4g} is a spike again after "
                    f"{watch.rollbacks} rollbacks; go on from an earlier checkpoint with "
                    "--checkpoint, or train anew with a lower optimizer.learning_rate"
                )
            self._go_back(done.step, settings.rate_factor)
            factor = self.progress.watch.rate_factor
            how = f"back to step {self.progress.step:,}, learning rate times {factor:.3g}"
            self._emit(Notice(text.format(how), "warning"))
            return True
        how = "the new level from now on" if watch.note_spike() else "skipped"
        self._emit(Notice(text.format(how), "warning"))
        return False

    def _go_back(self, step: int, rate_factor: float) -> None:
        """Stand at the last checkpoint before ``step`` again, with a smaller learning rate: at one
        that an unbroken run has too."""
        watch = self.progress.watch
        rollbacks, factor = watch.rollbacks + 1, watch.rate_factor * rate_factor
        name = self._store.regular()[-1]
        progress = load_checkpoint(self._store.resolve(name), self.pieces)
        self._store.go_back(name, progress.best_step)
        progress.watch.rollbacks, progress.watch.rate_factor = rollbacks, factor
        progress.watch.back_from = step
        self.progress, self._saved_step = progress, progress.step
        self._metrics.rewind(progress.step)
        rewind_samples(self.folder.samples, progress.step)
        if self._is_evaluation(progress.step):
            self._evaluate()

    def _is_evaluation(self, step: int) -> bool:
        training = self.pieces.config.training
        return step % training.eval_interval == 0 or step == training.steps

    def _is_regular(self, step: int) -> bool:
        """Whether a checkpoint is due at a step."""
        return self._is_evaluation(step) or (
            step % self.pieces.config.training.checkpoint_interval == 0
        )

    def _save(self) -> None:
        """Write a checkpoint, unless the last one is of this very step."""
        progress, start = self.progress, time.perf_counter()
        if self._saved_step == progress.step:
            return
        self._metrics.sync()
        self._mark_again()  # or what is best would be removed
        # where the save before the evaluation failed: a resumed run does the evaluation again
        before = self._unevaluated
        progress = before if before and before.step == progress.step else progress
        name = save_checkpoint(self._store, self.pieces, progress)
        self._saved_step, self.save_seconds = progress.step, time.perf_counter() - start
        path = str(self.folder.checkpoints / name)
        self._emit(CheckpointSaved(progress.step, path, is_best=False))

    def _save_or_say_why_not(self) -> None:
        """Save; where that fails the run goes on, and tries again at the next checkpoint."""
        try:
            self._save()
        except RunError as error:
            kept = "none is kept yet" if self._saved_step is None else "the last is untouched"
            text = f"step {self.progress.step:,}: no checkpoint: {error}; {kept}, training goes on"
            self._emit(Notice(text, "warning"))

    def _evaluate(self) -> None:
        pieces, progress = self.pieces, self.progress
        self._unevaluated = copy.deepcopy(progress)
        start = time.perf_counter()
        found = pieces.lesson.evaluate(pieces.step.evaluation_params())
        raw, average, statistics = found.evaluation, None, found.statistics
        if pieces.step.averaging:
            of_average = pieces.lesson.evaluate(pieces.step.average_params())
            average, statistics = of_average.evaluation, of_average.statistics
        judged = average or raw
        train_loss = progress.loss_sum / progress.n_losses if progress.n_losses else None
        progress.loss_sum, progress.n_losses = 0.0, 0
        is_best = judged.loss < _or_infinity(progress.best_val_loss)
        if is_best:
            progress.best_val_loss, progress.best_step = judged.loss, progress.step
            progress.train_loss_at_best, progress.evaluations_since_best = train_loss, 0
            self._mark_best()
        else:
            progress.evaluations_since_best += 1
        overfitting = progress.overfits(train_loss) and not pieces.lesson.maximised
        self._emit(
            Evaluated(
                step=progress.step,
                train_loss=_or_nan(train_loss),
                val_loss=raw.loss,
                bits_per_byte=raw.bits_per_byte,
                n_tokens=raw.n_tokens,
                seconds=time.perf_counter() - start,
                is_best=is_best,
                overfitting=overfitting,
                average_val_loss=average.loss if average else None,
                average_bits_per_byte=average.bits_per_byte if average else None,
                statistics=statistics,
            )
        )
        self._warn(self._health.after_evaluation(progress.step, judged.loss, raw.loss))
        self._say_notices()
        if overfitting and progress.evaluations_since_best == OVERFITTING_AFTER:
            self._emit(
                Notice(
                    f"overfitting: validation loss was best at step {progress.best_step:,} "
                    "and rises while the training loss falls; that checkpoint is kept",
                    "warning",
                )
            )
        self._sample()
        if progress.step > 0:
            self._judge(judged)

    def _mark_best(self) -> None:
        """Make this step's checkpoint the best, if it could be written."""
        if self._saved_step != self.progress.step:
            return
        self._unmarked = self._store.resolve("last").name
        try:
            self._mark_again()
        except RunError as error:
            text = f"the best checkpoint is not marked yet: {error}"
            self._emit(Notice(text, "warning"))

    def _mark_again(self) -> None:
        """Mark the best checkpoint where that failed before; a RunError if it fails again."""
        if self._unmarked is not None:
            self._store.mark_best(self._unmarked)
            self._unmarked = None

    def _say_notices(self) -> None:
        for notice in self.pieces.lesson.notices():
            self._emit(notice)

    def _warn(self, sentences: Iterable[str]) -> None:
        for text in sentences:
            self._emit(Notice(text, "warning"))

    def _judge(self, found: Evaluation) -> None:
        """Stop early where that is wanted and due."""
        progress, settings = self.progress, self.pieces.config.training.early_stopping
        if settings is None:
            return
        waiting = progress.waiting
        improvement, margin = early_stopping.judge(waiting, found, progress.step, settings)
        self._stopped_early = waiting.evaluations >= settings.patience
        if self._stopped_early:
            self._emit(
                StoppedEarly(
                    step=progress.step,
                    n_evaluations=waiting.evaluations,
                    since_step=waiting.step,
                    since_val_loss=waiting.loss,
                    improvement=improvement,
                    margin=margin,
                )
            )

    def _sample(self) -> None:
        if self.pieces.config.sample.max_tokens == 0:
            return
        sample = self._sampler.sample(self.progress.step)
        try:
            self._samples(sample)
        except RunError as error:
            self._emit(Notice(str(error), "warning"))
        self._emit(sample)

    def _see_to_non_finite(self) -> None:
        """Say that a step was skipped; stop where nothing else is left, or was asked for."""
        progress, limit = self.progress, self.pieces.config.training.max_skipped
        progress.skipped_in_a_row += 1
        in_a_row = progress.skipped_in_a_row
        if self.detect_anomaly or in_a_row >= limit:
            raise DivergedError(diagnosis(self.pieces.step, progress.step, in_a_row))
        if in_a_row == 1:
            text = f"step {progress.step}: loss or gradient not finite; skipped"
            self._emit(Notice(text, "warning"))

    def _announce(self) -> None:
        pieces = self.pieces
        peak = machine.measure_peak_flops(pieces.team.run)
        self._emit(
            TrainingStarted(
                run_dir=str(self.folder.path),
                model=pieces.config.model.name,
                n_parameters=pieces.model.n_parameters,
                n_train_tokens=pieces.corpus.n_train,
                n_validation_tokens=pieces.corpus.n_validation,
                tokens_per_step=pieces.lesson.tokens_per_step,
                start_step=self.progress.step,
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

    def _compile(self) -> None:
        what = f"kernels of {self.pieces.config.model.name}"
        self._emit(Compiling(what, done=False))
        start = time.perf_counter()
        with jit.compilations() as compiled:
            self.pieces.step.compile()
            self.pieces.lesson.compile()
            decoder = self.pieces.model.decoder(self.pieces.step.params, 1, self.pieces.team)
            decoder.add(1)
            decoder.append([np.zeros(1, np.int32)])
        seconds = time.perf_counter() - start
        self._emit(Compiling(what, done=True, seconds=seconds, cached=not compiled))

    def _draw(self) -> dict[str, str]:
        """Draw the curves; a plot that fails must not cost the run."""
        title = f"{self.folder.path.name}: {self.pieces.model.n_parameters:,} parameters"
        try:
            records = read_metrics(self.folder.metrics)
            plot_losses(records, self.folder.plot, title, self.pieces.lesson)
        except (OSError, RunError) as error:  # the weights are what matters
            self._emit(Notice(f"could not draw {self.folder.plot}: {error}", "warning"))
            return {}
        written = {"plot": self.folder.plot, "samples": self.folder.samples}
        return {name: str(path) for name, path in written.items() if path.exists()}

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
