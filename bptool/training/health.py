"""Whether a run learns at all: its loss against that of guessing, and numbers that are not finite.

**Guessing** predicts each token by how frequent it is in the training part, whatever stands before
it. With n(v) the count of token v among N training tokens of a vocabulary of V, and q(v) the share
of v among the targets of an evaluation,

    guessing = - sum_v q(v) ln((n(v) + 1) / (N + V))

in nats per token; adding one to each count gives tokens that were never seen a probability too
(Laplace). A model whose loss is above it has learned nothing of what stands before a token, or has
diverged.

The training loss is looked at after a fifth of the steps, but not before ``ENOUGH_STEPS``: until
then a sound model may be on its way down from its initial weights. A run has **failed** where it
came to an end, no evaluation was ever below guessing, and it had as many steps as that, or its loss
has blown up: it is not finite, or above ``BLOWN_UP`` times that of the first step. Nothing here
changes a number of the training.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

from bptool.models.base import Array
from bptool.training.callback import Callback, Event, State
from bptool.training.events import Evaluated, StepDone

ENOUGH_STEPS = 100
FIRST_SHARE = 5
"""A run is looked at after one in so many of its steps."""
BLOWN_UP = 1.5
RECENT_STEPS = 20
"""Whose mean is the training loss that is looked at."""
SLICE = 1 << 20
MOST_SLICES = 64
"""Of a longer text, so many slices at equal distances are counted."""


def guessing_loss(train: Array, targets: Array, n_vocab: int) -> float:
    """Nats per token of guessing ``targets`` by the frequencies in ``train``; see the module.

    Args:
        train, targets: token ids, 1-D. Negative ones are masked and do not count.
        n_vocab: how many ids there are.
    """
    seen, wanted = _counts(train, n_vocab), _counts(targets, n_vocab)
    logp = np.log(seen + 1.0) - math.log(float(seen.sum()) + n_vocab)
    return float(-(wanted @ logp) / max(wanted.sum(), 1))


def _counts(ids: Array, n_vocab: int) -> Array:
    """How often each id occurs, by slices, so that a mapped file is not read into memory."""
    n_slices = -(-len(ids) // SLICE)
    n_taken = min(n_slices, MOST_SLICES)
    counts = np.zeros(n_vocab, np.int64)
    for i in range(n_taken):
        first = i * n_slices // n_taken * SLICE
        part = np.asarray(ids[first : first + SLICE]).astype(np.int64)
        counts += np.bincount(part[part >= 0], minlength=n_vocab)
    return counts


class Health(Callback):
    """What is wrong with a run, in sentences: while it runs, and at its end.

    Args:
        guessing: the loss of guessing; None where the loss is not one of tokens.
        n_steps: of the whole run.
        lowest: loss of the best evaluation so far; None if there was none.
    """

    def __init__(self, guessing: float | None, n_steps: int, lowest: float | None) -> None:
        self._guessing = math.inf if guessing is None else guessing
        self._n_steps = n_steps
        self._lowest = math.inf if lowest is None else lowest
        self._initial = math.nan
        """Loss of the first step."""
        self._last = 0.0 if lowest is None else lowest
        """Loss of the last evaluation, where there was one."""
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._looked = self._was_well = self._lowest < self._guessing
        self._n_zero = self._n_not_finite = 0

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, StepDone):
            sentences = self.after_step(event)
        elif isinstance(event, Evaluated):
            sentences = self.after_evaluation(event.step, event.judged_loss, event.val_loss)
        else:
            return
        for text in sentences:
            self.warn(text)

    def after_step(self, done: StepDone) -> Iterator[str]:
        """What is to be said after a step."""
        finite = math.isfinite(done.loss) and math.isfinite(done.grad_norm)
        self._n_not_finite = 0 if finite else self._n_not_finite + 1
        if math.isfinite(done.loss):
            self._recent.append(done.loss)
            self._initial = done.loss if math.isnan(self._initial) else self._initial
        if done.grad_norm == 0.0:
            self._n_zero += 1
            if self._n_zero == 1:
                yield f"step {done.step:,}: the gradient is zero, so nothing is learned from it"
        due = max(-(-self._n_steps // FIRST_SHARE), ENOUGH_STEPS)
        if not self._looked and done.step >= due and len(self._recent) == RECENT_STEPS:
            self._looked = True
            loss = math.fsum(self._recent) / RECENT_STEPS
            if not min(loss, self._lowest) < self._guessing:
                yield (
                    f"step {done.step:,}: the training loss, {loss:.4f}, is not below "
                    f"{self._guess}; {self._remedy(loss)}"
                )

    def after_evaluation(self, step: int, judged: float, raw: float) -> Iterator[str]:
        """What is to be said of the loss that weights are judged by; ``raw`` is that of the weights
        themselves, where their average is judged."""
        self._last = judged
        self._lowest = min([self._lowest, *filter(math.isfinite, (judged, raw))])
        well = judged < self._guessing and math.isfinite(judged)
        if not well and (self._was_well or self._blew_up):
            if self._was_well or not self._looked:
                yield f"step {step:,}: the validation loss, {self._standing}"
            self._looked = True
        self._was_well = well

    def at_end(self, step: int) -> Iterator[str]:
        """What is to be said of a run that came to its end after ``step``."""
        if self._n_zero:
            yield f"the gradient was zero at {self._n_zero:,} steps; nothing was learned from them"
        if self._n_not_finite:
            yield f"no finite loss or gradient since step {step - self._n_not_finite:,}"
        if self.has_failed(step):
            yield (
                f"no evaluation was below {self._guess}, so this model has learned nothing of use; "
                f"{self._remedy(self._last)}"
            )
        elif not self.ever_below:
            yield (
                f"no evaluation was below {self._guess}; {step:,} steps are too few to judge, so "
                "train for longer"
            )
        elif not self._was_well:
            yield f"the last validation loss, {self._standing}"

    def has_failed(self, step: int) -> bool:
        """Whether a run that ended after ``step`` never got below guessing, and had the time to."""
        return not self.ever_below and (step >= ENOUGH_STEPS or self._blew_up)

    @property
    def ever_below(self) -> bool:
        """Whether an evaluation was below guessing, or there is none to be below."""
        return self._lowest < self._guessing or self._guessing == math.inf

    @property
    def _blew_up(self) -> bool:
        """Whether the last evaluation is far above where the run began."""
        return not math.isfinite(self._last) or self._last > BLOWN_UP * self._initial

    @property
    def _guess(self) -> str:
        return f"guessing by the frequencies of the tokens ({self._guessing:.4f})"

    @property
    def _standing(self) -> str:
        """The last evaluation, where it is not below guessing or not finite."""
        kept = "the best checkpoint is kept" if self._lowest < self._guessing else ""
        if not math.isfinite(self._last):
            return f"{self._last}, is not finite; {kept or self._remedy(self._last)}"
        return f"{self._last:.4f}, is not below {self._guess}; {kept or self._remedy(self._last)}"

    def _remedy(self, loss: float) -> str:
        if loss < self._initial:
            return "it may take more steps or another optimizer.learning_rate"
        return "the loss has not fallen; a lower optimizer.learning_rate may help"
