"""Documents that share a row: where the one of each position begins.

``starts`` (B, T) is int32: ``starts[b, t]`` is the place in row b of the first token of the
document that position t belongs to, so it never falls along a row. Attention sees no column before
it, and learned positions count from it: a packed document gives what it would give alone. An array
without elements, ``ONE_DOCUMENT``, stands for rows of one document each, as in pretraining.
Source: Krell et al. 2021, arXiv:2107.02027, section 3.2.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel

ONE_DOCUMENT = np.zeros((0, 0), np.int32)


@kernel
def document_start(starts, b, t):  # type: ignore[no-untyped-def]
    """Where in row ``b`` the document of position ``t`` begins."""
    return np.int64(starts[b, t]) if starts.size > 0 else np.int64(0)
