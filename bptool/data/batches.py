"""Mini-batches as a pure function of (seed, step).

Nothing is stored between steps, so a run that resumes at step n draws exactly what it would have
drawn. A window is ``context`` tokens and, as targets, the tokens one place later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bptool.errors import ConfigError, DataError

MASKED = -1
"""Target of a place that does not count."""
_STREAM_OFFSETS = 0xDA7A_0001
_STREAM_ORDER = 0xDA7A_0002
_ROUNDS = 8

Tokens = NDArray[Any]
Int32 = NDArray[np.int32]
UInt64 = NDArray[np.uint64]


def raw_words(seed: int, stream: int, counter: int, n: int) -> UInt64:
    """``n`` random 64-bit words of Philox4x64-10 (Salmon et al. 2011), keyed by seed and stream.

    Raw words, because numpy keeps those the same from version to version.
    """
    key = np.array([seed, stream], np.uint64)
    start = np.array([0, counter, 0, 0], np.uint64)
    return np.random.Philox(key=key, counter=start).random_raw(n)


def shuffled(index: UInt64, n: int, seed: int, epoch: int) -> UInt64:
    """Where a permutation of ``range(n)``, fixed by seed and epoch, takes each of ``index``.

    A balanced Feistel network over the smallest even number of bits that holds ``n``, walked along
    its cycle until the result is below ``n`` (Black, Rogaway 2002, "Ciphers with Arbitrary Finite
    Domains"): constant memory for any ``n``.
    """
    half_bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low_mask = np.uint64((1 << int(half_bits)) - 1)
    keys = raw_words(seed, _STREAM_ORDER, epoch, _ROUNDS)
    x = index.astype(np.uint64)
    walking = np.arange(x.size)
    while walking.size:
        left, right = x[walking] >> half_bits, x[walking] & low_mask
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & low_mask)
        x[walking] = (left << half_bits) | right
        walking = walking[x[walking] >= n]
    return x


def _mix(x: UInt64) -> UInt64:
    """Finaliser of SplitMix64 (Steele, Lea, Flood 2014): each bit depends on all others."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def count_windows(n_tokens: int, context: int) -> int:
    """Number of disjoint windows that hold each of the ``n_tokens - 1`` targets once."""
    return -((1 - n_tokens) // context)


class Batches:
    """Draws mini-batches of windows from one split.

    Args:
        tokens: the split, 1-D, any integer type; may be mapped from a file.
        batch_size: sequences in a batch, or ``"full"`` for all windows of the split in one.
        context: tokens in a sequence.
        sampling: ``random``: offsets with replacement, uniform over all places (as nanoGPT);
            ``epoch``: disjoint windows, each once an epoch in a fresh order; a batch may end one
            epoch and begin the next. The last window may be short: it is padded with token 0 and
            masked. Ignored for ``"full"``.
        seed: with the step, all that the batches depend on.

    Attributes:
        n_sequences: rows of a batch.
        n_windows: disjoint windows in the split.
        steps_per_epoch: steps (rounded up) in which as many windows are drawn as the split has.

    Raises:
        DataError: fewer than ``context + 1`` tokens.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int | Literal["full"],
        context: int,
        sampling: Literal["random", "epoch"] = "random",
        seed: int = 0,
    ) -> None:
        if context < 1 or (batch_size != "full" and batch_size < 1):
            raise ConfigError(f"batch_size {batch_size} and context {context} must be at least 1")
        if sampling not in ("random", "epoch"):
            raise ConfigError(f"unknown sampling {sampling!r}; known: epoch, random")
        if len(tokens) < context + 1:
            raise DataError(
                f"{len(tokens)} tokens are too few for a context of {context}; "
                f"give more text or a context of at most {max(len(tokens) - 1, 1)}"
            )
        # A plain view: indexing a numpy.memmap costs several times as much.
        self.tokens = np.asarray(tokens)
        self.context = context
        self.seed = seed
        self.sampling: Literal["random", "epoch", "full"] = (
            "full" if batch_size == "full" else sampling
        )
        self.n_windows = count_windows(len(tokens), context)
        self.n_sequences = self.n_windows if batch_size == "full" else batch_size
        self.steps_per_epoch = -(-self.n_windows // self.n_sequences)

    def offsets(self, step: int) -> NDArray[np.int64]:
        """Where in the split each sequence of ``step`` (from 0) begins, shape (n_sequences,)."""
        if self.sampling == "full":
            return np.arange(self.n_windows) * self.context
        if self.sampling == "random":
            n_places = len(self.tokens) - self.context
            words = raw_words(self.seed, _STREAM_OFFSETS, step, self.n_sequences)
            return (words % np.uint64(n_places)).astype(np.int64)
        drawn = step * self.n_sequences + np.arange(self.n_sequences, dtype=np.uint64)
        epochs, places = np.divmod(drawn, np.uint64(self.n_windows))
        windows = np.empty_like(drawn)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            rows = epochs == epoch
            windows[rows] = shuffled(places[rows], self.n_windows, self.seed, epoch)
        return windows.astype(np.int64) * self.context

    def fill(self, step: int, tokens_out: Int32, targets_out: Int32) -> int:
        """Write the batch of ``step`` (from 0) into two arrays of shape (n_sequences, context).

        Returns:
            The number of targets that are not masked (masked ones are -1).
        """
        shape = (self.n_sequences, self.context)
        if tokens_out.shape != shape or targets_out.shape != shape:
            raise ValueError(f"a batch has shape {shape}, not {tokens_out.shape}")
        return gather(self.tokens, self.offsets(step), tokens_out, targets_out)


def gather(
    tokens: Tokens, offsets: NDArray[np.int64], tokens_out: Int32, targets_out: Int32
) -> int:
    """Copy the windows at ``offsets`` (B,) and their targets into two (B, T) arrays.

    What lies behind the end of ``tokens`` becomes token 0 and target -1.

    Returns:
        The number of targets inside ``tokens``.
    """
    context = tokens_out.shape[1]
    n_targets = 0
    for row, offset in enumerate(offsets.tolist()):
        window = tokens[offset : offset + context + 1]
        n = len(window) - 1
        n_targets += n
        tokens_out[row, :n] = window[:n]
        targets_out[row, :n] = window[1:]
        if n < context:
            tokens_out[row, n:] = 0
            targets_out[row, n:] = MASKED
    return n_targets


def evaluation_windows(
    tokens: Tokens, context: int, batch: int
) -> Iterator[tuple[Int32, Int32, int]]:
    """Disjoint windows over a whole split, ``batch`` at a time, each target once.

    Yields:
        tokens and targets, int32 of shape (batch, context), and the number of unmasked targets.
        The arrays are reused from one batch to the next. Rows that are left over in the last batch
        are all masked.
    """
    tokens = np.asarray(tokens)
    tokens_out = np.empty((batch, context), np.int32)
    targets_out = np.empty((batch, context), np.int32)
    n_windows = count_windows(len(tokens), context)
    for start in range(0, n_windows, batch):
        rows = min(batch, n_windows - start)
        offsets = np.arange(start, start + rows) * context
        tokens_out[rows:] = 0
        targets_out[rows:] = MASKED
        yield tokens_out, targets_out, gather(tokens, offsets, tokens_out, targets_out)
