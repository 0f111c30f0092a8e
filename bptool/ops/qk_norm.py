"""Root-mean-square normalization of each head of queries and keys, before attention.

    y = w * x / sqrt(mean(x^2) + eps)      for each row and head, w shared by the heads

Shapes: qkv (N, (H + 2 G) D), in place, its columns H heads of queries, G of keys and G of values,
which stay as they are; w_q, w_k (D,), without elements for no normalization; raw (N, (H + G) D) and
rstd (N, H + G) saved.
Backward, in place, with xhat = x rstd and g = w dy for each head:
    dx = rstd (g - xhat mean(g xhat)),  dw_q, dw_k += sum dy xhat over rows and heads.
A team cuts the jobs of ``attention.py``: job = sequence * H + head; that of the first query head of
a group has the group's key too. dw_q and dw_k are sums of the members' parts, in their order.
Source: Henry et al. 2020, arXiv:2010.04245, with the norm of ``rmsnorm.py`` as in Qwen3 (Yang et
al. 2025, arXiv:2505.09388, section 2).
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.rmsnorm import rmsnorm_backward_row, rmsnorm_row
from bptool.ops.team import LINE, barrier, share


@kernel
def _norm_head(qkv, raw, rstd, i, h, w, eps):  # type: ignore[no-untyped-def]
    """Head ``h`` of row ``i``, keys counted behind queries."""
    head = w.size
    kept, out = raw[i, h * head : (h + 1) * head], qkv[i, h * head : (h + 1) * head]
    for j in range(head):
        kept[j] = out[j]
    rstd[i, h] = rmsnorm_row(out, kept, w, eps)


@kernel
def qk_norm_forward(  # type: ignore[no-untyped-def]
    qkv, raw, rstd, w_q, w_k, eps, n_head, n_time, first_job, stop_job
):
    if w_q.size == 0:
        return
    group = n_head // (rstd.shape[1] - n_head)
    for job in range(first_job, stop_job):
        row0, h = job // n_head * n_time, job % n_head
        for i in range(row0, row0 + n_time):
            _norm_head(qkv, raw, rstd, i, h, w_q, eps)
            if h % group == 0:
                _norm_head(qkv, raw, rstd, i, n_head + h // group, w_k, eps)


@kernel
def _norm_head_backward(dqkv, dw, raw, rstd, i, h, w):  # type: ignore[no-untyped-def]
    head = w.size
    x, d = raw[i, h * head : (h + 1) * head], dqkv[i, h * head : (h + 1) * head]
    r = rstd[i, h]
    mean = rmsnorm_backward_row(dw, d, x, r, w)
    for j in range(head):
        d[j] = r * (w[j] * d[j] - x[j] * r * mean)


@kernel
def qk_norm_backward(  # type: ignore[no-untyped-def]
    dqkv, dw_q, dw_k, raw, rstd, w_q, w_k, partial, n_head, n_time, first_job, stop_job, team
):
    """``partial`` (n, 2, at least D) holds the sums of every member; between two calls that use the
    same there must be a barrier. Without elements in dw_q or dw_k their sums are not wanted."""
    if w_q.size == 0:
        return
    head, group = w_q.size, n_head // (rstd.shape[1] - n_head)
    partial[team.index] = dqkv.dtype.type(0.0)
    own_q, own_k = partial[team.index, 0, :head], partial[team.index, 1, :head]
    for job in range(first_job, stop_job):
        row0, h = job // n_head * n_time, job % n_head
        for i in range(row0, row0 + n_time):
            _norm_head_backward(dqkv, own_q, raw, rstd, i, h, w_q)
            if h % group == 0:
                _norm_head_backward(dqkv, own_k, raw, rstd, i, n_head + h // group, w_k)
    barrier(team)  # every member's sums
    first, stop = share(head, LINE, team)
    for k in range(team.n):
        for j in range(first, min(stop, dw_q.size)):
            dw_q[j] += partial[k, 0, j]
        for j in range(first, min(stop, dw_k.size)):
            dw_k[j] += partial[k, 1, j]


@kernel
def qk_norm_decode(qkv, raw, w_q, w_k, eps, runs, n_head, first, stop):  # type: ignore[no-untyped-def]
    """New rows; jobs as in ``attention_decode.py``; raw (1, at least D) is a member's own."""
    if w_q.size == 0:
        return
    head = w_q.size
    n_kv = (qkv.shape[1] // head - n_head) // 2
    group = n_head // n_kv
    kept = raw[0, :head]
    for job in range(first, stop):
        run, h = runs[job // n_head], job % n_head
        for i in range(run[0], run[0] + run[1]):
            for key in range(1 if h % group else 2):
                column = (n_head + h // group if key else h) * head
                out = qkv[i, column : column + head]
                for j in range(head):
                    kept[j] = out[j]
                rmsnorm_row(out, kept, w_k if key else w_q, eps)
