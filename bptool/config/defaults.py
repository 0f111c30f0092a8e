"""The configuration for a text that comes with none, chosen by its size.

Three forces decide. A small text is soon known by heart, so its model is narrow and stops after a
number of passes, and dropout grows with that number: a run that ends before it overfits is only
slowed by it. Time: training should take about three minutes on a laptop, so the number of steps
follows from the model's work per token. And a larger text earns a tokenizer of its own, which puts
three or four characters into each token, so that a context reaches further and the same work
covers more of the text. ``docs/experiments.md`` has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SUSTAINED_FLOPS = 1.0e11
"""Model FLOPs per second of two laptop cores in training, about half of their peak."""
HEAD_WIDTH = 32
BATCH = 8  # sequences: many small updates teach more in the time than few large ones
NARROW = 128  # widths up to here learnt faster from wider initial weights than GPT-2's 0.02
NARROW_INIT_STD = 0.05
VALIDATION_FRACTION = 0.1
LARGE = 5e6  # characters
LARGE_VALIDATION_FRACTION = 0.02  # of a large text, 10 % is more than an estimate needs
EVAL_TOKENS = 50_000  # an evaluation stays within seconds
MIN_STEPS = 300  # fewer, and the schedule has no time to warm up and cool down
MAX_STEPS = 10_000
MIN_WARMUP = 50  # steps; with 15 the gradient's norm jumped tenfold in the first steps
MIN_CONTEXT = 8
CHARACTERS_PER_TOKEN = 3.3  # of a small BPE vocabulary on English prose


@dataclass(frozen=True)
class _Tier:
    """What suits texts shorter than ``below`` characters."""

    below: float
    bpe: bool
    n_layer: int
    n_embd: int
    context: int
    learning_rate: float  # narrower models take larger steps
    max_passes: float  # over the training part
    seconds: float


# Passes: stories of 2, 6 and 60 thousand characters reached their best validation loss after about
# 200, 230 and more than 40 passes; beyond that a model only learns its text by heart.
TIERS = (
    _Tier(2e4, False, 2, 64, 64, 3e-3, 240, 60),
    _Tier(2e5, False, 3, 96, 64, 2e-3, 80, 150),
    # From here a token of several characters pays: the same context reaches over paragraphs.
    _Tier(6e5, True, 4, 128, 128, 2e-3, 45, 180),
    _Tier(5e6, True, 4, 128, 128, 2e-3, 15, 180),
    _Tier(3e7, True, 4, 192, 128, 1.5e-3, 4, 300),
    _Tier(math.inf, True, 6, 192, 256, 1e-3, 2, 600),
)
DROPOUT = ((40, 0.3), (20, 0.2), (6, 0.1))
"""What is dropped in runs of at least this many passes over the training part; else nothing is."""
MOST_DROPOUT_OF_CHARACTERS = 0.2
"""By characters a text is not known by heart as soon: 80 passes at 0.2 did not overfit."""


def flops_per_token(n_layer: int, n_embd: int, context: int, vocab_size: int) -> float:
    """Model FLOPs of one token in training: 6 a weight, and 12 L T C for attention."""
    weights = 12 * n_layer * n_embd**2 + vocab_size * n_embd
    return 6.0 * weights + 12.0 * n_layer * context * n_embd


def for_text(n_characters: int, n_distinct: int = 96, n_steps: int | None = None) -> dict[str, Any]:
    """A whole configuration but for ``data.text``, as plain values in the shape of a file.

    Args:
        n_characters: length of all texts together.
        n_distinct: how many different characters they have, the vocabulary of a small text.
        n_steps: length of the run, where it is known already.
    """
    tier = next(tier for tier in TIERS if n_characters < tier.below)
    vocab_size = _vocab_size(n_characters) if tier.bpe else max(2, n_distinct)
    large = n_characters >= LARGE
    fraction = LARGE_VALIDATION_FRACTION if large else VALIDATION_FRACTION
    n_tokens = n_characters * (1 - fraction) / (CHARACTERS_PER_TOKEN if tier.bpe else 1)
    # Each part must hold more than one context; the validation part is the shorter one.
    context = min(tier.context, _power_of_two(n_characters * fraction / 2))
    work = flops_per_token(tier.n_layer, tier.n_embd, context, vocab_size)
    tokens_in_time = tier.seconds * SUSTAINED_FLOPS / work
    tokens = min(tokens_in_time, tier.max_passes * n_tokens)
    steps = min(MAX_STEPS, max(MIN_STEPS, _round(tokens / (BATCH * context))))
    steps = n_steps or steps
    passes = steps * BATCH * context / n_tokens
    dropout = next((share for least, share in DROPOUT if passes >= least), 0.0)
    if not tier.bpe:
        dropout = min(dropout, MOST_DROPOUT_OF_CHARACTERS)
    tokenizer: dict[str, Any] = {"name": "bpe", "vocab_size": vocab_size}
    return {
        "model": {
            "name": "gpt2",
            "n_layer": tier.n_layer,
            "n_head": tier.n_embd // HEAD_WIDTH,
            "n_embd": tier.n_embd,
            "context": context,
            "bias": False,  # costs time and gains nothing at this size
            "dropout": dropout,
            **_initial_weights(tier.n_embd),
        },
        "data": {
            "tokenizer": tokenizer if tier.bpe else {"name": "char"},
            "split": {"by": "position", "validation_fraction": fraction},
        },
        "training": {
            "steps": steps,
            "batch_size": BATCH,
            "clip_norm": 1.0,
            "eval_tokens": EVAL_TOKENS,
        },
        "optimizer": {
            "name": "adamw",
            "learning_rate": tier.learning_rate,
            "beta2": 0.99,  # short runs: a second moment that forgets sooner
            "weight_decay": 0.1,
        },
        "schedule": {
            "name": "cosine",
            "warmup_steps": min(max(MIN_WARMUP, steps // 20), steps // 4),
            "final_fraction": 0.1,
        },
    }


def _initial_weights(n_embd: int) -> dict[str, Any]:
    """What narrow models learn faster from (``docs/experiments.md``)."""
    if n_embd > NARROW:
        return {}
    return {"init_std": NARROW_INIT_STD, "position_init": "sinusoidal"}


def _power_of_two(limit: float) -> int:
    """The largest power of two up to ``limit``, at least ``MIN_CONTEXT``."""
    return max(MIN_CONTEXT, 1 << (max(1, int(limit)).bit_length() - 1))


def _vocab_size(n_characters: int) -> int:
    """About the root of the text's length, so that each token is seen often enough to learn."""
    return min(4096, max(1024, 1 << round(math.log2(n_characters) / 2)))


def _round(steps: float) -> int:
    """To a multiple of 50, for a number that reads well."""
    return 50 * round(steps / 50)
