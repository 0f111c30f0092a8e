"""Which way a step is cut over the workers; the two are in :class:`bptool.training.step.Shards`.

By sequences, ``batch``, workers meet once a step, so one that is held up by another program holds
up no one for long; but each needs as much memory as a step of its own. ``inside``, they meet at
every operation, need one gradient buffer, and read and write it once. Where both are possible
they are about as fast on small models, and ``inside`` is faster on large ones: docs/experiments.md.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["batch", "inside"]

LARGE_GRADIENT_BYTES = 64 * 2**20
"""Of one gradient buffer: from here on, adding up one for each worker costs more than barriers."""
MIN_BUSY = 0.8
"""Least share of the workers' time that a cut by sequences must use."""


def choose_split(wanted: str, n_workers: int, n_rows: int, gradient_bytes: int) -> Split:
    """The split called ``wanted``; for ``auto`` what suits ``n_rows`` sequences on ``n_workers``.

    Args:
        wanted: ``auto``, ``batch`` or ``inside``.
        n_rows: sequences in memory at once. gradient_bytes: of one gradient buffer.
    """
    if wanted == "batch" or n_workers == 1:
        return "batch"
    if wanted == "inside" or gradient_bytes > LARGE_GRADIENT_BYTES:
        return "inside"
    rows_each = -(-n_rows // n_workers)
    return "batch" if n_rows >= MIN_BUSY * rows_each * n_workers else "inside"
