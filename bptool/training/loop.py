"""The training loop: steps, evaluations, samples, checkpoints; what happens goes out as events.

Exact resume: a checkpoint holds weights, optimizer state, the number of steps and the few sums
below; batches, masks and samples are functions of seed and step. It is written *before* the
evaluation of its step, which a resumed run does again.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import bptool
from bptool.config.dump import to_yaml
from bptool.config.schema import RunConfig
from bptool.data.tokenizers import load_tokenizer
from bptool.errors import DataError, DivergedError, RunError
from bptool.files import write_json, write_text
from bptool.inference.generate import generate
from bptool.inference.sampling import Sampling
from bptool.ops import jit
from bptool.training import machine
from bptool.training.checkpoint import CheckpointStore, load_slots, load_state, load_weights
from bptool.training.evaluation import evaluate_split
from bptool.training.events import (
    CheckpointSaved,
    Compiling,
    Evaluated,
    Event,
    Listener,
    Notice,
    Sampled,
    StepDone,
    TrainingFinished,
    TrainingStarted,
)
from bptool.training.metrics import MetricsFile, read_metrics, rewind
from bptool.training.plot import plot_losses
from bptool.training.run_folder import FORMAT_VERSION, RunFolder, read_json
from bptool.training.setup import Pieces, build, new_batch

MAX_SKIPPED_IN_A_ROW = 10
OVERFITTING_AFTER = 3
"""Evaluations without a better validation loss, while the training loss falls."""
SAMPLES_HEADER = f"# bptool samples, format_version {FORMAT_VERSION}\n"


@dataclasses.dataclass
class Progress:
    """What changes from step to step besides weights and optimizer state; in every checkpoint."""

    step: int = 0
    n_updates: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    n_losses: int = 0
    best_val_loss: float | None = None
    best_step: int = 0
    train_loss_at_best: float | None = None
    evaluations_since_best: int = 0


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
        self._listeners = [self._metrics, *listeners]
        self._store = CheckpointStore(folder.checkpoints)
        self._stop = False
        self._bytes_per_token = pieces.corpus.tokenizer.token_bytes()
        self._prompt = self._encode_prompt()

    def request_stop(self) -> None:
        """Finish the step at hand, save, and return from :meth:`run`."""
        self._stop = True

    def run(self) -> bool:
        """Train to the last step, or until stopped; True if it was stopped before.

        Raises:
            DivergedError: too many steps in a row had no finite gradient.
        """
        start = time.perf_counter()
        self._metrics.open()
        try:
            self._announce()
            self._compile()
            interrupted = self._loop()
        finally:
            self._metrics.close()
        files = self._draw()
        self._emit(
            TrainingFinished(
                step=self.progress.step,
                seconds=time.perf_counter() - start,
                best_step=self.progress.best_step,
                best_val_loss=_or_nan(self.progress.best_val_loss),
                interrupted=interrupted,
                run_dir=str(self.folder.path),
                files=files,
            )
        )
        return interrupted

    def _loop(self) -> bool:
        pieces, progress = self.pieces, self.progress
        training = pieces.config.training
        tokens, targets = new_batch(pieces)
        if progress.step > 0 and self._is_evaluation(progress.step):
            self._evaluate()  # the checkpoint was written before it
        while progress.step < training.steps and not self._stop:
            start = time.perf_counter()
            step = progress.step + 1
            n_targets = pieces.batches.fill(progress.step, tokens, targets)
            rate = pieces.learning_rate(step)
            result = pieces.step(tokens, targets, n_targets, rate, training.seed, step)
            progress.step, progress.n_updates = step, pieces.step.n_updates
            if result.updated:
                progress.skipped_in_a_row = 0
                progress.loss_sum += result.loss
                progress.n_losses += 1
            else:
                progress.skipped_in_a_row += 1
            seconds = time.perf_counter() - start
            flops = pieces.model.flops_per_token(pieces.sizes.n_time) * n_targets
            self._emit(
                StepDone(
                    step=step,
                    loss=result.loss,
                    penalty=result.penalty,
                    grad_norm=result.grad_norm,
                    learning_rate=rate,
                    seconds=seconds,
                    n_tokens=n_targets,
                    flops=flops,
                    skipped=not result.updated,
                )
            )
            self._check_divergence()
            evaluates = self._is_evaluation(step)
            if evaluates or step % training.checkpoint_interval == 0 or self._stop:
                self._save()
            if evaluates:
                self._evaluate()
        return progress.step < training.steps

    def _is_evaluation(self, step: int) -> bool:
        training = self.pieces.config.training
        return step % training.eval_interval == 0 or step == training.steps

    def _save(self) -> str:
        step = self.pieces.step
        state = dataclasses.asdict(self.progress)
        name = self._store.save(self.pieces.model.layout, step.weights, step.slots, state)
        self._emit(CheckpointSaved(self.progress.step, str(self.folder.checkpoints / name), False))
        return name

    def _evaluate(self) -> None:
        pieces, progress = self.pieces, self.progress
        start = time.perf_counter()
        found = evaluate_split(
            pieces.step.shards,
            pieces.step.params,
            pieces.corpus.validation,
            self._bytes_per_token,
            pieces.config.training.eval_tokens,
        )
        train_loss = progress.loss_sum / progress.n_losses if progress.n_losses else math.nan
        progress.loss_sum, progress.n_losses = 0.0, 0
        is_best = found.loss < _or_infinity(progress.best_val_loss)
        if is_best:
            progress.best_val_loss, progress.best_step = found.loss, progress.step
            progress.train_loss_at_best, progress.evaluations_since_best = train_loss, 0
            self._store.mark_best(self._store.resolve("last").name)
        else:
            progress.evaluations_since_best += 1
        overfitting = (
            progress.evaluations_since_best >= OVERFITTING_AFTER
            and train_loss < _or_infinity(progress.train_loss_at_best)
        )
        self._emit(
            Evaluated(
                step=progress.step,
                train_loss=train_loss,
                val_loss=found.loss,
                bits_per_byte=found.bits_per_byte,
                n_tokens=found.n_tokens,
                seconds=time.perf_counter() - start,
                is_best=is_best,
                overfitting=overfitting,
            )
        )
        if overfitting and progress.evaluations_since_best == OVERFITTING_AFTER:
            self._emit(
                Notice(
                    f"overfitting: validation loss was best at step {progress.best_step:,} "
                    "and rises while the training loss falls; that checkpoint is kept",
                    "warning",
                )
            )
        self._sample()

    def _sample(self) -> None:
        settings = self.pieces.config.sample
        if settings.max_tokens == 0:
            return
        pieces = self.pieces
        sampling = Sampling(settings.temperature, settings.top_k, None, pieces.config.training.seed)
        tokenizer = pieces.corpus.tokenizer
        ids = [
            token
            for (token,) in generate(
                pieces.model,
                pieces.step.params,
                pieces.engine.make(np.float32),
                self._prompt,
                settings.max_tokens,
                sampling,
            )
            if token is not None
        ]
        prompt, text = tokenizer.decode(self._prompt.tolist()), tokenizer.decode(ids)
        if not self.folder.samples.exists():
            write_text(self.folder.samples, SAMPLES_HEADER)
        with self.folder.samples.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"\n== step {self.progress.step} ==\n{prompt}{text}\n")
        self._emit(Sampled(self.progress.step, prompt, text))

    def _encode_prompt(self) -> np.ndarray[Any, Any]:
        """The sample's prompt; a default prompt that the alphabet lacks gives way to the text's
        own beginning."""
        corpus, text = self.pieces.corpus, self.pieces.config.sample.prompt
        try:
            ids = corpus.tokenizer.encode(text)
        except DataError as error:
            if text != type(self.pieces.config.sample).model_fields["prompt"].default:
                raise DataError(f"sample.prompt: {error}") from None
            ids = np.asarray(corpus.train[:1])
        return np.asarray(ids, np.int32)

    def _check_divergence(self) -> None:
        progress = self.progress
        if progress.skipped_in_a_row == 1:
            self._emit(Notice(f"step {progress.step}: loss or gradient not finite; skipped", "warning"))
        if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"the last {MAX_SKIPPED_IN_A_ROW} steps up to {progress.step} had no finite "
                "gradient and were skipped; lower optimizer.learning_rate or set "
                f"training.clip_norm, and go on from the last checkpoint in {self.folder.path}"
            )

    def _announce(self) -> None:
        pieces = self.pieces
        if jit.cache_notice:
            self._emit(Notice(jit.cache_notice, "warning"))
        peak = machine.measure_peak_flops(pieces.engine, pieces.team.run)
        self._emit(
            TrainingStarted(
                run_dir=str(self.folder.path),
                model=pieces.config.model.name,
                n_parameters=pieces.model.n_parameters,
                n_train_tokens=pieces.corpus.n_train,
                n_validation_tokens=pieces.corpus.n_validation,
                tokens_per_step=pieces.batches.n_sequences * pieces.sizes.n_time,
                start_step=self.progress.step,
                n_steps=pieces.config.training.steps,
                n_workers=pieces.team.n,
                engine=pieces.engine.name,
                peak_flops=peak,
            )
        )

    def _compile(self) -> None:
        what = f"kernels of {self.pieces.config.model.name}"
        self._emit(Compiling(what, done=False))
        start = time.perf_counter()
        with jit.compilations() as compiled:
            self.pieces.step.compile()
            decoder = self.pieces.model.decoder(
                self.pieces.step.params, 1, self.pieces.engine.make(np.float32)
            )
            decoder.append(np.zeros((1, 1), np.int32))
        seconds = time.perf_counter() - start
        self._emit(Compiling(what, done=True, seconds=seconds, cached=not compiled))

    def _draw(self) -> dict[str, str]:
        """Draw the curves; a plot that fails must not cost the run."""
        try:
            title = f"{self.folder.path.name}: {self.pieces.model.n_parameters:,} parameters"
            plot_losses(read_metrics(self.folder.metrics), self.folder.plot, title)
        except (OSError, RunError) as error:
            self._emit(Notice(f"could not draw {self.folder.plot}: {error}", "warning"))
            return {}
        return {"plot": str(self.folder.plot), "samples": str(self.folder.samples)}

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def start_run(
    config: RunConfig,
    folder: RunFolder,
    listeners: Sequence[Listener] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Training:
    """Begin a run: check everything, then make its folder."""
    pieces = build(config, progress=progress)
    try:
        training = Training(pieces, folder, listeners)
        folder.create()
        try:
            write_text(folder.config, to_yaml(config))
            pieces.corpus.tokenizer.save(folder.tokenizer)
            write_json(folder.manifest, manifest(pieces))
        except OSError as error:
            folder.discard()
            reason = error.strerror or error
            raise RunError(f"cannot write the run folder {folder.path}: {reason}") from None
    except BaseException:
        pieces.close()
        raise
    return training


def resume_run(
    config: RunConfig,
    folder: RunFolder,
    listeners: Sequence[Listener] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Training:
    """Go on with a run from its last checkpoint, with the workers its manifest names.

    ``config`` is the run's own, with whatever may change on a resume changed.
    """
    folder.require_run()
    saved = read_json(folder.manifest, "manifest")
    checkpoint = CheckpointStore(folder.checkpoints).resolve("last")
    n_workers = config.training.workers
    pieces = build(
        config,
        n_workers=saved["workers"] if n_workers == "auto" else None,
        progress=progress,
    )
    try:
        now = manifest(pieces)
        if now["data"] != saved["data"]:
            raise RunError(
                f"the text or its split is not the one that {folder.path} was trained on; "
                "restore the text, or train a new run"
            )
        if load_tokenizer(folder.tokenizer).to_json() != pieces.corpus.tokenizer.to_json():
            raise RunError(f"{folder.tokenizer} is not the tokenizer of this run's text")
        layout = pieces.model.layout
        load_weights(checkpoint, layout, pieces.step.weights)
        load_slots(checkpoint, layout, pieces.step.slots)
        state = load_state(checkpoint)
        names = {field.name for field in dataclasses.fields(Progress)}
        standing = Progress(**{name: state[name] for name in names})
        pieces.step.n_updates = standing.n_updates
        rewind(folder.metrics, standing.step)
        training = Training(pieces, folder, listeners, standing)
        for key in ("workers", "engine", "engine_version", "machine", "versions"):
            if now[key] != saved[key]:
                was = f"{key} was {saved[key]}, is {now[key]}"
                training._emit(Notice(f"the bits will differ from an unbroken run: {was}"))
    except KeyError as error:
        pieces.close()
        raise RunError(f"{folder.path}: {error} is missing from its manifest or state") from None
    except BaseException:
        pieces.close()
        raise
    return training


def manifest(pieces: Pieces) -> dict[str, Any]:
    """What a run's results depend on besides its configuration."""
    corpus, split = pieces.corpus, pieces.config.data.split
    import llvmlite
    import numba
    import scipy

    return {
        "format_version": FORMAT_VERSION,
        "versions": {
            "bptool": bptool.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "scipy": scipy.__version__,
        },
        "machine": machine.describe(),
        "engine": pieces.engine.name,
        "engine_version": pieces.engine.version,
        "kernels": jit.kernel_fingerprint(),
        "workers": pieces.team.n,
        "rows_in_memory": pieces.sizes.micro_rows,
        "data": {
            "text_sha256": corpus.text_sha256,
            "n_train_tokens": corpus.n_train,
            "n_validation_tokens": corpus.n_validation,
            "vocab_size": corpus.tokenizer.vocab_size,
            "split": split.model_dump(mode="json"),
        },
        "n_parameters": pieces.model.n_parameters,
    }


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
