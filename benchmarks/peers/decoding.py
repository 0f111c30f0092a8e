"""The texts that decoders go through, the same for all, and the check that they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import Workload

PROMPT = 32
"""Tokens of the prompt, which is one for all samples."""
CHECKED = 8
"""Tokens whose logits are compared."""


class Script(NamedTuple):
    """What is given to a decoder."""

    prompt: Any  # (PROMPT,)
    tokens: Any  # (context - PROMPT, samples, 1), one step after the other


def script(sizes: Workload, samples: int) -> Script:
    """Random tokens; each sample has its own."""
    generator = np.random.default_rng(11)
    prompt = generator.integers(0, sizes.vocab_size, PROMPT)
    steps = sizes.context - PROMPT
    return Script(prompt, generator.integers(0, sizes.vocab_size, (steps, samples, 1)))


def steps_of(
    text: Script,
    prompt: Callable[[Any], Any],
    append: Callable[[Any], Any],
    weights: str,
    name: str,
) -> dict[str, Callable[[], float | None]]:
    """What is timed of a decoder: ``prompt``, and ``token``, which begins anew at the end.

    The first logits are written beside ``weights`` under ``name``, for :func:`largest_difference`.
    """
    first = [np.asarray(prompt(text.prompt)).copy()]
    first += [np.asarray(append(tokens)).copy() for tokens in text.tokens[:CHECKED]]
    np.save(Path(weights).with_name(f"{name}.npy"), np.stack(first))
    left: Iterator[Any] = iter(())

    def run_prompt() -> None:
        nonlocal left
        prompt(text.prompt)
        left = iter(text.tokens)

    def run_token() -> None:
        append(next(left))

    run_prompt()
    return {"prompt": run_prompt, "token": run_token}


def largest_difference(weights: str, one: str, other: str) -> float:
    """Between the logits that two decoders wrote."""
    a, b = (np.load(Path(weights).with_name(f"{name}.npy")) for name in (one, other))
    return float(np.abs(a - b).max())
