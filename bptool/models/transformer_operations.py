"""The kernels of a transformer's step one by one, from the table of its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bptool.models.base import Array, Reference
from bptool.models.head_operations import HeadArrays, head_operations
from bptool.models.operation import ITEM_BYTES, Operation, Shard, elementwise, linear
from bptool.models.site_kernels import (
    at,
    hidden_backward,
    hidden_forward,
    linear_backward,
    linear_forward,
    norm_backward,
    norm_forward,
)
from bptool.models.sites import Site, Size
from bptool.models.transformer_config import TransformerConfig
from bptool.ops.attention import attention_backward, attention_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.qk_norm import qk_norm_backward, qk_norm_forward
from bptool.ops.residual import residual_backward, residual_forward
from bptool.ops.rotary import rotary_backward, rotary_forward
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
PLAIN = {"norm": "layernorm", "positions": "learned", "mlp": "plain", "activation": "gelu"}
GATED = {"bias": False, "mlp": "gated"}
VARIANTS: tuple[dict[str, Any], ...] = (
    {"bias": False},
    {
        **PLAIN,
        "bias": True,
        "activation": "gelu_tanh",
        "dropout": EVERYWHERE,
        "stochastic_depth": 0.1,
    },
    {**PLAIN, "bias": True, "activation": "relu"},
    {**PLAIN, "bias": False},
    {**PLAIN, "bias": False, "activation": "silu"},
    {**GATED, "norm": "rmsnorm", "positions": "rotary", "qk_norm": True, "activation": "silu"},
    *({**GATED, "activation": name} for name in ("gelu", "gelu_tanh", "relu")),
)
"""Each has kernels that others do not; the whole steps of the first, which is the preset's own, are
timed."""


def transformer_references(make: Callable[..., Any]) -> list[Reference]:
    """The small models that are timed for predictions, each with the sequences of its shard."""
    return [
        Reference(
            make(make.Config(**size, **variant), n_vocab),  # type: ignore[attr-defined]
            n,
            whole=variant == VARIANTS[0],
        )
        for size, n_vocab, n in SIZES
        for variant in VARIANTS[: 1 if size["n_embd"] > LARGEST_VARIANT else None]
    ]


def transformer_operations(model: Any, size: Size, terms: LogitTerms = NO_TERMS) -> list[Operation]:
    """The step of a shard of ``size``; equal kernels on different layers are one entry."""
    config: TransformerConfig = model.config
    table: dict[str, Site] = {site.field: site for site in model.sites(size)}
    c, n_layer, n = config.n_embd, config.n_layer, size.n_rows
    p, depth = config.dropout_sites(), config.depth()

    qkv = _linear(table["qkv"], "norm_1", "dnorm", "dqkv")
    proj = _linear(table["proj"], "attention", "dattention")
    up = _linear(table["up"], "norm_2", "dnorm", "dup")
    down = _linear(table["down"], "hidden", "dhidden")
    attention = _attention_operations(config, size, "dropout" if p.attention > 0 else "")
    norms, hidden, n_norms = table["norm_f"].variant, table["hidden"].variant, 2 * n_layer + 1
    n_hidden = n * config.hidden_width
    turned = n * (config.n_head + config.kv_heads) * config.head_width
    head, *in_loss, head_backward = head_operations((n, c, model.n_vocab), terms, _head)
    at_sites = [
        ("dropout, embedding", 1, c, _dropout("branch", p.embedding), p.embedding),
        ("dropout, residual", 2 * n_layer, c, _dropout("branch", p.residual), p.residual),
        ("dropout, hidden", n_layer, config.hidden_width, _dropout("dhidden", p.hidden), p.hidden),
        ("stochastic depth", 2 * n_layer, c, _depth(depth.rate, size.n_time), depth.rate),
    ]
    dropped = [
        elementwise(name, 2 * count, 2 * n * width, run)
        for name, count, width, run, rate in at_sites
        if rate > 0
    ]
    qk_norm = [
        elementwise("norms of queries and keys", n_layer, 3 * turned, _qk_norm),
        elementwise("norms of queries and keys, backward", n_layer, 3 * turned, _qk_norm_backward),
    ]
    rotary = [
        elementwise("rotary positions", n_layer, 2 * turned, _rotary),
        elementwise("rotary positions, backward", n_layer, 2 * turned, _rotary_backward),
    ]
    qk_norm, rotary = qk_norm * config.qk_norm, rotary * (config.positions == "rotary")
    return [
        elementwise("embedding", 1, 3 * n * c, _embedding),
        elementwise("norms", n_norms, 2 * n * c, _norm, norms),
        qkv[0],
        *(*qk_norm[:1], *rotary[:1]),
        attention[0],
        *(proj[0], up[0]),
        elementwise("activation", n_layer, 3 * n_hidden, _hidden, hidden),
        down[0],
        elementwise("residual additions", 2 * n_layer, 3 * n * c, _add),
        *(head, *in_loss, head_backward),
        elementwise("residual copies", 2 * n_layer, 2 * n * c, _copy),
        down[1],
        elementwise(
            "activation, backward",
            n_layer,
            (5 if config.mlp == "gated" else 3) * n_hidden,
            _hidden_backward,
            hidden,
        ),
        up[1],
        elementwise("norms, backward", n_norms, 4 * n * c, _norm_backward, norms),
        proj[1],
        attention[1],
        *(*rotary[1:], *qk_norm[1:]),
        qkv[1],
        elementwise("embedding, backward", 1, 5 * n * c, _embedding_backward),
        *dropped,
    ]


def _linear(site: Site, x: str, dx: str, dy: str = "") -> tuple[Operation, Operation]:
    """A linear map of every layer, forward and backward; x is what the site of that name left, and
    without ``dy`` the gradient of the result is where the result was."""

    def forward(s: Shard, i: int) -> None:
        acts = _layer(s, i)
        w, of = getattr(at(s.params.blocks, i), site.field), getattr(acts, site.field)
        linear_forward(w, of, getattr(acts, x).y, s.work.training, s.team)

    def backward(s: Shard, i: int) -> None:
        acts, a = _layer(s, i), s.work.acts
        w, dw = (getattr(at(t.blocks, i), site.field) for t in (s.params, s.grads))
        of = getattr(acts, site.field)
        d_out = getattr(a, dy) if dy else of.y
        arrays = (getattr(a, dx), d_out, getattr(acts, x).y)
        linear_backward(w, dw, of, *arrays, s.work.training, a.dlow, False, s.team)

    return linear(site.title, site.layers, site.product, forward, backward, site.variant)


def _attention_operations(
    config: TransformerConfig, size: Size, variant: str
) -> tuple[Operation, Operation]:
    n, n_time, d = size.n_rows, size.n_time, config.head_width
    square = size.n_sequences * config.n_head * n_time**2  # attention weights, in no memory
    made = square * (n_time + 1) / (2 * n_time)  # of them, those that no mask hides
    flops, skipped = 4.0 * square * d, 4.0 * (square - made) * d
    of_q, of_qkv = n * config.n_head * d, n * (config.n_head + 2 * config.kv_heads) * d
    return (
        Operation(
            "attention",
            *(config.n_layer, flops, ITEM_BYTES * (of_qkv + of_q), _attention),
            *(skipped, made, variant),
        ),
        Operation(
            "attention, backward",
            *(config.n_layer, 2 * flops, ITEM_BYTES * (2 * of_qkv + of_q), _attention_backward),
            *(2 * skipped, made, variant),
        ),
    )


def transformer_intermediates(acts: Any) -> list[tuple[str, Array]]:
    """What each operation of a forward left in ``acts``, in the order of the forward."""
    found = [("embedding", acts.x[0])]
    for layer in range(len(acts.x) // 2):
        s, i = at(acts.blocks, layer), 2 * layer
        for name, array in (
            ("first norm", s.norm_1.y),
            ("queries, keys and values", s.qkv.y),
            ("attention", s.attention.y),
            ("residual stream after attention", acts.x[i + 1]),
            ("second norm", s.norm_2.y),
            ("activation", s.hidden.y),
            ("residual stream after the MLP", acts.x[i + 2]),
        ):
            found.append((f"{name}, layer {layer}", array))
    return [
        *found,
        ("last norm", acts.norm_f.y),
        ("log-probabilities", acts.logp),
        ("scores", acts.score),
    ]


def _layer(s: Shard, i: int) -> Any:
    """The activations of layer ``i``."""
    return at(s.work.acts.blocks, i)


def _dropout(field: str, rate: float) -> Any:
    def run(s: Shard, i: int) -> None:
        acts = s.work.acts
        array = acts.blocks.proj.y[0] if field == "branch" else getattr(acts, field)
        dropout(array[s.own], rate, KEY, i, 0)

    return run


def _depth(rate: float, n_time: int) -> Any:
    return lambda s, i: stochastic_depth(_branch(s), rate, KEY, i, 0, n_time)


def _branch(s: Shard) -> Any:
    return s.work.acts.blocks.proj.y[0][s.own]


def _embedding(s: Shard, i: int) -> None:
    embedding_forward(s.work.acts.x[0], s.tokens, ONE_DOCUMENT, *s.params.embed, s.team)


def _embedding_backward(s: Shard, i: int) -> None:
    embedding_backward(*s.grads.embed, s.work.acts.dx, s.tokens, ONE_DOCUMENT, s.team)


def _norm_site(tree: Any, i: int) -> Any:
    """The arrays of norm ``i`` in the order of the forward."""
    n_layer = len(tree.blocks.norm_1[0])
    if i == 2 * n_layer:
        return tree.norm_f
    layer = at(tree.blocks, i // 2)
    return layer.norm_2 if i % 2 else layer.norm_1


def _norm(s: Shard, i: int) -> None:
    a = s.work.acts
    norm_forward(s.work.training, _norm_site(s.params, i), _norm_site(a, i), a.x[i], s.own)


def _norm_backward(s: Shard, i: int) -> None:
    a, sites = s.work.acts, (_norm_site(tree, i) for tree in (s.params, s.grads, s.work.acts))
    norm_backward(s.work.training, *sites, a.dx, a.dnorm, a.x[i], a.partial, s.team)


def _jobs(s: Shard) -> tuple[int, int, int, int]:
    """Heads, length of a sequence, and this member's jobs of attention."""
    hyper, (n_sequences, n_time) = s.work.training, s.tokens.shape
    jobs = s.part(n_sequences * hyper.n_head // hyper.group)
    return hyper.n_head, n_time, jobs.start * hyper.group, jobs.stop * hyper.group


def _qk_norm(s: Shard, i: int) -> None:
    a, w = _layer(s, i), at(s.params.blocks, i).qk_norm
    qk_norm_forward(a.qkv.y, *a.qk_norm, *w, s.work.training.epsilon, *_jobs(s))


def _qk_norm_backward(s: Shard, i: int) -> None:
    a, acts = _layer(s, i), s.work.acts
    w, dw = (at(tree.blocks, i).qk_norm for tree in (s.params, s.grads))
    qk_norm_backward(acts.dqkv, *dw, *a.qk_norm, *w, acts.partial, *_jobs(s), s.team)


def _rotary(s: Shard, i: int) -> None:
    rotary_forward(_layer(s, i).qkv.y, s.work.acts.angles, ONE_DOCUMENT, *_jobs(s))


def _rotary_backward(s: Shard, i: int) -> None:
    rotary_backward(s.work.acts.dqkv, s.work.acts.angles, ONE_DOCUMENT, *_jobs(s))


def _attention(s: Shard, i: int) -> None:
    a, hyper, of = s.work.acts, s.work.training, _layer(s, i)
    _, _, first, stop = _jobs(s)
    attention_forward(
        *(hyper.engine, *of.attention, a.scratch[s.team.index], of.qkv.y),
        *(ONE_DOCUMENT, hyper.dropout.attention, KEY, i, first, stop),
    )


def _attention_backward(s: Shard, i: int) -> None:
    a, hyper, of = s.work.acts, s.work.training, _layer(s, i)
    _, _, first, stop = _jobs(s)
    attention_backward(
        *(hyper.engine, a.dqkv, a.dattention, of.attention.row_stats, a.scratch[s.team.index]),
        *(of.qkv.y, ONE_DOCUMENT, hyper.dropout.attention, KEY, i, first, stop),
    )


def _hidden(s: Shard, i: int) -> None:
    a = _layer(s, i)
    hidden_forward(s.work.training, a.hidden, a.up.y, s.work.acts.dhidden, s.own)


def _hidden_backward(s: Shard, i: int) -> None:
    a, acts = _layer(s, i), s.work.acts
    hidden_backward(s.work.training, a.hidden, acts.dup, acts.dhidden, a.up.y, s.own)


def _add(s: Shard, i: int) -> None:
    x, own = s.work.acts.x, s.own
    residual_forward(x[i + 1][own], x[i][own], _branch(s))


def _copy(s: Shard, i: int) -> None:
    residual_backward(_branch(s), s.work.acts.dx[s.own])


def _head(s: Shard) -> HeadArrays:
    a, tied = s.work.acts, s.work.training.tied
    w, dw = (t.embed.tokens if tied else t.head.w for t in (s.params, s.grads))
    no_bias = s.params.norm_f.w[:0]
    return HeadArrays(a.norm_f.y, w, no_bias, a.dnorm, dw, no_bias)
