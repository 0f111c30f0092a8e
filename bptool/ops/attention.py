"""Causal multi-head self-attention: for each head, y = dropout(softmax(q k^T / sqrt D + mask)) v.

Shapes: qkv (B*T, 3C), its columns q, k, v each as H heads of D; y (B*T, C); row_stats
(B, H, T, 2) saved, each row's largest score and one over its sum of exponentials;
scratch (2, BLOCK, T), one for each member of a team.
Rows are taken BLOCK at a time and only the columns up to the block's last row: what lies to the
right is neither computed nor read, and of the block's own square as little as the tiles of the
product allow. The weights, T by T, are never whole: the backward makes those of a block anew.
Backward, with P = softmax(S / sqrt D) and P' = dropout(P), for each head:
    S = q k^T,   P = exp((S - largest) / sqrt D) inverse,
    dv = P'^T dy,   dP = dropout(dy v^T),   dS = P (dP - sum_s dP P),
    dq = dS k / sqrt D,   dk = dS^T q / sqrt D.     dqkv is overwritten.
A team cuts the jobs, one for each sequence and head: job = sequence * H + head.
Decoding keeps k and v of earlier positions in a cache: see ``attention_decode.py``.
Sources: Vaswani et al. 2017, arXiv:1706.03762, equation 1; weights made anew in the backward from
a row's statistics: Dao et al. 2022, arXiv:2205.14135, section 3.1.
"""

from __future__ import annotations

from bptool.ops.dropout import dropout_row, mask_scratch
from bptool.ops.jit import kernel, kernel_without_nan
from bptool.ops.matmul import matmul_triangle
from bptool.ops.matmul.blocked import LOWER_A, LOWER_OUT, UPPER_A
from bptool.ops.vector_math import exp

BLOCK = 64
WHOLE = 32
"""Loops over a row's first n elements run to a multiple of this, with what is past n masked: the
loop for the last few elements is not one of vectors, and took longer than the rest."""


