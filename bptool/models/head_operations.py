"""The kernels of ``head_loss.py`` one by one, for the list of a model's operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bptool.models.operation import ITEM_BYTES, TERMS, Operation, Shard, elementwise
from bptool.objectives.next_token import (
    next_token_backward,
    next_token_forward,
    next_token_penalty,
)
from bptool.ops.head import tile_rows
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import (
    LogitTerms,
    has_terms,
    logit_terms_backward,
    logit_terms_forward,
)
from bptool.ops.token_logprob import token_logprob_backward, token_logprob_forward


class HeadArrays(NamedTuple):
    """What a model's head works on in one shard."""

    x: Any  # (N, C)
    w: Any  # (V, C)
    b: Any  # (V,) or empty
    dx: Any
    dw: Any
    db: Any


def head_operations(
    shape: tuple[int, int, int], terms: LogitTerms, arrays: Callable[[Shard], HeadArrays]
) -> list[Operation]:
    """Head and loss, forward and backward; ``shape`` is (N, C, V)."""
    n, c, v = shape
    n_tiles = -(-n // tile_rows(n, v))
    flops = 2.0 * n * c * v

    def head(s: Shard, i: int) -> None:
        a = arrays(s)
        for rows, logits in _tiles(s):
            linear_forward(s.work.training.engine, logits, a.x[rows], a.w, a.b, s.team)

    def backward(s: Shard, i: int) -> None:
        a = arrays(s)
        for rows, logits in _tiles(s):
            linear_backward(
                *(s.work.training.engine, a.dx[rows], a.dw, a.db, logits, a.x[rows], a.w),
                *(rows.start > 0, s.team),
            )

    in_loss = [elementwise(TERMS, 1, n * v, _terms(terms))] if has_terms(terms) else []
    with_terms = "with terms" if in_loss else ""
    return [
        Operation("head", 1, flops, ITEM_BYTES * (n * c + n_tiles * c * v + n * v), head),
        elementwise("cross-entropy", 1, n * v, _loss),
        *in_loss,
        elementwise("cross-entropy, backward", 1, 2 * n * v, _loss_backward(terms), with_terms),
        Operation(
            "head, backward",
            *(1, 2 * flops, ITEM_BYTES * (2 * n * v + 2 * n * c + (3 * n_tiles - 1) * c * v)),
            backward,
        ),
    ]


def _tiles(s: Shard) -> Iterator[tuple[slice, Any]]:
    """Rows of each tile of the head, and the logits that it has; they share one buffer."""
    logits, n_rows = s.work.acts.logits, s.targets.size
    for start in range(0, n_rows, len(logits)):
        stop = min(start + len(logits), n_rows)
        yield slice(start, stop), logits[: stop - start]


def _loss(s: Shard, i: int) -> None:
    a = s.work.acts
    for rows, logits in _tiles(s):
        own, flat = s.part(len(logits)), s.targets.reshape(-1)[rows]
        logp = a.logp[rows][own]
        token_logprob_forward(logp, a.log_sum[rows][own], logits[own], flat[own])
        next_token_forward(logp, flat[own], 1.0 / s.targets.size)


def _terms(terms: LogitTerms) -> Any:
    def run(s: Shard, i: int) -> None:
        a = s.work.acts
        for rows, logits in _tiles(s):
            own, flat = s.part(len(logits)), s.targets.reshape(-1)[rows]
            added, log_sum = a.added[rows][own], a.log_sum[rows][own]
            logit_terms_forward(added, log_sum, logits[own], flat[own], terms)
            next_token_penalty(added, 1.0 / s.targets.size)

    return run


def _loss_backward(terms: LogitTerms) -> Any:
    on = has_terms(terms)

    def run(s: Shard, i: int) -> None:
        a = s.work.acts
        for rows, logits in _tiles(s):
            own, flat = s.part(len(logits)), s.targets.reshape(-1)[rows]
            dlogp, log_sum = a.dlogp[rows][own], a.log_sum[rows][own]
            next_token_backward(dlogp, flat[own], 1.0 / s.targets.size)
            if on:
                logit_terms_backward(logits[own], dlogp, log_sum, flat[own], terms)
            else:
                token_logprob_backward(logits[own], dlogp, log_sum, flat[own])

    return run
