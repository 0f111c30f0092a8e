"""Language-model head: logits = x W^T + b and the log-probability of each target, by tiles of rows.

Shapes: x (N, C), W (V, C), b (V,) or empty for none, targets (N,), -1 where masked; logp, dlogp,
log_sum (N,); logits (R, V) with R from :func:`tile_rows`, so that N x V numbers are never there at
once. A tile is the rows from ``start`` on, at most R. Its backward follows its forward, while its
logits are still there; an objective that needs every logp before it has dlogp calls the forward
again. Backward, with dlogits from ``token_logprob``, or from ``logit_terms`` where there are any:
    dx = dlogits W (overwritten),  dW = dlogits^T x,  db += sum of dlogits over rows.
The first tile overwrites dW unless ``adds``; the others add to it.
A team cuts products by :func:`matmul_share`, and the tile's rows for what stands between; its
members must call at once, since they wait for each other.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import has_terms, logit_terms_backward, logit_terms_forward
from bptool.ops.matmul.target import ROWS
from bptool.ops.team import barrier, share
from bptool.ops.token_logprob import token_logprob_backward, token_logprob_forward

TILE_BYTES = 64 << 20
"""Most that a tile's logits take in float32, but for the rows of one register tile. A tile of fewer
than some 128 rows costs time: W and dW go through memory once for each."""


def tile_rows(n_rows: int, n_vocab: int) -> int:
    """Rows of a tile: all where they fit ``TILE_BYTES``, else as even parts as may be."""
    most = max(ROWS, TILE_BYTES // (4 * n_vocab))
    n_tiles = -(-n_rows // most)
    return min(n_rows, -(-n_rows // (n_tiles * ROWS)) * ROWS)


@kernel
def own_rows(logits, start, targets, team):  # type: ignore[no-untyped-def]
    """(first, stop) of this member's rows of the tile that begins at ``start``."""
    first, stop = share(min(logits.shape[0], targets.size - start), 1, team)
    return start + first, start + stop


@kernel
def head_forward(engine, logp, log_sum, logits, x, w, b, targets, start, team):  # type: ignore[no-untyped-def]
    """Each member fills logp and log_sum for its rows; it waits for x first."""
    n_rows = min(logits.shape[0], targets.size - start)
    barrier(team)  # x: rows; and the logits of the last tile have been read
    linear_forward(engine, logits[:n_rows], x[start : start + n_rows], w, b, team)
    barrier(team)  # logits: columns
    first, stop = own_rows(logits, start, targets, team)
    own, in_tile = slice(first, stop), slice(first - start, stop - start)
    token_logprob_forward(logp[own], log_sum[own], logits[in_tile], targets[own])


@kernel
def head_terms(added, log_sum, logits, targets, terms, start, team):  # type: ignore[no-untyped-def]
    """What label smoothing and z-loss add to a member's rows of a tile whose forward is done."""
    first, stop = own_rows(logits, start, targets, team)
    own, in_tile = slice(first, stop), slice(first - start, stop - start)
    logit_terms_forward(added[own], log_sum[own], logits[in_tile], targets[own], terms)


@kernel
def head_backward(  # type: ignore[no-untyped-def]
    engine, dx, dw, db, dlogp, log_sum, logits, x, w, targets, terms, start, adds, team
):
    """Overwrites the tile's logits with their gradient; dlogp must be there for a member's rows."""
    n_rows = min(logits.shape[0], targets.size - start)
    first, stop = own_rows(logits, start, targets, team)
    own, in_tile = slice(first, stop), slice(first - start, stop - start)
    if has_terms(terms):
        logit_terms_backward(logits[in_tile], dlogp[own], log_sum[own], targets[own], terms)
    else:
        token_logprob_backward(logits[in_tile], dlogp[own], log_sum[own], targets[own])
    barrier(team)  # dlogits: rows
    tile, adds = slice(start, start + n_rows), adds or start > 0
    linear_backward(engine, dx[tile], dw, db, logits[:n_rows], x[tile], w, adds, team)
