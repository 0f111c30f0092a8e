"""Causal multi-head self-attention: for each head, y = dropout(softmax(q k^T / sqrt D + mask)) v.

Shapes: qkv (B*T, (H + 2 G) D), its columns H heads of q, then G of k and G of v, each of D; G
divides H, and head h of q goes with head h // (H / G) of k and v; y (B*T, H D); row_stats
(B, H, T, 2) saved, each row's largest score and one over its sum of exponentials;
scratch (2, BLOCK, T), one for each member of a team; starts (B, T) or (0, 0), see ``documents.py``.
Rows are taken BLOCK at a time and only the columns up to the block's last row: what lies to the
right is neither computed nor read, and of the block's own square as little as the tiles of the
product allow. The weights, T by T, are never whole: the backward makes those of a block anew.
A position sees its own document only, and what lies to the left of the block's first document is
left out too.
Backward, with P = softmax(S / sqrt D) and P' = dropout(P), for each head:
    S = q k^T,   P = exp((S - largest) / sqrt D) inverse,
    dv = P'^T dy,   dP = dropout(dy v^T),   dS = P (dP - sum_s dP P),
    dq = dS k / sqrt D,   dk = dS^T q / sqrt D.     dqkv is overwritten.
A team cuts the jobs, one for each sequence and head of q, at multiples of H / G, since the heads
of a group add to the same dk and dv: job = sequence * H + head.
Decoding keeps k and v of earlier positions in a cache: see ``attention_decode.py``.
Sources: Vaswani et al. 2017, arXiv:1706.03762, equation 1; weights made anew in the backward from
a row's statistics: Dao et al. 2022, arXiv:2205.14135, section 3.1; groups: Ainslie et al. 2023,
arXiv:2305.13245, section 2.2.
"""

from __future__ import annotations

from bptool.ops.causal_softmax import softmax_again, softmax_backward_row, softmax_row
from bptool.ops.documents import document_start
from bptool.ops.dropout import dropout_row, mask_scratch
from bptool.ops.jit import kernel
from bptool.ops.matmul import matmul_triangle
from bptool.ops.matmul.blocked import LOWER_A, LOWER_OUT, UPPER_A

BLOCK = 64


@kernel
def _dropped(scratch, start, stop, left, p, key, site, first_row, mask):  # type: ignore[no-untyped-def]
    """P' of a block, in scratch[1], from P in scratch[0]; P itself where p = 0."""
    width = stop - left
    if p <= 0.0:
        return scratch[0, : stop - start, :width]
    for t in range(start, stop):
        row = scratch[1, t - start, :width]
        row[:] = scratch[0, t - start, :width]
        dropout_row(row, t + 1 - left, p, key, site, first_row + t, mask)
    return scratch[1, : stop - start, :width]


@kernel
def attention_forward(  # type: ignore[no-untyped-def]
    engine, y, row_stats, scratch, qkv, starts, p, key, site, first_job, stop_job
):
    n_head, n_time = row_stats.shape[1], row_stats.shape[2]
    width = y.shape[1]
    head = width // n_head
    kv_width = (qkv.shape[1] - width) // 2
    group = width // kv_width
    scale = qkv.dtype.type(1.0 / head**0.5)
    mask = mask_scratch(qkv)
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        of_k = width + h // group * head
        qkv_rows = qkv[i * n_time : (i + 1) * n_time]
        q = qkv_rows[:, h * head : (h + 1) * head]
        k = qkv_rows[:, of_k : of_k + head]
        v = qkv_rows[:, of_k + kv_width : of_k + kv_width + head]
        out = y[i * n_time : (i + 1) * n_time, h * head : (h + 1) * head]
        first_row = ((key.sequence0 + i) * n_head + h) * n_time
        for start in range(0, n_time, BLOCK):
            stop = min(start + BLOCK, n_time)
            left = document_start(starts, i, start)  # of the columns that the block sees
            below = start - left
            scores = scratch[0, : stop - start, : stop - left]
            matmul_triangle(
                engine, scores, q[start:stop], False, k[left:stop], True, False, LOWER_OUT, below
            )
            for t in range(start, stop):
                unseen = document_start(starts, i, t) - left
                scratch[0, t - start, :unseen] = qkv.dtype.type(0.0)
                row = scratch[0, t - start, unseen : stop - left]
                largest, inverse = softmax_row(row, t + 1 - left - unseen, scale)
                row_stats[i, h, t, 0], row_stats[i, h, t, 1] = largest, inverse
            dropped = _dropped(scratch, start, stop, left, p, key, site, first_row, mask)
            matmul_triangle(
                engine, out[start:stop], dropped, False, v[left:stop], False, False, LOWER_A, below
            )


