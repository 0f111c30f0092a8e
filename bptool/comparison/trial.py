"""One trial of a study: a configuration trained from its first step to its last, nothing kept
but its numbers. Every number but the seconds is a function of the configuration and the text.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from bptool.comparison.records import Point, Status
from bptool.config.schema import RunConfig
from bptool.data.corpus import Corpus
from bptool.ops import jit
from bptool.training.evaluation import evaluate_split
from bptool.training.setup import Pieces, build, new_batch

DIVERGED_AT = 10.0
"""A final loss above this many times the initial weights' is divergence, though it is a number."""
UNTIMED_STEPS = 3
"""Steps before those that :func:`time_steps` measures, in which caches and clocks settle."""


@dataclass(frozen=True)
class Outcome:
    """What a trial came to."""

    status: Status
    steps: int
    """Steps done, skipped ones among them."""
    skipped: int
    curve: tuple[Point, ...]
    """One point an evaluation, the initial weights' at step 0 first."""
    final_loss: float
    """Validation loss after the last step; infinite where the trial diverged."""
    best_loss: float
    """Lowest validation loss of any evaluation after the first step; infinite if none is."""
    best_step: int
    seconds: float
    """Wall time from the first evaluation to the last; compiling kernels is apart."""
    step_seconds: float
    """Median time of a step; NaN if there was none."""
    state_bytes: int
    """Memory of the optimizer's state."""
    tokens_per_step: int
    weights_sha256: str
    """Of the initial weights."""
    batches_sha256: str
    """Of all tokens and targets trained on, in order."""


def run_trial(
    config: RunConfig,
    corpus: Corpus,
    on_step: Callable[[int, float], None] | None = None,
    on_compiling: Callable[[bool, float, bool], None] | None = None,
) -> Outcome:
    """Train ``config`` on ``corpus``, evaluating as it says.

    It has diverged where ten steps in a row had no finite gradient (as in ``bptool train``) or
    where a validation loss is not finite, and ends there. Also where its last step was skipped,
    since that changes no weight and the next ones would be skipped too, or where its last loss is
    above ``DIVERGED_AT`` times its first.

    Args:
        on_step: told the step and its training loss.
        on_compiling: told (False, 0, False) before and (True, seconds, cached) after.
    """
    pieces = build(config, corpus)
    try:
        _compile(pieces, on_compiling)
        start = time.perf_counter()
        run = _Run(pieces)
        status = run.to_the_end(on_step)
    finally:
        pieces.close()
    later = [point for point in run.curve[1:] if math.isfinite(point.val_loss)]
    best = min(later, key=lambda point: point.val_loss, default=None)
    return Outcome(
        status=status,
        steps=run.step,
        skipped=run.skipped,
        curve=tuple(run.curve),
        final_loss=run.curve[-1].val_loss if status == "completed" else math.inf,
        best_loss=best.val_loss if best else math.inf,
        best_step=best.step if best else 0,
        seconds=time.perf_counter() - start,
        step_seconds=statistics.median(run.step_seconds) if run.step_seconds else math.nan,
        state_bytes=sum(slot.nbytes for slot in pieces.step.slots.values()),
        tokens_per_step=pieces.batches.n_sequences * pieces.sizes.n_time,
        weights_sha256=run.weights_sha256,
        batches_sha256=run.batches.hexdigest(),
    )


def time_steps(config: RunConfig, corpus: Corpus, n: int) -> float:
    """Mean seconds of ``n`` steps from the initial weights, batch, update and all.

    The mean, because a rule may do at some steps what it does not do at others: SOAP finds its
    eigenbasis at every tenth.
    """
    pieces = build(config, corpus)
    try:
        _compile(pieces, None)
        tokens, targets = new_batch(pieces)
        start = 0.0
        for step in range(1, UNTIMED_STEPS + n + 1):
            if step == UNTIMED_STEPS + 1:
                start = time.perf_counter()
            n_targets = pieces.batches.fill(step - 1, tokens, targets)
            rate = pieces.learning_rate(step)
            pieces.step(tokens, targets, n_targets, rate, config.training.seed, step)
        return (time.perf_counter() - start) / n
    finally:
        pieces.close()


def _compile(pieces: Pieces, say: Callable[[bool, float, bool], None] | None) -> None:
    """Compile every kernel first, so that it is in no step's time."""
    if say:
        say(False, 0.0, False)
    start = time.perf_counter()
    with jit.compilations() as compiled:
        pieces.step.compile()
    if say:
        say(True, time.perf_counter() - start, not compiled)


class _Run:
    """What changes while a trial runs."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces, self.training = pieces, pieces.config.training
        self.weights_sha256 = hashlib.sha256(pieces.step.weights.tobytes()).hexdigest()
        self.batches = hashlib.sha256()
        self.bytes_per_token = pieces.corpus.tokenizer.token_bytes()
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.curve: list[Point] = []
        self.step_seconds: list[float] = []
        self.losses: list[float] = []
        """Training losses since the last evaluation."""

    def to_the_end(self, on_step: Callable[[int, float], None] | None) -> Status:
        tokens, targets = new_batch(self.pieces)
        finite = self.evaluate()
        while finite and self.step < self.training.steps:
            start = time.perf_counter()
            n_targets = self.pieces.batches.fill(self.step, tokens, targets)
            self.step += 1
            rate = self.pieces.learning_rate(self.step)
            result = self.pieces.step(
                tokens, targets, n_targets, rate, self.training.seed, self.step
            )
            self.step_seconds.append(time.perf_counter() - start)
            self.batches.update(tokens.tobytes())
            self.batches.update(targets.tobytes())
            if result.updated:
                self.skipped_in_a_row = 0
                self.losses.append(result.loss)
            else:
                self.skipped += 1
                self.skipped_in_a_row += 1
            if on_step:
                on_step(self.step, result.loss)
            if self.skipped_in_a_row >= self.training.max_skipped:
                return "diverged"
            last = self.step == self.training.steps
            if last or self.step % self.training.eval_interval == 0:
                finite = self.evaluate()
        bound = DIVERGED_AT * self.curve[0].val_loss
        whole = finite and not self.skipped_in_a_row and self.curve[-1].val_loss <= bound
        return "completed" if whole else "diverged"

    def evaluate(self) -> bool:
        """Add a point to the curve; False where its loss is not finite."""
        found = evaluate_split(
            self.pieces.step.shards,
            self.pieces.step.average_params(),
            self.pieces.corpus.validation,
            self.bytes_per_token,
            self.training.eval_tokens,
        )
        train_loss = statistics.fmean(self.losses) if self.losses else math.nan
        self.losses = []
        seconds = math.fsum(self.step_seconds)
        self.curve.append(Point(self.step, train_loss, found.loss, seconds))
        return math.isfinite(found.loss)
