"""Attention of new positions over a cache of keys and values kept in pages.

A page holds PAGE positions of one sequence: keys and values of every layer and head, each (PAGE, D)
contiguous. A sequence is a list of pages, and sequences that begin alike may share pages, so what a
prompt's samples have in common is stored once (Kwon et al. 2023, arXiv:2309.06180).

Shapes: qkv (N, (H + 2 G) D) of new rows; y (N, H D); pages (n_pages, L, 2, G, PAGE, D), keys then
values;
table (n_sequences, n) page numbers; runs (n_runs, 4), each consecutive rows of one sequence: first
row, number of rows, sequence, position of the first; scores (QUERIES, at least the past rounded up
to PAGE) is a member's own scratch.

A row's bits depend on its own sequence alone: its scores are dot products of ``dot_rows``, and its
values are added in the order of their positions, eight at a time. Equation as in ``attention.py``.
"""

from __future__ import annotations

from bptool.ops.causal_softmax import softmax_row
from bptool.ops.jit import kernel
from bptool.ops.matmul.dot_rows import dot_rows

PAGE = 32
QUERIES = 12
"""Rows of a sequence that go over its keys together, a multiple of the rows of a tile."""


@kernel
def add_weighted(y, weights, values, n):  # type: ignore[no-untyped-def]
    """y += sum over the first n positions of weights[s] values[s]; all contiguous."""
    s = 0
    while s + 8 <= n:
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        w4, w5, w6, w7 = weights[s + 4], weights[s + 5], weights[s + 6], weights[s + 7]
        v0, v1, v2, v3 = values[s], values[s + 1], values[s + 2], values[s + 3]
        v4, v5, v6, v7 = values[s + 4], values[s + 5], values[s + 6], values[s + 7]
        for d in range(y.size):
            first = w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]
            second = w4 * v4[d] + w5 * v5[d] + w6 * v6[d] + w7 * v7[d]
            y[d] += first + second
        s += 8
    while s < n:
        weight, value = weights[s], values[s]
        for d in range(y.size):
            y[d] += weight * value[d]
        s += 1


@kernel
def _store_new(pages, layer, h, table, run, qkv):  # type: ignore[no-untyped-def]
    """Copy a run's keys and values of one head of theirs into its pages."""
    row0, n_rows, sequence, position0 = run[0], run[1], run[2], run[3]
    n_kv, head = pages.shape[3], pages.shape[5]
    of_v = qkv.shape[1] - n_kv * head
    of_k = of_v - n_kv * head
    for t in range(n_rows):
        position = position0 + t
        page = pages[table[sequence, position // PAGE], layer]
        key, value = page[0, h, position % PAGE], page[1, h, position % PAGE]
        row = qkv[row0 + t]
        for d in range(head):
            key[d] = row[of_k + h * head + d]
            value[d] = row[of_v + h * head + d]


@kernel
def attention_decode(y, pages, layer, table, runs, qkv, scores, first, stop):  # type: ignore[no-untyped-def]
    """Attention of the new rows, which first join the cache.

    Of the jobs, (run, head of queries) pairs with heads fastest, those from ``first`` to ``stop``,
    which are cut at multiples of H / G: the first head of a group stores its keys and values.
    """
    n_head, head = y.shape[1] // pages.shape[5], pages.shape[5]
    group = n_head // pages.shape[3]
    scale = qkv.dtype.type(1.0 / head**0.5)
    zero = qkv.dtype.type(0.0)
    for job in range(first, stop):
        run, h = runs[job // n_head], job % n_head
        row0, n_rows, sequence, position0 = run[0], run[1], run[2], run[3]
        if h % group == 0:
            _store_new(pages, layer, h // group, table, run, qkv)
        for start in range(0, n_rows, QUERIES):
            n_queries = min(QUERIES, n_rows - start)
            n_past = position0 + start + n_queries  # of the block's last row
            q = qkv[row0 + start : row0 + start + n_queries, h * head : (h + 1) * head]
            for s in range(0, n_past, PAGE):
                keys = pages[table[sequence, s // PAGE], layer, 0, h // group]
                n_keys = min(PAGE, n_past - s)
                dot_rows(scores[:, s : s + n_keys], q, keys, False, n_queries, 0, n_keys, head)
            for t in range(n_queries):
                out = y[row0 + start + t, h * head : (h + 1) * head]
                n_seen = position0 + start + t + 1
                softmax_row(scores[t, :n_seen], n_seen, scale)
                for d in range(head):
                    out[d] = zero
                for s in range(0, n_seen, PAGE):
                    values = pages[table[sequence, s // PAGE], layer, 1, h // group]
                    weights = scores[t, s : s + PAGE]
                    add_weighted(out, weights, values, min(PAGE, n_seen - s))
