"""Causal multi-head self-attention: for each head, y = dropout(softmax(q k^T / sqrt D + mask)) v.

Shapes: qkv (B*T, 3C), its columns q, k, v each as H heads of D; y (B*T, C);
probs (B, H, T, T) saved, before dropout; scratch (2, T, T). Rows are taken BLOCK at a time and only
the columns up to the block's last row: what lies to the right is neither computed nor read.
Backward, with P' = dropout(P), for each head:
    dv = P'^T dy,   dP = dropout(dy v^T),   dS = P (dP - sum_s dP P),
    dq = dS k / sqrt D,   dk = dS^T q / sqrt D.     dqkv is overwritten.
A team cuts the jobs, one for each sequence and head: job = sequence * H + head.
Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
"""

from __future__ import annotations

from bptool.ops.dropout import dropout_row, mask_scratch
from bptool.ops.jit import kernel
from bptool.ops.matmul import matmul
from bptool.ops.token_logprob import row_max
from bptool.ops.vector_math import exp

BLOCK = 64


@kernel
def softmax_row(row, n, scale):  # type: ignore[no-untyped-def]
    """row[:n] = softmax(scale row[:n]); what is left of the row is set to 0."""
    real = row.dtype.type
    largest = row_max(row[:n])
    total = real(0.0)
    for s in range(n):
        e = exp(scale * (row[s] - largest))
        row[s] = e
        total += e
    inverse = real(1.0) / total
    for s in range(n):
        row[s] *= inverse
    for s in range(n, row.size):
        row[s] = real(0.0)


@kernel
def attention_forward(  # type: ignore[no-untyped-def]
    engine, y, probs, scratch, qkv, p, key, site, first_job, stop_job
):
    n_head, n_time = probs.shape[1], probs.shape[2]
    width = y.shape[1]
    head = width // n_head
    scale = qkv.dtype.type(1.0 / head**0.5)
    mask = mask_scratch(qkv)
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        rows = qkv[i * n_time : (i + 1) * n_time]
        q = rows[:, h * head : (h + 1) * head]
        k = rows[:, width + h * head : width + (h + 1) * head]
        v = rows[:, 2 * width + h * head : 2 * width + (h + 1) * head]
        out = y[i * n_time : (i + 1) * n_time, h * head : (h + 1) * head]
        first_row = ((key.sequence0 + i) * n_head + h) * n_time
        head_probs = probs[i, h]
        for start in range(0, n_time, BLOCK):
            stop = min(start + BLOCK, n_time)
            weights = probs[i, h, start:stop, :stop]
            matmul(engine, weights, q[start:stop], False, k[:stop], True, False)
            for t in range(start, stop):
                softmax_row(head_probs[t, :stop], t + 1, scale)
            if p > 0.0:
                for t in range(start, stop):
                    row = scratch[0, t, :stop]
                    row[:] = head_probs[t, :stop]
                    dropout_row(row, t + 1, p, key, site, first_row + t, mask)
                weights = scratch[0, start:stop, :stop]
            matmul(engine, out[start:stop], weights, False, v[:stop], False, False)


@kernel
def attention_backward(  # type: ignore[no-untyped-def]
    engine, dqkv, dy, probs, scratch, qkv, p, key, site, first_job, stop_job
):
    n_head, n_time = probs.shape[1], probs.shape[2]
    width = dy.shape[1]
    head = width // n_head
    scale = qkv.dtype.type(1.0 / head**0.5)
    zero = qkv.dtype.type(0.0)
    mask = mask_scratch(qkv)
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        rows = qkv[i * n_time : (i + 1) * n_time]
        d_rows = dqkv[i * n_time : (i + 1) * n_time]
        q = rows[:, h * head : (h + 1) * head]
        k = rows[:, width + h * head : width + (h + 1) * head]
        v = rows[:, 2 * width + h * head : 2 * width + (h + 1) * head]
        dq = d_rows[:, h * head : (h + 1) * head]
        dk = d_rows[:, width + h * head : width + (h + 1) * head]
        dv = d_rows[:, 2 * width + h * head : 2 * width + (h + 1) * head]
        dk[:] = zero
        dv[:] = zero
        d_out = dy[i * n_time : (i + 1) * n_time, h * head : (h + 1) * head]
        first_row = ((key.sequence0 + i) * n_head + h) * n_time
        head_probs = probs[i, h]
        for start in range(0, n_time, BLOCK):
            stop = min(start + BLOCK, n_time)
            weights = probs[i, h, start:stop, :stop]
            d_weights = scratch[1, start:stop, :stop]

            # y = P' v
            dropped = weights
            if p > 0.0:
                for t in range(start, stop):
                    row = scratch[0, t, :stop]
                    row[:] = head_probs[t, :stop]
                    dropout_row(row, t + 1, p, key, site, first_row + t, mask)
                dropped = scratch[0, start:stop, :stop]
            matmul(engine, dv[:stop], dropped, True, d_out[start:stop], False, True)
            matmul(engine, d_weights, d_out[start:stop], False, v[:stop], True, False)

            # P' = dropout(P), P = softmax(S / sqrt D); the factor 1 / sqrt D goes into dS
            for t in range(start, stop):
                d_row, row = scratch[1, t, :stop], head_probs[t]
                if p > 0.0:
                    dropout_row(d_row, t + 1, p, key, site, first_row + t, mask)
                dot = zero
                for s in range(t + 1):
                    dot += d_row[s] * row[s]
                for s in range(t + 1):
                    d_row[s] = scale * row[s] * (d_row[s] - dot)
                d_row[t + 1 :] = zero

            # S = q k^T
            matmul(engine, dq[start:stop], d_weights, False, k[:stop], False, False)
            matmul(engine, dk[:stop], d_weights, True, q[start:stop], False, True)