@kernel
def whole(n, width):  # type: ignore[no-untyped-def]
    """``n`` rounded up to a multiple of WHOLE, or the whole width."""
    return min((n + WHOLE - 1) // WHOLE * WHOLE, width)


@kernel_without_nan
def causal_max(row, n):  # type: ignore[no-untyped-def]
    """Largest of the first ``n`` elements; a NaN comes through in the sum that follows."""
    largest = row[0]
    for s in range(whole(n, row.size)):
        value = row[s] if s < n else row[0]
        largest = value if value > largest else largest
    return largest


@kernel
def softmax_row(row, n, scale):  # type: ignore[no-untyped-def]
    """row[:n] = softmax(scale row[:n]), and 0 after; returns what :func:`softmax_again` takes."""
    real = row.dtype.type
    zero = real(0.0)
    stop = whole(n, row.size)
    largest = causal_max(row, n)
    total = zero
    for s in range(stop):
        e = exp(scale * (row[s] - largest))
        e = e if s < n else zero
        row[s] = e
        total += e
    inverse = real(1.0) / total
    for s in range(stop):
        row[s] *= inverse
    row[stop:] = zero
    return largest, inverse


@kernel
def softmax_again(row, n, scale, largest, inverse):  # type: ignore[no-untyped-def]
    """The same, where the largest element and one over the sum of exponentials are known."""
    zero = row.dtype.type(0.0)
    stop = whole(n, row.size)
    for s in range(stop):
        e = exp(scale * (row[s] - largest)) * inverse
        row[s] = e if s < n else zero
    row[stop:] = zero


@kernel
def softmax_backward_row(d_row, row, n, scale):  # type: ignore[no-untyped-def]
    """From the gradient of the weights ``row`` to that of the scores, in place:
    d_row = scale row (d_row - sum of row d_row), and 0 after n, where anything may have been."""
    zero = row.dtype.type(0.0)
    stop = whole(n, row.size)
    dot = zero
    for s in range(stop):
        d = d_row[s] if s < n else zero
        dot += d * row[s]
    for s in range(stop):
        d = scale * row[s] * (d_row[s] - dot)
        d_row[s] = d if s < n else zero
    d_row[stop:] = zero


@kernel
def _dropped(scratch, start, stop, p, key, site, first_row, mask):  # type: ignore[no-untyped-def]
    """P' of a block, in scratch[1], from P in scratch[0]; P itself where p = 0."""
    if p <= 0.0:
        return scratch[0, : stop - start, :stop]
    for t in range(start, stop):
        row = scratch[1, t - start, :stop]
        row[:] = scratch[0, t - start, :stop]
        dropout_row(row, t + 1, p, key, site, first_row + t, mask)
    return scratch[1, : stop - start, :stop]


@kernel
def attention_forward(  # type: ignore[no-untyped-def]
    engine, y, row_stats, scratch, qkv, p, key, site, first_job, stop_job
):
    n_head, n_time = row_stats.shape[1], row_stats.shape[2]
    width = y.shape[1]
    head = width // n_head
    scale = qkv.dtype.type(1.0 / head**0.5)
    mask = mask_scratch(qkv)
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        qkv_rows = qkv[i * n_time : (i + 1) * n_time]
        q = qkv_rows[:, h * head : (h + 1) * head]
        k = qkv_rows[:, width + h * head : width + (h + 1) * head]
        v = qkv_rows[:, 2 * width + h * head : 2 * width + (h + 1) * head]
        out = y[i * n_time : (i + 1) * n_time, h * head : (h + 1) * head]
        first_row = ((key.sequence0 + i) * n_head + h) * n_time
        for start in range(0, n_time, BLOCK):
            stop = min(start + BLOCK, n_time)
            scores = scratch[0, : stop - start, :stop]
            matmul_triangle(
                engine, scores, q[start:stop], False, k[:stop], True, False, LOWER_OUT, start
            )
            for t in range(start, stop):
                largest, inverse = softmax_row(scratch[0, t - start, :stop], t + 1, scale)
                row_stats[i, h, t, 0], row_stats[i, h, t, 1] = largest, inverse
            dropped = _dropped(scratch, start, stop, p, key, site, first_row, mask)
            matmul_triangle(
                engine, out[start:stop], dropped, False, v[:stop], False, False, LOWER_A, start
            )


@kernel
def attention_backward(  # type: ignore[no-untyped-def]
    engine, dqkv, dy, row_stats, scratch, qkv, p, key, site, first_job, stop_job
):
    n_head, n_time = row_stats.shape[1], row_stats.shape[2]
    width = dy.shape[1]
    head = width // n_head
    scale = qkv.dtype.type(1.0 / head**0.5)
    mask = mask_scratch(qkv)
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        qkv_rows = qkv[i * n_time : (i + 1) * n_time]
        dqkv_rows = dqkv[i * n_time : (i + 1) * n_time]
        q = qkv_rows[:, h * head : (h + 1) * head]
        k = qkv_rows[:, width + h * head : width + (h + 1) * head]
        v = qkv_rows[:, 2 * width + h * head : 2 * width + (h + 1) * head]
        dq = dqkv_rows[:, h * head : (h + 1) * head]
        dk = dqkv_rows[:, width + h * head : width + (h + 1) * head]
        dv = dqkv_rows[:, 2 * width + h * head : 2 * width + (h + 1) * head]
        d_out = dy[i * n_time : (i + 1) * n_time, h * head : (h + 1) * head]
        first_row = ((key.sequence0 + i) * n_head + h) * n_time
        # the last block first: it has every row of dk and dv, and the others add to it
        for start in range((n_time - 1) // BLOCK * BLOCK, -1, -BLOCK):
            stop = min(start + BLOCK, n_time)
            adds = stop < n_time
            scores = scratch[0, : stop - start, :stop]
            matmul_triangle(
                engine, scores, q[start:stop], False, k[:stop], True, False, LOWER_OUT, start
            )
            for t in range(start, stop):
                largest, inverse = row_stats[i, h, t, 0], row_stats[i, h, t, 1]
                softmax_again(scratch[0, t - start, :stop], t + 1, scale, largest, inverse)

            # y = P' v; P' is read before dP takes its place
            dropped = _dropped(scratch, start, stop, p, key, site, first_row, mask)
            matmul_triangle(
                engine, dv[:stop], dropped, True, d_out[start:stop], False, adds, UPPER_A, start
            )
            d_weights = scratch[1, : stop - start, :stop]
            matmul_triangle(
                engine, d_weights, d_out[start:stop], False, v[:stop], True, False, LOWER_OUT, start
            )
            for t in range(start, stop):
                d_row = scratch[1, t - start, :stop]
                if p > 0.0:
                    dropout_row(d_row, t + 1, p, key, site, first_row + t, mask)
                softmax_backward_row(d_row, scratch[0, t - start, :stop], t + 1, scale)

            # S = q k^T; the factor 1 / sqrt D is in dS
            matmul_triangle(
                engine, dq[start:stop], d_weights, False, k[:stop], False, False, LOWER_A, start
            )
            matmul_triangle(
                engine, dk[:stop], d_weights, True, q[start:stop], False, adds, UPPER_A, start
            )
