"""The last part of every language model's step: head, next-token loss, and their backward.

A tile of rows at a time (``ops/head.py``). Cross-entropy knows dlogp of a tile as soon as its logp,
so its backward follows at once, while the logits are there. An objective that needs every logp
first has a forward and a backward of its own, which makes the logits of each tile anew unless there
is only one. ``acts`` has the fields logits (R, V),
logp, dlogp, log_sum, added (N,); x (N, C) is what goes into the head, and targets (N,).
"""

from __future__ import annotations

from bptool.objectives.next_token import (
    next_token_backward,
    next_token_forward,
    next_token_penalty,
)
from bptool.ops.head import head_backward, head_forward, head_terms, own_rows
from bptool.ops.jit import composition
from bptool.ops.logit_terms import NO_TERMS, has_terms


@composition
def head_loss_of_tile(engine, acts, x, w, b, targets, inverse_n_targets, terms, start, team):  # type: ignore[no-untyped-def]
    """This member's part of a tile's loss, and of what the terms add."""
    logp, log_sum, logits, penalty = acts.logp, acts.log_sum, acts.logits, 0.0
    head_forward(engine, logp, log_sum, logits, x, w, b, targets, start, team)
    first, stop = own_rows(logits, start, targets, team)
    if has_terms(terms):
        head_terms(acts.added, log_sum, logits, targets, terms, start, team)
        penalty = next_token_penalty(acts.added[first:stop], inverse_n_targets)
    return next_token_forward(logp[first:stop], targets[first:stop], inverse_n_targets), penalty


@composition
def head_loss_and_gradient(  # type: ignore[no-untyped-def]
    engine, acts, dx, dw, db, x, w, b, targets, inverse_n_targets, terms, adds, backward, team
):
    """This member's parts of loss and terms. dx is overwritten, dw too unless ``adds``, db adds.

    Without ``backward`` nothing is, and the last tile's logits stay as they are.
    """
    loss, penalty = 0.0, 0.0
    for start in range(0, targets.size, acts.logits.shape[0]):
        found = head_loss_of_tile(
            engine, acts, x, w, b, targets, inverse_n_targets, terms, start, team
        )
        loss, penalty = loss + found[0], penalty + found[1]
        if not backward:
            continue
        first, stop = own_rows(acts.logits, start, targets, team)
        next_token_backward(acts.dlogp[first:stop], targets[first:stop], inverse_n_targets)
        head_backward(
            *(engine, dx, dw, db, acts.dlogp, acts.log_sum, acts.logits),
            *(x, w, targets, terms, start, adds, team),
        )
    return loss, penalty


@composition
def head_logprobs(engine, acts, x, w, b, targets, team):  # type: ignore[no-untyped-def]
    """Fill acts.logp; the last tile's logits stay as they are."""
    for start in range(0, targets.size, acts.logits.shape[0]):
        head_forward(engine, acts.logp, acts.log_sum, acts.logits, x, w, b, targets, start, team)


@composition
def head_logprobs_backward(engine, acts, dx, dw, db, x, w, b, targets, dlogp, adds, team):  # type: ignore[no-untyped-def]
    """From dlogp (N,), after ``head_logprobs``; dx, dw, db as in ``head_loss_and_gradient``."""
    for start in range(0, targets.size, acts.logits.shape[0]):
        if targets.size > acts.logits.shape[0]:
            head_forward(
                engine, acts.logp, acts.log_sum, acts.logits, x, w, b, targets, start, team
            )
        head_backward(
            *(engine, dx, dw, db, dlogp, acts.log_sum, acts.logits),
            *(x, w, targets, NO_TERMS, start, adds, team),
        )