@kernel
def attention_backward(  # type: ignore[no-untyped-def]
    engine, dqkv, dy, row_stats, scratch, qkv, starts, p, key, site, first_job, stop_job
):
    n_head, n_time = row_stats.shape[1], row_stats.shape[2]
    width = dy.shape[1]
    head = width // n_head
    kv_width = (qkv.shape[1] - width) // 2
    group = width // kv_width
    scale = qkv.dtype.type(1.0 / head**0.5)
    mask = mask_scratch(qkv)
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        of_k = width + h // group * head
        qkv_rows = qkv[i * n_time : (i + 1) * n_time]
        dqkv_rows = dqkv[i * n_time : (i + 1) * n_time]
        q = qkv_rows[:, h * head : (h + 1) * head]
        k = qkv_rows[:, of_k : of_k + head]
        v = qkv_rows[:, of_k + kv_width : of_k + kv_width + head]
        dq = dqkv_rows[:, h * head : (h + 1) * head]
        dk = dqkv_rows[:, of_k : of_k + head]
        dv = dqkv_rows[:, of_k + kv_width : of_k + kv_width + head]
        d_out = dy[i * n_time : (i + 1) * n_time, h * head : (h + 1) * head]
        first_row = ((key.sequence0 + i) * n_head + h) * n_time
        of_group = h % group > 0  # dk and dv have the part of another head of the group
        if document_start(starts, i, n_time - 1) > 0 and not of_group:
            dk[:, :] = dqkv.dtype.type(0.0)
            dv[:, :] = dqkv.dtype.type(0.0)
        # the last block first: of one document it has every row of dk and dv; the others add to it
        for start in range((n_time - 1) // BLOCK * BLOCK, -1, -BLOCK):
            stop = min(start + BLOCK, n_time)
            adds = stop < n_time or of_group
            left = document_start(starts, i, start)
            below, seen = start - left, stop - left
            scores = scratch[0, : stop - start, :seen]
            matmul_triangle(
                engine, scores, q[start:stop], False, k[left:stop], True, False, LOWER_OUT, below
            )
            for t in range(start, stop):
                unseen = document_start(starts, i, t) - left
                largest, inverse = row_stats[i, h, t, 0], row_stats[i, h, t, 1]
                scratch[0, t - start, :unseen] = qkv.dtype.type(0.0)
                row = scratch[0, t - start, unseen:seen]
                softmax_again(row, t + 1 - left - unseen, scale, largest, inverse)

            # y = P' v; P' is read before dP takes its place
            dropped = _dropped(scratch, start, stop, left, p, key, site, first_row, mask)
            matmul_triangle(
                engine, dv[left:stop], dropped, True, d_out[start:stop], False, adds, UPPER_A, below
            )
            d_weights = scratch[1, : stop - start, :seen]
            matmul_triangle(
                *(engine, d_weights, d_out[start:stop], False, v[left:stop], True, False),
                *(LOWER_OUT, below),
            )
            for t in range(start, stop):
                unseen = document_start(starts, i, t) - left
                d_row = scratch[1, t - start, :seen]
                if p > 0.0:
                    dropout_row(d_row, t + 1 - left, p, key, site, first_row + t, mask)
                d_row[:unseen] = qkv.dtype.type(0.0)
                row, n = scratch[0, t - start, unseen:seen], t + 1 - left - unseen
                softmax_backward_row(scratch[1, t - start, unseen:seen], row, n, scale)

            # S = q k^T; the factor 1 / sqrt D is in dS
            matmul_triangle(
                engine, dq[start:stop], d_weights, False, k[left:stop], False, False, LOWER_A, below
            )
            matmul_triangle(
                engine, dk[left:stop], d_weights, True, q[start:stop], False, adds, UPPER_A, below
            )
