"""Decoding with GPT-2: the forward over new positions only, with a cache of keys and values.

New rows, a few of each sequence, go through a layer as one matrix product, cut over a team by
columns; attention is cut by sequences and heads. Between two barriers a member writes only its own
share, and norms are computed by every member for itself, which costs less than a barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptool.models.base import Array, allocate
from bptool.models.decoder import Decoder, Workers, check_append, check_capacity, check_parents
from bptool.ops.activations import ACTIVATIONS, activation_forward
from bptool.ops.attention_decode import PAGE, QUERIES, attention_decode
from bptool.ops.jit import composition
from bptool.ops.layernorm import layernorm_forward
from bptool.ops.linear_decode import COLUMNS, linear_decode
from bptool.ops.memory import aligned_zeros
from bptool.ops.team import ALONE, barrier, share

if TYPE_CHECKING:
    from bptool.models.gpt2 import GPT2
    from bptool.models.gpt2_tensors import Params

BLOCK_ROWS = 96
"""Rows that go through the layers at once; longer prompts are taken in blocks."""
TEAM_WEIGHTS = 1_000_000
"""With fewer weights, times rows, waking the workers costs more than it gains."""


class Scratch(NamedTuple):
    """Buffers for BLOCK_ROWS rows, shared by the team; P is F rounded up to COLUMNS."""

    x: Array  # (BLOCK_ROWS, C) the residual stream
    qkv: Array  # (BLOCK_ROWS, 3C)
    att: Array  # (BLOCK_ROWS, C)
    fc: Array  # (BLOCK_ROWS, P / COLUMNS, COLUMNS) before the activation
    act: Array  # (BLOCK_ROWS, P / COLUMNS, COLUMNS) after it
    slope: Array  # (BLOCK_ROWS, P / COLUMNS, COLUMNS) not wanted


class Own(NamedTuple):
    """Buffers of one member."""

    norm: Array  # (BLOCK_ROWS, C)
    mean: Array  # (BLOCK_ROWS,)
    rstd: Array  # (BLOCK_ROWS,)
    scores: Array  # (QUERIES, context rounded up to PAGE)


class Rows(NamedTuple):
    """The new rows of one block."""

    tokens: Array  # (N,) int32
    positions: Array  # (N,) int32
    runs: Array  # (n_runs, 4) see ops/attention_decode.py
    ends: Array  # (n_ends,) rows whose logits are wanted


class Hyper(NamedTuple):
    """Numbers that compiled code needs."""

    n_head: int
    activation: int
    tied: bool


@composition
def gpt2_decode(team, hyper, params, scratch, own, pages, table, rows, logits):  # type: ignore[no-untyped-def]
    """Put a block of new rows through the model; logits (n_ends, V) of the wanted ones."""
    n = rows.tokens.size
    x, qkv, att, norm = scratch.x[:n], scratch.qkv, scratch.att, own.norm
    n_chunks = scratch.fc.shape[1]
    fc = scratch.fc.reshape(scratch.fc.shape[0], n_chunks * COLUMNS)
    act = scratch.act.reshape(fc.shape)
    no_bias = params.wte[0, :0]

    first, stop = share(x.shape[1], COLUMNS, team)
    for i in range(n):
        e, p, row = params.wte[rows.tokens[i]], params.wpe[rows.positions[i]], x[i]
        for j in range(first, stop):
            row[j] = e[j] + p[j]
    barrier(team)
    for layer in range(params.ln_1_w.shape[0]):
        ln_1_w, ln_1_b = params.ln_1_w[layer], params.ln_1_b[layer]
        layernorm_forward(norm, own.mean, own.rstd, x, ln_1_w, ln_1_b)
        linear_decode(team, qkv, norm, n, params.attn_w[layer], params.attn_b[layer], False)
        barrier(team)
        first, stop = share(rows.runs.shape[0] * hyper.n_head, 1, team)
        attention_decode(att, pages, layer, table, rows.runs, qkv, own.scores, first, stop)
        barrier(team)
        attn_proj_w, attn_proj_b = params.attn_proj_w[layer], params.attn_proj_b[layer]
        linear_decode(team, x, att, n, attn_proj_w, attn_proj_b, True)
        barrier(team)
        ln_2_w, ln_2_b = params.ln_2_w[layer], params.ln_2_b[layer]
        layernorm_forward(norm, own.mean, own.rstd, x, ln_2_w, ln_2_b)
        first, stop = linear_decode(
            team, fc, norm, n, params.fc_w[layer], params.fc_b[layer], False
        )
        first, stop = first // COLUMNS, (stop + COLUMNS - 1) // COLUMNS
        for i in range(n):  # whole chunks, so that bits do not depend on the cut
            inputs, outputs = scratch.fc[i, first:stop], scratch.act[i, first:stop]
            activation_forward(hyper.activation, outputs, scratch.slope[i, first:stop], inputs)
        barrier(team)
        fc_proj_w, fc_proj_b = params.fc_proj_w[layer], params.fc_proj_b[layer]
        linear_decode(team, x, act, n, fc_proj_w, fc_proj_b, True)
        barrier(team)
    n_ends = rows.ends.size
    if n_ends > 0:
        ends = qkv.reshape(3 * qkv.shape[0], x.shape[1])[:n_ends]
        first, stop = share(n_ends, 1, team)
        for i in range(first, stop):
            ends[i] = x[rows.ends[i]]
        barrier(team)
        layernorm_forward(norm, own.mean, own.rstd, ends, params.ln_f_w, params.ln_f_b)
        head = params.wte if hyper.tied else params.head_w
        linear_decode(team, logits, norm, n_ends, head, no_bias, False)


class GPT2Decoder(Decoder):
    """Incremental decoding with a cache of keys and values in pages.

    Args:
        model: the model. params: its parameters. capacity: sequences at most. workers: a team.
    """

    def __init__(self, model: GPT2, params: Params, capacity: int, workers: Workers) -> None:
        self._model, self._params, self._workers = model, params, workers
        config, dtype = model.config, params.wte.dtype
        self._capacity = capacity
        kind = ACTIVATIONS[config.activation]
        self._hyper = Hyper(config.n_head, kind, config.tie_embeddings)
        self._pages = aligned_zeros(page_shape(model, capacity), dtype)
        self._lengths: list[int] = []
        self._page_lists: list[list[int]] = []
        self._free = list(range(len(self._pages)))[::-1]
        self._n_uses = [0] * len(self._pages)
        shared, own = scratch_shapes(model)
        self._scratch = Scratch(*allocate(shared, dtype))
        self._own = [Own(*allocate(own, dtype)) for _ in range(workers.n)]
        self._logits = aligned_zeros((capacity, model.n_vocab), dtype)
        self._table = np.zeros((capacity, pages_of(config.context)), np.int32)

    @property
    def n_sequences(self) -> int:
        return len(self._lengths)

    @property
    def n_pages(self) -> int:
        """Pages in use."""
        return len(self._pages) - len(self._free)

    def room(self, sequence: int) -> int:
        return int(self._model.config.context) - self._lengths[sequence]

    def add(self, n: int) -> None:
        check_capacity(self.n_sequences + n, self._capacity)
        self._lengths += [0] * n
        self._page_lists += [[] for _ in range(n)]

    def select(self, parents: Sequence[int]) -> None:
        check_parents(self, parents, self._capacity)
        lengths = [self._lengths[parent] for parent in parents]
        page_lists = [list(self._page_lists[parent]) for parent in parents]
        for pages in page_lists:  # before any is released
            for page in pages:
                self._n_uses[page] += 1
        for sequence in range(self.n_sequences):
            self.restart(sequence)
        self._lengths, self._page_lists = lengths, page_lists

    def restart(self, sequence: int) -> None:
        for page in self._page_lists[sequence]:
            self._release(page)
        self._page_lists[sequence] = []
        self._lengths[sequence] = 0

    def append(self, tokens: Sequence[Array]) -> Array:
        check_append(self, tokens)
        ids, positions, runs, ends = [], [], [], []
        row = 0
        for sequence, new in enumerate(tokens):
            start, n_new = self._lengths[sequence], len(new)
            self._make_room(sequence, n_new)
            ids.append(np.asarray(new, np.int32))
            positions.append(np.arange(start, start + n_new, dtype=np.int32))
            runs.append((row, n_new, sequence, start))
            row += n_new
            ends.append(row - 1)
            self._lengths[sequence] += n_new
        all_ids, all_positions = np.concatenate(ids), np.concatenate(positions)
        n_done = 0
        for first in range(0, row, BLOCK_ROWS):
            stop = min(first + BLOCK_ROWS, row)
            cut = np.array(
                [
                    (
                        max(r, first) - first,
                        min(r + n, stop) - max(r, first),
                        s,
                        p + max(first - r, 0),
                    )
                    for r, n, s, p in runs
                    if r < stop and r + n > first
                ]
            )
            wanted = np.array([end - first for end in ends if first <= end < stop], np.int64)
            block = Rows(all_ids[first:stop], all_positions[first:stop], cut, wanted)
            self._run(block, self._logits[n_done : n_done + len(wanted)])
            n_done += len(wanted)
        return self._logits[: self.n_sequences]

    def _release(self, page: int) -> None:
        self._n_uses[page] -= 1
        if self._n_uses[page] == 0:
            self._free.append(page)

    def _take(self) -> int:
        page = self._free.pop()
        self._n_uses[page] = 1
        return page

    def _make_room(self, sequence: int, n_new: int) -> None:
        """Pages for ``n_new`` more positions; one that is partly filled and shared is copied."""
        pages, length = self._page_lists[sequence], self._lengths[sequence]
        if length % PAGE and self._n_uses[pages[-1]] > 1:
            copy = self._take()
            self._pages[copy] = self._pages[pages[-1]]
            self._release(pages[-1])
            pages[-1] = copy
        while len(pages) * PAGE < length + n_new:
            pages.append(self._take())
        self._table[sequence, : len(pages)] = pages

    def _run(self, block: Rows, logits: Array) -> None:
        """One block through the layers, by the whole team where that is worth waking it."""

        def work(worker: int) -> None:
            gpt2_decode(
                *(team[worker], self._hyper, self._params, self._scratch, self._own[worker]),
                *(self._pages, self._table, block, logits),
            )

        work_size = len(block.tokens) * self._model.n_parameters
        if self._workers.n > 1 and work_size >= TEAM_WEIGHTS:
            team = self._workers.members
            self._workers.run(work)
        else:
            team = [ALONE]
            work(0)


def pages_of(n_positions: int) -> int:
    """Pages that hold so many positions."""
    return -(-n_positions // PAGE)


def page_shape(model: GPT2, capacity: int) -> tuple[int, ...]:
    """Of the pages of ``capacity`` full sequences; memory is taken as they are written."""
    config = model.config
    n_pages = capacity * pages_of(config.context)
    head = config.n_embd // config.n_head
    return (n_pages, config.n_layer, 2, config.n_head, PAGE, head)


def scratch_shapes(
    model: GPT2,
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Of :class:`Scratch` and of :class:`Own`."""
    n, c = BLOCK_ROWS, model.config.n_embd
    chunks = (n, -(-4 * c // COLUMNS), COLUMNS)
    shared: dict[str, tuple[int, ...]] = {
        **{"x": (n, c), "qkv": (n, 3 * c), "att": (n, c)},
        **{"fc": chunks, "act": chunks, "slope": chunks},
    }
    scores = (QUERIES, pages_of(model.config.context) * PAGE)
    return shared, {"norm": (n, c), "mean": (n,), "rstd": (n,), "scores": scores}
