"""Decoding with a transformer: the forward over new positions only, over a cache.

New rows, a few of each sequence, go through a layer as one matrix product, cut over a team by
columns; attention is cut by sequences and heads. Between two barriers a member writes only its own
share, and norms are computed by every member for itself, which costs less than a barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptool.models.base import Array, allocate
from bptool.models.decoder import Decoder, Workers, check_append, check_capacity, check_parents
from bptool.models.kv_cache import KVCache, pages_of
from bptool.models.site_kernels import GATED, NormActs, at, norm_forward
from bptool.models.transformer_config import TransformerConfig
from bptool.ops.activations import activation_forward
from bptool.ops.attention_decode import PAGE, QUERIES, attention_decode
from bptool.ops.gate import gate_decode
from bptool.ops.jit import composition
from bptool.ops.linear_decode import COLUMNS, linear_decode
from bptool.ops.matmul import MatmulEngine
from bptool.ops.memory import aligned_zeros
from bptool.ops.qk_norm import qk_norm_decode
from bptool.ops.rotary import rotary_angles, rotary_decode
from bptool.ops.team import ALONE, barrier, share

if TYPE_CHECKING:
    from bptool.models.transformer import Transformer

BLOCK_ROWS = 96
"""Rows that go through the layers at once; longer prompts are taken in blocks."""
TEAM_WEIGHTS = 1_000_000
"""With fewer weights, times rows, waking the workers costs more than it gains."""


class Scratch(NamedTuple):
    """Buffers for BLOCK_ROWS rows, shared by the team; widths in chunks are rounded up."""

    x: Array  # (BLOCK_ROWS, C) the residual stream
    qkv: Array  # (BLOCK_ROWS, (H + 2 G) D)
    att: Array  # (BLOCK_ROWS, H D)
    up: Array  # (BLOCK_ROWS, chunks, COLUMNS) before the activation, (N, F) or (N, 2 F) gated
    hidden: Array  # (BLOCK_ROWS, chunks, COLUMNS) after it, (N, F)
    slope: Array  # (BLOCK_ROWS, chunks, COLUMNS) not wanted
    ends: Array  # (BLOCK_ROWS, C) rows whose logits are wanted
    angles: Array  # (context, 2, D / 2) of rotary positions


class Own(NamedTuple):
    """Buffers of one member."""

    norm: NormActs  # of (BLOCK_ROWS, C)
    raw: Array  # (1, D)
    scores: Array  # (QUERIES, context rounded up to PAGE)


class Rows(NamedTuple):
    """The new rows of one block."""

    tokens: Array  # (N,) int32
    positions: Array  # (N,) int32
    runs: Array  # (n_runs, 4) see ops/attention_decode.py
    ends: Array  # (n_ends,) rows whose logits are wanted


@composition
def transformer_decode(team, hyper, params, scratch, own, pages, table, rows, logits):  # type: ignore[no-untyped-def]
    """Put a block of new rows through the model; logits (n_ends, V) of the wanted ones."""
    n, n_head = rows.tokens.size, hyper.n_head
    all_rows = slice(0, n)
    x, qkv, att, norm = scratch.x[:n], scratch.qkv, scratch.att, own.norm.y
    up = scratch.up.reshape(scratch.up.shape[0], scratch.up.shape[1] * COLUMNS)
    hidden = scratch.hidden.reshape(scratch.hidden.shape[0], scratch.hidden.shape[1] * COLUMNS)
    embed = params.embed
    no_bias = embed.tokens[0, :0]

    first, stop = share(x.shape[1], COLUMNS, team)
    for i in range(n):
        e, row = embed.tokens[rows.tokens[i]], x[i]
        if embed.positions.size > 0:
            p = embed.positions[rows.positions[i]]
            for j in range(first, stop):
                row[j] = e[j] + p[j]
        else:
            for j in range(first, stop):
                row[j] = e[j]
    barrier(team)
    for layer in range(pages.shape[1]):
        w = at(params.blocks, layer)
        norm_forward(hyper, w.norm_1, own.norm, x, all_rows)
        linear_decode(team, qkv, norm, n, w.qkv.w, w.qkv.b, False)
        barrier(team)
        first, stop = share(rows.runs.shape[0] * n_head, hyper.group, team)
        # fmt: off
        qk_norm_decode(qkv, own.raw, w.qk_norm.q, w.qk_norm.k, hyper.epsilon, rows.runs,
                       n_head, first, stop)
        rotary_decode(qkv, scratch.angles, rows.runs, n_head, first, stop)
        attention_decode(att, pages, layer, table, rows.runs, qkv, own.scores, first, stop)
        # fmt: on
        barrier(team)
        linear_decode(team, x, att, n, w.proj.w, w.proj.b, True)
        barrier(team)
        norm_forward(hyper, w.norm_2, own.norm, x, all_rows)
        first, stop = linear_decode(team, up, norm, n, w.up.w, w.up.b, False)
        n_hidden = w.down.w.shape[1]
        if hyper.mlp == GATED:
            barrier(team)  # a column's gate is another member's
            first, stop = share(n_hidden, COLUMNS, team)
        chunk0, chunk1 = first // COLUMNS, (stop + COLUMNS - 1) // COLUMNS
        for i in range(n):  # whole chunks, so that bits do not depend on the cut
            inputs, outputs = scratch.up[i, chunk0:chunk1], scratch.hidden[i, chunk0:chunk1]
            activation_forward(hyper.activation, outputs, scratch.slope[i, chunk0:chunk1], inputs)
        if hyper.mlp == GATED:
            gate_decode(hidden, up, n, n_hidden, first, stop)
        barrier(team)
        linear_decode(team, x, hidden, n, w.down.w, w.down.b, True)
        barrier(team)
    n_ends = rows.ends.size
    if n_ends > 0:
        ends = scratch.ends[:n_ends]
        first, stop = share(n_ends, 1, team)
        for i in range(first, stop):
            ends[i] = x[rows.ends[i]]
        barrier(team)
        norm_forward(hyper, params.norm_f, own.norm, ends, slice(0, n_ends))
        head = embed.tokens if hyper.tied else params.head.w
        linear_decode(team, logits, norm, n_ends, head, no_bias, False)


class TransformerDecoder(Decoder):
    """Incremental decoding over a cache of keys and values.

    Args:
        model: the model. params: its parameters, without adapters. capacity: sequences at most.
        workers: a team.
    """

    def __init__(self, model: Transformer, params: Any, capacity: int, workers: Workers) -> None:
        self._model, self._params, self._workers = model, params, workers
        c, dtype = model.config, params.embed.tokens.dtype
        self._capacity = capacity
        self._hyper = model.hyper(MatmulEngine(0, np.zeros(0, dtype)), training=False)
        self.cache = KVCache(capacity, c.context, (c.n_layer, c.kv_heads, c.head_width), dtype)
        shared, own = scratch_shapes(model)
        self._scratch = Scratch(*allocate(shared, dtype))
        if c.positions == "rotary":
            angles = rotary_angles(c.context, c.head_width, c.rotary_base, dtype)
            self._scratch.angles[:] = angles
        self._own = [_own(allocate(own, dtype)) for _ in range(workers.n)]
        self._logits = aligned_zeros((capacity, model.n_vocab), dtype)

    @property
    def n_sequences(self) -> int:
        return len(self.cache.lengths)

    def room(self, sequence: int) -> int:
        return self.cache.context - self.cache.lengths[sequence]

    def add(self, n: int) -> None:
        check_capacity(self.n_sequences + n, self._capacity)
        self.cache.add(n)

    def select(self, parents: Sequence[int]) -> None:
        check_parents(self, parents, self._capacity)
        self.cache.select(parents)

    def restart(self, sequence: int) -> None:
        self.cache.restart(sequence)

    def append(self, tokens: Sequence[Array]) -> Array:
        check_append(self, tokens)
        ids, positions, runs, ends = [], [], [], []
        row = 0
        for sequence, new in enumerate(tokens):
            n_new = len(new)
            start = self.cache.extend(sequence, n_new)
            ids.append(np.asarray(new, np.int32))
            positions.append(np.arange(start, start + n_new, dtype=np.int32))
            runs.append((row, n_new, sequence, start))
            row += n_new
            ends.append(row - 1)
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

    def _run(self, block: Rows, logits: Array) -> None:
        """One block through the layers, by the whole team where that is worth waking it."""

        def work(worker: int) -> None:
            transformer_decode(
                *(team[worker], self._hyper, self._params, self._scratch, self._own[worker]),
                *(self.cache.pages, self.cache.table, block, logits),
            )

        work_size = len(block.tokens) * self._model.n_parameters
        if self._workers.n > 1 and work_size >= TEAM_WEIGHTS:
            team = self._workers.members
            self._workers.run(work)
        else:
            team = [ALONE]
            work(0)


def _own(arrays: list[Array]) -> Own:
    y, mean, rstd, raw, scores = arrays
    return Own(NormActs(y, mean, rstd), raw, scores)


def page_shape(config: TransformerConfig, capacity: int) -> tuple[int, ...]:
    """Of the pages of ``capacity`` full sequences."""
    shape = (config.n_layer, config.kv_heads, config.head_width)
    return KVCache.shape(capacity, config.context, shape)


def scratch_shapes(
    model: Transformer,
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Of :class:`Scratch` and of :class:`Own`."""
    c, n = model.config, BLOCK_ROWS
    width, d, f = c.n_embd, c.head_width, c.hidden_width

    def chunks(columns: int) -> tuple[int, int, int]:
        return (n, -(-columns // COLUMNS), COLUMNS)

    shared: dict[str, tuple[int, ...]] = {
        "x": (n, width),
        "qkv": (n, (c.n_head + 2 * c.kv_heads) * d),
        "att": (n, c.n_head * d),
        "up": chunks(2 * f if c.mlp == "gated" else f),
        "hidden": chunks(f),
        "slope": chunks(f),
        "ends": (n, width),
        "angles": (c.context, 2, d // 2) if c.positions == "rotary" else (0, 2, 0),
    }
    own: dict[str, tuple[int, ...]] = {
        "norm": (n, width),
        "mean": (n,),
        "rstd": (n,),
        "raw": (1, d),
        "scores": (QUERIES, pages_of(c.context) * PAGE),
    }
    return shared, own
