"""The arrays of a transformer's sites, as kernels take them, and what a site does with them.

Each kind of site in ``sites.py`` has a NamedTuple of its parameters and one of its activations.
Those of the layers are stacked on the first axis, and :func:`at` gives one layer's. Which variant
of a norm or an MLP runs is a number in ``hyper``; what a variant has not is an array without
elements, so that all have the same types and are compiled once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from bptool.models.base import Array
from bptool.ops.activations import activation_backward, activation_forward
from bptool.ops.gate import gate_backward, gate_forward
from bptool.ops.jit import composition
from bptool.ops.layernorm import layernorm_backward_share, layernorm_forward
from bptool.ops.linear import linear_backward as affine_backward
from bptool.ops.linear import linear_forward as affine_forward
from bptool.ops.low_rank import low_rank_backward, low_rank_forward
from bptool.ops.rmsnorm import rmsnorm_backward_share, rmsnorm_forward

LAYERNORM, RMSNORM = range(2)
NORMS = {"layernorm": LAYERNORM, "rmsnorm": RMSNORM}
PLAIN, GATED = range(2)
MLPS = {"plain": PLAIN, "gated": GATED}


class Embedding(NamedTuple):
    tokens: Array  # (V, C)
    positions: Array  # (context, C)


class Norm(NamedTuple):
    w: Array  # (L, C)
    b: Array  # (L, C)


class NormActs(NamedTuple):
    y: Array  # (L, N, C)
    mean: Array  # (L, N)
    rstd: Array  # (L, N)


class Linear(NamedTuple):
    """y = x W^T + b, and s (x down^T) up^T where there is an adapter."""

    w: Array  # (L, O, I)
    b: Array  # (L, O)
    down: Array  # (L, r, I)
    up: Array  # (L, O, r)


class LinearActs(NamedTuple):
    y: Array  # (L or 1, N, O)
    low: Array  # (L, N, r) inside the adapter


class QKNorm(NamedTuple):
    q: Array  # (L, D)
    k: Array  # (L, D)


class QKNormActs(NamedTuple):
    raw: Array  # (L, N, (H + G) D) queries and keys before
    rstd: Array  # (L, N, H + G)


class AttentionActs(NamedTuple):
    y: Array  # (L, N, H D)
    row_stats: Array  # (L, B, H, T, 2)


class HiddenActs(NamedTuple):
    y: Array  # (L, N, F)
    slope: Array  # (L, N, F) of the activation, where it is not gated


class Head(NamedTuple):
    w: Array  # (V, C), or (0, C) when tied


class Score(NamedTuple):
    w: Array  # (C,)
    b: Array  # (1,)


WEIGHTS: dict[str, Any] = {
    "embedding": Embedding,
    "norm": Norm,
    "linear": Linear,
    "qk_norm": QKNorm,
    "head": Head,
    "score": Score,
}
ACTIVATIONS_KEPT: dict[str, Any] = {
    "norm": NormActs,
    "linear": LinearActs,
    "qk_norm": QKNormActs,
    "attention": AttentionActs,
    "hidden": HiddenActs,
}


def at(tree: Any, layer: int) -> Any:
    """One layer of NamedTuples of stacked arrays; all layers share an array of one."""
    if isinstance(tree, tuple):
        return type(tree)(*(at(part, layer) for part in tree))
    return tree[layer % len(tree)]


@overload(at, inline="never")
def _at(tree, layer):  # type: ignore[no-untyped-def]
    if isinstance(tree, types.Array):
        return lambda tree, layer: tree[layer % tree.shape[0]]
    scope = {"at": at, "cls": tree.instance_class}
    parts = ", ".join(f"at(tree.{field}, layer)" for field in tree.instance_class._fields)
    exec(f"def layer_of(tree, layer): return cls({parts})", scope)
    return scope["layer_of"]


@composition
def norm_forward(hyper, w, s, x, own):  # type: ignore[no-untyped-def]
    """The rows ``own``."""
    if hyper.norm == RMSNORM:
        rmsnorm_forward(s.y[own], s.rstd[own], x[own], w.w, hyper.epsilon)
    else:
        layernorm_forward(s.y[own], s.mean[own], s.rstd[own], x[own], w.w, w.b)


@composition
def norm_backward(hyper, w, dw, s, dx, dy, x, partial, team):  # type: ignore[no-untyped-def]
    """Adds to dx, which is there whole after the call."""
    if hyper.norm == RMSNORM:
        rmsnorm_backward_share(dx, dw.w, dy, x, s.rstd, w.w, partial, team)
    else:
        layernorm_backward_share(dx, dw.w, dw.b, dy, x, s.mean, s.rstd, w.w, partial, team)


@composition
def linear_forward(w, s, x, hyper, team):  # type: ignore[no-untyped-def]
    affine_forward(hyper.engine, s.y, x, w.w, w.b, team)
    low_rank_forward(hyper.engine, s.y, s.low, x, w.down, w.up, hyper.low_rank, team)


@composition
def linear_backward(w, dw, s, dx, dy, x, hyper, dlow, adds, team):  # type: ignore[no-untyped-def]
    """dx is overwritten, gradients of parameters are added where ``adds``."""
    affine_backward(hyper.engine, dx, dw.w, dw.b, dy, x, w.w, adds, team)
    # fmt: off
    low_rank_backward(hyper.engine, dx, dw.down, dw.up, dlow, dy, x, s.low, w.down, w.up,
                      hyper.low_rank, adds, team)
    # fmt: on


@composition
def hidden_forward(hyper, s, x, unwanted, own):  # type: ignore[no-untyped-def]
    """The rows ``own`` of f(x), or of f(a) b for x = [a, b]; unwanted (N, F) is scratch."""
    if hyper.mlp == GATED:
        gate_forward(hyper.activation, s.y[own], unwanted[own], x[own])
    else:
        activation_forward(hyper.activation, s.y[own], s.slope[own], x[own])


@composition
def hidden_backward(hyper, s, dx, dy, x, own):  # type: ignore[no-untyped-def]
    """The rows ``own`` of dx, which is overwritten."""
    if hyper.mlp == GATED:
        gate_backward(hyper.activation, dx[own], dy[own], x[own])
    else:
        activation_backward(dx[own], dy[own], s.slope[own])
