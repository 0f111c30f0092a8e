"""The matrix products of a training step alone, over arrays of the step's shapes and strides.

Every product of forward and backward is there, with its transposes and triangles, layer by layer,
so that weights and activations pass through the caches as they do in a step. Gradients of weights
are stored, as the first micro-batch of a step stores them. They are cut over the workers
as the step is: by sequences, each worker with gradients of its own, or inside each product. No
member waits for another, and nothing stands between the products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import Workload
from bptool.ops.attention import BLOCK
from bptool.ops.head import tile_rows
from bptool.ops.jit import kernel
from bptool.ops.matmul import MatmulEngine, matmul_triangle
from bptool.ops.matmul.blocked import LOWER_A, LOWER_OUT, UPPER_A
from bptool.ops.matmul.share import matmul_share
from bptool.ops.memory import aligned_zeros
from bptool.ops.team import ALONE, share
from bptool.training.machine import Engine
from bptool.training.split import Split
from bptool.training.workers import WorkerTeam


class Weights(NamedTuple):
    """The matrices of a model, or their gradients."""

    qkv: Any  # (L, 3C, C)
    proj: Any  # (L, C, C)
    up: Any  # (L, 4C, C)
    down: Any  # (L, C, 4C)
    head: Any  # (V, C)


class Rows(NamedTuple):
    """Activations of all layers, and gradients of one at a time.

    What a layer begins from, ``norm`` and ``dbranch``, is never written: numbers neither grow nor
    shrink from layer to layer, so that no engine meets a denormal.
    """

    norm: Any  # (2L+1, N, C)
    qkv: Any  # (L, N, 3C)
    att: Any  # (L, N, C)
    up: Any  # (L, N, 4C)
    branch: Any  # (N, C)
    logits: Any  # (R, V)
    dbranch: Any  # (N, C)
    dnorm: Any  # (N, C)
    dqkv: Any  # (N, 3C)
    dup: Any  # (N, 4C)
    scratch: Any  # (2, BLOCK, T), a member's own


@kernel
def forward_products(engine, rows, weights, n_head, n_time, team):  # type: ignore[no-untyped-def]
    """Those of all layers but the head."""
    n_layer, n, c = rows.att.shape
    d = c // n_head
    first, stop = share(n // n_time * n_head, 1, team)
    for layer in range(n_layer):
        matmul_share(
            engine,
            rows.qkv[layer],
            rows.norm[2 * layer],
            False,
            weights.qkv[layer],
            True,
            False,
            team,
        )
        for job in range(first, stop):
            i, h = job // n_head * n_time, job % n_head * d
            for t in range(0, n_time, BLOCK):
                end = min(t + BLOCK, n_time)
                q = rows.qkv[layer, i + t : i + end, h : h + d]
                k = rows.qkv[layer, i : i + end, c + h : c + h + d]
                v = rows.qkv[layer, i : i + end, 2 * c + h : 2 * c + h + d]
                scores = rows.scratch[0, : end - t, :end]
                matmul_triangle(engine, scores, q, False, k, True, False, LOWER_OUT, t)
                y = rows.att[layer, i + t : i + end, h : h + d]
                matmul_triangle(engine, y, scores, False, v, False, False, LOWER_A, t)
        att, up, norm = rows.att[layer], rows.up[layer], rows.norm[2 * layer + 1]
        matmul_share(engine, rows.branch, att, False, weights.proj[layer], True, False, team)
        matmul_share(engine, up, norm, False, weights.up[layer], True, False, team)
        matmul_share(engine, rows.branch, up, False, weights.down[layer], True, False, team)


@kernel
def head_products(engine, rows, weights, grads, team):  # type: ignore[no-untyped-def]
    """Those of the head, forward and backward, tile by tile."""
    n = rows.norm.shape[1]
    for start in range(0, n, rows.logits.shape[0]):
        stop = min(start + rows.logits.shape[0], n)
        x, logits = rows.norm[-1, start:stop], rows.logits[: stop - start]
        matmul_share(engine, logits, x, False, weights.head, True, False, team)
        matmul_share(
            engine, rows.dnorm[start:stop], logits, False, weights.head, False, False, team
        )
        matmul_share(engine, grads.head, logits, True, x, False, start > 0, team)


@kernel
def backward_of(engine, dx, dw, dy, x, w, team):  # type: ignore[no-untyped-def]
    """dx = dy W, dW = dy^T x."""
    matmul_share(engine, dx, dy, False, w, False, False, team)
    matmul_share(engine, dw, dy, True, x, False, False, team)


@kernel
def backward_products(engine, rows, weights, grads, n_head, n_time, team):  # type: ignore[no-untyped-def]
    """Those of all layers, the last one first."""
    n_layer, n, c = rows.att.shape
    d = c // n_head
    first, stop = share(n // n_time * n_head, 1, team)
    dy, dx = rows.dbranch, rows.dnorm
    for layer in range(n_layer - 1, -1, -1):
        up, norm, att = rows.up[layer], rows.norm[2 * layer + 1], rows.att[layer]
        backward_of(engine, rows.dup, grads.down[layer], dy, up, weights.down[layer], team)
        backward_of(engine, dx, grads.up[layer], rows.dup, norm, weights.up[layer], team)
        backward_of(engine, dx, grads.proj[layer], dy, att, weights.proj[layer], team)
        for job in range(first, stop):
            i, h = job // n_head * n_time, job % n_head * d
            for t in range((n_time - 1) // BLOCK * BLOCK, -1, -BLOCK):
                end = min(t + BLOCK, n_time)
                adds = end < n_time
                q = rows.qkv[layer, i + t : i + end, h : h + d]
                k = rows.qkv[layer, i : i + end, c + h : c + h + d]
                v = rows.qkv[layer, i : i + end, 2 * c + h : 2 * c + h + d]
                dq = rows.dqkv[i + t : i + end, h : h + d]
                dk = rows.dqkv[i : i + end, c + h : c + h + d]
                dv = rows.dqkv[i : i + end, 2 * c + h : 2 * c + h + d]
                dout = dx[i + t : i + end, h : h + d]
                scores, dscores = rows.scratch[0, : end - t, :end], rows.scratch[1, : end - t, :end]
                matmul_triangle(engine, scores, q, False, k, True, False, LOWER_OUT, t)
                matmul_triangle(engine, dv, scores, True, dout, False, adds, UPPER_A, t)
                matmul_triangle(engine, dscores, dout, False, v, True, False, LOWER_OUT, t)
                matmul_triangle(engine, dq, dscores, False, k, False, False, LOWER_A, t)
                matmul_triangle(engine, dk, dscores, True, q, False, adds, UPPER_A, t)
        norm = rows.norm[2 * layer]
        backward_of(engine, dx, grads.qkv[layer], rows.dqkv, norm, weights.qkv[layer], team)


def _weights(workload: Workload) -> Weights:
    n_layer, c = workload.n_layer, workload.n_embd
    shapes = [(n_layer, o, i) for o, i in ((3 * c, c), (c, c), (4 * c, c), (c, 4 * c))]
    return Weights(*(aligned_zeros(s, np.float32) for s in (*shapes, (workload.vocab_size, c))))


def _rows(workload: Workload, n_sequences: int) -> Rows:
    n_layer, c, t = workload.n_layer, workload.n_embd, workload.context
    n, v = n_sequences * t, workload.vocab_size
    shapes = [
        *((2 * n_layer + 1, n, c), (n_layer, n, 3 * c), (n_layer, n, c), (n_layer, n, 4 * c)),
        *((n, c), (tile_rows(n, v), v), (n, c), (n, c), (n, 3 * c), (n, 4 * c), (2, BLOCK, t)),
    ]
    return Rows(*(aligned_zeros(shape, np.float32) for shape in shapes))


class StepProducts:
    """All products of a step, to be run again and again on any engine."""

    def __init__(self, workload: Workload, team: WorkerTeam, split: Split) -> None:
        self._workload, self._team = workload, team
        generator = np.random.default_rng(0)
        self._weights = _weights(workload)
        n_shards = 1 if split == "inside" else team.n
        n_sequences = -(-workload.batch_size // n_shards)
        grads = [_weights(workload) for _ in range(n_shards)]
        rows = [_rows(workload, n_sequences) for _ in range(n_shards)]
        for array in (*self._weights, *(x for own in rows for x in own)):
            generator.standard_normal(out=array.reshape(-1), dtype=np.float32)
        if split == "inside":
            self._members = team.members
            self._rows = [rows[0]._replace(scratch=rows[0].scratch.copy()) for _ in team.members]
            self._grads = grads * team.n
        else:
            self._members, self._rows, self._grads = [ALONE] * team.n, rows, grads

    def run(self, engines: list[MatmulEngine]) -> None:
        """Every product once; ``engines`` has one for each worker."""
        n_head, n_time = self._workload.n_head, self._workload.context

        def work(worker: int) -> None:
            engine, rows, team = engines[worker], self._rows[worker], self._members[worker]
            forward_products(engine, rows, self._weights, n_head, n_time, team)
            head_products(engine, rows, self._weights, self._grads[worker], team)
            backward_products(
                engine, rows, self._weights, self._grads[worker], n_head, n_time, team
            )

        self._team.run(work)


def engines_of(engine: Engine, team: WorkerTeam) -> list[MatmulEngine]:
    """One for each worker."""
    return [engine.make(np.float32) for _ in range(team.n)]
