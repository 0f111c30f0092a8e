"""The kernels of GPT-2's step, one by one, as ``gpt2_forward`` and ``gpt2_backward`` call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bptool.models.base import Array, Reference
from bptool.models.gpt2_config import GPT2Config
from bptool.models.head_operations import HeadArrays, head_operations
from bptool.models.operation import ITEM_BYTES, Operation, Shard, elementwise, linear
from bptool.ops.activations import activation_backward, activation_forward
from bptool.ops.attention import attention_backward, attention_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.layernorm import layernorm_backward_share, layernorm_forward
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import (
    NO_TERMS,
    LogitTerms,
)
from bptool.ops.residual import residual_backward, residual_forward
from bptool.ops.stochastic_depth import stochastic_depth

KEY = MaskKey(0, 1, 0)
SIZES: tuple[tuple[dict[str, int], int, int], ...] = (
    ({"n_layer": 1, "n_head": 1, "n_embd": 16, "context": 8}, 16, 1),
    ({"n_layer": 2, "n_head": 2, "n_embd": 64, "context": 64}, 64, 4),
    ({"n_layer": 2, "n_head": 4, "n_embd": 128, "context": 64}, 96, 6),
    ({"n_layer": 1, "n_head": 4, "n_embd": 256, "context": 256}, 1024, 1),
    ({"n_layer": 1, "n_head": 6, "n_embd": 384, "context": 128}, 256, 2),
    ({"n_layer": 1, "n_head": 1, "n_embd": 64, "context": 128}, 8192, 2),
)
"""Size, vocabulary and sequences of a shard of the small models that are timed for predictions."""
LARGEST_VARIANT = 256
"""Width up to which they are timed with other settings than the first of ``VARIANTS``."""
EVERYWHERE = dict.fromkeys(("embedding", "attention", "residual", "hidden"), 0.1)
VARIANTS: tuple[dict[str, Any], ...] = (
    {"bias": False},
    {"activation": "gelu_tanh", "dropout": EVERYWHERE, "stochastic_depth": 0.1},
    {"activation": "relu"},
)
"""Each has kernels that others do not; the whole steps of the first are timed."""


def gpt2_references(make: Callable[[GPT2Config, int], Any]) -> list[Reference]:
    """The small models that are timed for predictions, each with the sequences of its shard."""
    return [
        Reference(make(GPT2Config(**size, **variant), n_vocab), n, whole=variant == VARIANTS[0])
        for size, n_vocab, n in SIZES
        for variant in VARIANTS[: 1 if size["n_embd"] > LARGEST_VARIANT else None]
    ]


def gpt2_operations(
    model: Any, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
) -> list[Operation]:
    """The step of a shard of ``n_sequences``; equal kernels on different layers are one entry."""
    config, v = model.config, model.n_vocab
    c, n_layer, n_head = config.n_embd, config.n_layer, config.n_head
    n, f = n_sequences * n_time, 4 * c
    square = n_sequences * n_head * n_time**2  # attention weights, which no memory holds
    made = square * (n_time + 1) / (2 * n_time)  # of them, those that no mask hides
    p, depth = config.dropout_sites(), config.depth()
    bias, masked = "bias" if config.bias else "", "dropout" if p.attention > 0 else ""

    def map_of(name: str, w: str, x: str, y: str, dx: str, dy: str, n_in: int, n_out: int) -> Any:
        def forward(s: Shard, i: int) -> None:
            acts, weight, bias = s.work.acts, f"{w}_w", f"{w}_b"
            linear_forward(
                *(s.work.training.engine, _of(acts, y, i), _of(acts, x, i)),
                *(getattr(s.params, weight)[i], getattr(s.params, bias)[i], s.team),
            )

        def backward(s: Shard, i: int) -> None:
            acts, weight, bias = s.work.acts, f"{w}_w", f"{w}_b"
            linear_backward(
                *(s.work.training.engine, _of(acts, dx, i)),
                *(getattr(s.grads, weight)[i], getattr(s.grads, bias)[i]),
                *(_of(acts, dy, i), _of(acts, x, i), getattr(s.params, weight)[i]),
                *(False, s.team),
            )

        return linear(name, n_layer, (n, n_in, n_out), forward, backward, bias)

    qkv = map_of("qkv", "attn", "norm 0", "qkv", "dnorm", "dqkv", c, 3 * c)
    proj = map_of("attention output", "attn_proj", "att", "branch", "dnorm", "branch", c, c)
    up = map_of("MLP up", "fc", "norm 1", "fc", "dnorm", "dfc", c, f)
    down = map_of("MLP down", "fc_proj", "act", "branch", "dact", "branch", f, c)
    attention, skipped = (4.0 * w * (c // n_head) for w in (square, square - made))
    head, *in_loss, head_backward = head_operations((n, c, v), terms, _head)
    at_sites = [
        ("dropout, embedding", 1, c, _dropout("branch", p.embedding), p.embedding),
        ("dropout, residual", 2 * n_layer, c, _dropout("branch", p.residual), p.residual),
        ("dropout, hidden", n_layer, f, _dropout("dact", p.hidden), p.hidden),
        ("stochastic depth", 2 * n_layer, c, _depth(depth.rate, n_time), depth.rate),
    ]
    dropped = [
        elementwise(name, 2 * count, 2 * n * width, run)
        for name, count, width, run, rate in at_sites
        if rate > 0
    ]
    return [
        elementwise("embedding", 1, 3 * n * c, _embedding),
        elementwise("norms", 2 * n_layer + 1, 2 * n * c, _norm, bias),
        qkv[0],
        Operation(
            "attention",
            *(n_layer, attention, ITEM_BYTES * 4 * n * c, _attention, skipped, made, masked),
        ),
        *(proj[0], up[0]),
        elementwise("activation", n_layer, 3 * n * f, _activation, config.activation),
        down[0],
        elementwise("residual additions", 2 * n_layer, 3 * n * c, _add),
        *(head, *in_loss, head_backward),
        elementwise("residual copies", 2 * n_layer, 2 * n * c, _copy),
        down[1],
        elementwise(
            *("activation, backward", n_layer, 3 * n * f, _activation_backward, config.activation)
        ),
        up[1],
        elementwise("norms, backward", 2 * n_layer + 1, 4 * n * c, _norm_backward, bias),
        proj[1],
        Operation(
            "attention, backward",
            *(n_layer, 2 * attention, ITEM_BYTES * 7 * n * c, _attention_backward),
            *(2 * skipped, made, masked),
        ),
        qkv[1],
        elementwise("embedding, backward", 1, 5 * n * c, _embedding_backward),
        *dropped,
    ]


def _of(acts: Any, name: str, layer: int) -> Any:
    """``"norm 1"`` is the second norm of a layer; scratch arrays have no layers."""
    field, _, which = name.partition(" ")
    array = getattr(acts, field)
    if which:
        return array[2 * layer + int(which)]
    return array[layer % len(array)] if array.ndim == 3 else array


def _dropout(field: str, rate: float) -> Any:
    return lambda s, i: dropout(getattr(s.work.acts, field)[s.own], rate, KEY, i, 0)


def _depth(rate: float, n_time: int) -> Any:
    return lambda s, i: stochastic_depth(s.work.acts.branch[s.own], rate, KEY, i, 0, n_time)


def _embedding(s: Shard, i: int) -> None:
    embedding_forward(s.work.acts.x[0], s.tokens, ONE_DOCUMENT, s.params.wte, s.params.wpe, s.team)


def _embedding_backward(s: Shard, i: int) -> None:
    embedding_backward(s.grads.wte, s.grads.wpe, s.work.acts.dx, s.tokens, ONE_DOCUMENT, s.team)


def gpt2_intermediates(acts: Any) -> list[tuple[str, Array]]:
    """What each operation of a forward left in ``acts``, in the order of the forward."""
    found = [("embedding", acts.x[0])]
    for layer in range(len(acts.qkv)):
        i = 2 * layer
        for name, array in (
            ("first norm", acts.norm[i]),
            ("queries, keys and values", acts.qkv[layer]),
            ("attention", acts.att[layer]),
            ("residual stream after attention", acts.x[i + 1]),
            ("second norm", acts.norm[i + 1]),
            ("activation", acts.act[layer]),
            ("residual stream after the MLP", acts.x[i + 2]),
        ):
            found.append((f"{name}, layer {layer}", array))
    return [
        *found,
        ("last norm", acts.norm[-1]),
        ("log-probabilities", acts.logp),
        ("scores", acts.score),
    ]


def _norm_weights(tensors: Any, i: int) -> tuple[Any, Any]:
    """Those of norm ``i`` in the order of the forward."""
    if i == 2 * len(tensors.ln_1_w):
        return tensors.ln_f_w, tensors.ln_f_b
    if i % 2:
        return tensors.ln_2_w[i // 2], tensors.ln_2_b[i // 2]
    return tensors.ln_1_w[i // 2], tensors.ln_1_b[i // 2]


def _norm(s: Shard, i: int) -> None:
    a, own = s.work.acts, s.own
    w, b = _norm_weights(s.params, i)
    layernorm_forward(a.norm[i][own], a.mean[i][own], a.rstd[i][own], a.x[i][own], w, b)


def _norm_backward(s: Shard, i: int) -> None:
    a, (w, _) = s.work.acts, _norm_weights(s.params, i)
    layernorm_backward_share(
        *(a.dx, *_norm_weights(s.grads, i), a.dnorm),
        *(a.x[i], a.mean[i], a.rstd[i], w, a.partial, s.team),
    )


def _attention(s: Shard, i: int) -> None:
    a, hyper = s.work.acts, s.work.training
    jobs = s.part(len(s.tokens) * hyper.n_head)
    attention_forward(
        *(hyper.engine, a.att[i], a.row_stats[i], a.scratch[s.team.index], a.qkv[i]),
        *(ONE_DOCUMENT, hyper.dropout.attention, KEY, i, jobs.start, jobs.stop),
    )


def _attention_backward(s: Shard, i: int) -> None:
    a, hyper = s.work.acts, s.work.training
    jobs = s.part(len(s.tokens) * hyper.n_head)
    attention_backward(
        *(hyper.engine, a.dqkv, a.dnorm, a.row_stats[i], a.scratch[s.team.index], a.qkv[i]),
        *(ONE_DOCUMENT, hyper.dropout.attention, KEY, i, jobs.start, jobs.stop),
    )


def _activation(s: Shard, i: int) -> None:
    a, own = s.work.acts, s.own
    kind, fc = s.work.training.activation, a.fc[i % len(a.fc)]
    activation_forward(kind, a.act[i][own], a.slope[i][own], fc[own])


def _activation_backward(s: Shard, i: int) -> None:
    a, own = s.work.acts, s.own
    activation_backward(a.dfc[own], a.dact[own], a.slope[i][own])


def _add(s: Shard, i: int) -> None:
    x, own = s.work.acts.x, s.own
    residual_forward(x[i + 1][own], x[i][own], s.work.acts.branch[own])


def _copy(s: Shard, i: int) -> None:
    residual_backward(s.work.acts.branch[s.own], s.work.acts.dx[s.own])


def _head(s: Shard) -> HeadArrays:
    a, field = s.work.acts, "wte" if s.work.training.tied else "head_w"
    w, dw, no_bias = getattr(s.params, field), getattr(s.grads, field), s.params.ln_f_w[:0]
    return HeadArrays(a.norm[-1], w, no_bias, a.dnorm, dw, no_bias)
