"""Loss over a validation split: the whole of it, or nanoGPT's random-batch estimate.

bits per byte = summed loss in nats / (ln 2 * UTF-8 bytes of the targets), so that models with
different tokenizers can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bptool.data.batches import MASKED, Batches, evaluation_windows
from bptool.data.chat.packing import Packed
from bptool.models.base import Array
from bptool.training.step import Shards

MAX_BLOCKS = 64
"""Parts of a split whose losses are kept apart, to know how exact their mean is."""

COUNTED_TOKENS = 1 << 20
"""Whose bytes are looked up at once."""


class Block(NamedTuple):
    """Consecutive windows of a split: their mean loss and the number of their targets."""

    loss: float
    n_tokens: int


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats per token) over ``n_tokens`` targets, and what follows from it."""

    loss: float
    n_tokens: int
    n_bytes: int
    blocks: tuple[Block, ...] = ()

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """NaN where the targets stand for no byte at all."""
        if self.n_bytes == 0:
            return math.nan
        return self.loss * self.n_tokens / (math.log(2.0) * self.n_bytes)


def evaluate_split(
    shards: Shards,
    params: Any,
    tokens: Array,
    bytes_per_token: Array,
    max_tokens: int | None = None,
) -> Evaluation:
    """Mean loss over disjoint windows of the context that cover the whole split.

    Args:
        shards: runs the model. params: the weights. tokens: the split, 1-D.
        bytes_per_token: UTF-8 bytes of each token id, (V,).
        max_tokens: reads the first so many tokens only.
    """
    part = tokens if max_tokens is None else tokens[: max_tokens + 1]
    total, n_targets = [], 0
    losses, counts = [], []
    for inputs, targets, n in evaluation_windows(part, shards.n_time, shards.rows):
        total.append(shards.loss(params, inputs, targets))
        losses.append(shards.sequence_losses())
        counts.append((targets >= 0).sum(axis=1))
        n_targets += n
    starts = range(1, len(part), COUNTED_TOKENS)  # the first token is no target
    n_bytes = sum(int(bytes_per_token[part[at : at + COUNTED_TOKENS]].sum()) for at in starts)
    blocks = tuple(blocks_of(np.concatenate(losses), np.concatenate(counts)))
    return Evaluation(math.fsum(total) / n_targets, n_targets, n_bytes, blocks)


def evaluate_rows(shards: Shards, params: Any, rows: Packed, bytes_per_token: Array) -> Evaluation:
    """Mean loss over the trained targets of rows of packed records.

    Args:
        shards: runs the model, on rows of several documents. params: the weights.
        bytes_per_token: UTF-8 bytes of each token id, (V,).
    """
    total, losses, counts = [], [], []
    for start in range(0, len(rows), shards.rows):
        part = slice(start, start + shards.rows)
        n = len(rows.tokens[part])
        # whole batches, since sequence_losses has as many rows as the shards do
        padded = [
            np.concatenate([x[part], np.full((shards.rows - n, shards.n_time), fill, np.int32)])
            for x, fill in ((rows.tokens, 0), (rows.targets, MASKED), (rows.starts, 0))
        ]
        total.append(shards.loss(params, *padded))
        losses.append(shards.sequence_losses())
        counts.append((padded[1] >= 0).sum(axis=1))
    targets = rows.targets[rows.targets >= 0]
    n_bytes = int(bytes_per_token[targets].sum())
    blocks = tuple(blocks_of(np.concatenate(losses), np.concatenate(counts)))
    return Evaluation(math.fsum(total) / max(targets.size, 1), targets.size, n_bytes, blocks)


def blocks_of(losses: Array, counts: Array) -> Iterator[Block]:
    """Windows, with their summed losses and their targets, as at most ``MAX_BLOCKS`` parts of
    equally many windows, but for one; windows without targets are left out."""
    n_windows = int(np.count_nonzero(counts))
    n_blocks = min(n_windows, MAX_BLOCKS)
    for i in range(n_blocks):
        part = slice(i * n_windows // n_blocks, (i + 1) * n_windows // n_blocks)
        n = int(counts[part].sum())
        yield Block(float(losses[part].sum()) / n, n)


@dataclass(frozen=True)
class RandomBatchEstimate:
    """Mean of the losses of random batches, and the standard deviation of that mean."""

    loss: float
    standard_deviation: float
    n_batches: int
    batch_size: int


def nanogpt_estimate(
    shards: Shards, params: Any, tokens: Array, n_batches: int, batch_size: int, seed: int
) -> RandomBatchEstimate:
    """nanoGPT's ``estimate_loss``: batches at random offsets, drawn with replacement.

    Published nanoGPT figures are the smallest of several such estimates, so they lie below the
    loss over the whole split; use :func:`evaluate_split` for anything but a comparison with them.
    """
    batches = Batches(tokens, batch_size, shards.n_time, "random", seed)
    inputs = np.empty((batch_size, shards.n_time), np.int32)
    targets = np.empty_like(inputs)
    losses = []
    for i in range(n_batches):
        n_targets = batches.fill(i, inputs, targets)
        losses.append(shards.loss(params, inputs, targets) / n_targets)
    spread = float(np.std(losses, ddof=1)) / math.sqrt(n_batches) if n_batches > 1 else math.nan
    return RandomBatchEstimate(float(np.mean(losses)), spread, n_batches, batch_size)
