"""A pre-norm transformer decoder: GPT-2, Llama and what lies between them.

    x = dropout(tokens[id] + positions[t])                        positions: learned
    x = x + drop(proj(attention(turn(qk_norm(qkv(norm_1(x)))))))  for each layer
    x = x + drop(down(dropout(hidden(up(norm_2(x))))))
    logits = norm_f(x) head^T,  head = tokens when tied

    norm(x)    layernorm or rmsnorm
    turn       by the position, for queries and keys: positions rotary
    hidden(y)  f(y), or gated f(a) b for y = [a, b]

``drop`` is dropout, then stochastic depth; attention has a dropout of its own. A linear map may
have an adapter of low rank beside it. ``sites.py`` lists what there is, ``site_kernels.py`` has
what a site does; a variant is a number in :class:`Hyper`, or arrays without elements.

Sources: Radford et al. 2019, "Language models are unsupervised multitask learners", whose
initialization this is too (0.02, residual projections scaled by 1 / sqrt(2 L)); Touvron et al.
2023, arXiv:2302.13971, section 2.2.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Mapping
from typing import Any, NamedTuple

from bptool.config.lora_section import LoraConfig
from bptool.models import transformer_operations as kernels
from bptool.models.base import NO_KEY, Array, CompiledModel, Model, ParamSpec, Reference
from bptool.models.decoder import Workers
from bptool.models.head_loss import (
    head_logprobs,
    head_logprobs_backward,
    head_loss_and_gradient,
)
from bptool.models.operation import Operation
from bptool.models.site_kernels import (
    ACTIVATIONS_KEPT,
    MLPS,
    NORMS,
    WEIGHTS,
    Embedding,
    Head,
    Norm,
    NormActs,
    Score,
    at,
    hidden_backward,
    hidden_forward,
    linear_backward,
    linear_forward,
    norm_backward,
    norm_forward,
)
from bptool.models.sites import (
    NO_LORA,
    ONE_ROW,
    Lora,
    Site,
    Size,
    field_of,
    shapes,
    sites,
    specs,
    stored,
)
from bptool.models.transformer_config import (
    NO_DEPTH,
    NO_DROPOUT,
    Depth,
    Dropout,
    TransformerConfig,
)
from bptool.models.transformer_decode import TransformerDecoder, page_shape, scratch_shapes
from bptool.ops.activations import ACTIVATIONS
from bptool.ops.attention import BLOCK, attention_backward, attention_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.head import tile_rows
from bptool.ops.jit import composition, inlined
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.matmul import MatmulEngine
from bptool.ops.qk_norm import qk_norm_backward, qk_norm_forward
from bptool.ops.residual import residual_backward, residual_forward
from bptool.ops.rotary import rotary_angles, rotary_backward, rotary_forward
from bptool.ops.score import score_backward, score_forward
from bptool.ops.stochastic_depth import depth_rate, stochastic_depth
from bptool.ops.team import ALONE, Team, barrier, share

_LAYER = [site for site in sites(TransformerConfig(), 1) if site.layers]
Block = namedtuple("Block", [site.field for site in _LAYER if site.tensors])  # type: ignore[misc]
"""Parameters of the layers (or gradients): those of each site."""
BlockActs = namedtuple("BlockActs", [site.field for site in _LAYER])  # type: ignore[misc]
"""Activations of the layers that the backward needs, and scratch that they share."""


class Params(NamedTuple):
    """Parameters, or gradients."""

    embed: Embedding
    blocks: Any
    """A :class:`Block`."""
    norm_f: Norm
    head: Head
    score: Score


class Activations(NamedTuple):
    """What the forward saves for the backward, and scratch, of one team."""

    x: Array  # (2L+1, N, C) the residual stream before each norm
    blocks: Any  # BlockActs
    norm_f: NormActs
    logits: Array  # (R, V) of a tile of rows, overwritten by their gradient
    logp: Array  # (N,)
    dlogp: Array  # (N,)
    log_sum: Array  # (N,)
    added: Array  # (N,) to each row's loss, by label smoothing and z-loss
    score: Array  # (N,) of the scalar head
    dx: Array  # (N, C) gradient of the residual stream
    dnorm: Array  # (N, C)
    dattention: Array  # (N, H D); dnorm itself where it has that width
    dqkv: Array  # (N, (H + 2 G) D)
    dhidden: Array  # (N, F)
    dup: Array  # (N, F), or (N, 2 F) gated
    scratch: Array  # (members, 2, BLOCK, T) for attention
    partial: Array  # (members, 2, C or D) sums of a norm's gradients
    dlow: Array  # (N, r)
    angles: Array  # (T, 2, D / 2) cosines and sines of rotary positions


class Hyper(NamedTuple):
    """Numbers that compiled code needs."""

    engine: MatmulEngine
    n_head: int
    group: int
    """Heads of queries on one of keys and values."""
    norm: int
    epsilon: float
    mlp: int
    activation: int
    tied: bool
    dropout: Dropout
    depth: Depth
    low_rank: float


@inlined
def transformer_forward(hyper, params, acts, tokens, starts, key, team):  # type: ignore[no-untyped-def]
    """Fill ``acts`` up to the last norm, of which each member has rows.

    What goes row by row stays with the member that owns the rows; barriers stand where it meets
    products, which need all rows and give columns, and attention, which gives heads.
    """
    n_layer, n_time = acts.x.shape[0] // 2, tokens.shape[1]
    engine, n_head, p, x = hyper.engine, hyper.n_head, hyper.dropout, acts.x
    first, stop = share(tokens.size, 1, team)
    own = slice(first, stop)
    row0 = key.sequence0 * n_time + first
    job0, job1 = share(tokens.shape[0] * n_head, hyper.group, team)

    embedding_forward(x[0], tokens, starts, params.embed.tokens, params.embed.positions, team)
    dropout(x[0][own], p.embedding, key, 0, row0)
    for layer in range(n_layer):
        w, s, i = at(params.blocks, layer), at(acts.blocks, layer), 2 * layer
        qkv, raw, att = s.qkv.y, s.qk_norm, s.attention
        norm_forward(hyper, w.norm_1, s.norm_1, x[i], own)
        barrier(team)  # norm_1: rows
        linear_forward(w.qkv, s.qkv, s.norm_1.y, hyper, team)
        barrier(team)  # qkv: columns
        # fmt: off
        qk_norm_forward(qkv, raw.raw, raw.rstd, w.qk_norm.q, w.qk_norm.k, hyper.epsilon,
                        n_head, n_time, job0, job1)
        rotary_forward(qkv, acts.angles, starts, n_head, n_time, job0, job1)
        attention_forward(engine, att.y, att.row_stats, acts.scratch[team.index], qkv, starts,
                          p.attention, key, 3 * layer + 1, job0, job1)
        # fmt: on
        barrier(team)  # attention: heads
        linear_forward(w.proj, s.proj, att.y, hyper, team)
        barrier(team)  # branch: columns
        rate = depth_rate(hyper.depth.rate, hyper.depth.rule, layer, n_layer)
        dropout(s.proj.y[own], p.residual, key, 3 * layer + 2, row0)
        stochastic_depth(s.proj.y[own], rate, key, 2 * layer, row0, n_time)
        residual_forward(x[i + 1][own], x[i][own], s.proj.y[own])

        i += 1
        norm_forward(hyper, w.norm_2, s.norm_2, x[i], own)
        barrier(team)  # norm_2: rows; and branch has been read
        linear_forward(w.up, s.up, s.norm_2.y, hyper, team)
        barrier(team)  # up: columns
        hidden_forward(hyper, s.hidden, s.up.y, acts.dhidden, own)
        dropout(s.hidden.y[own], p.hidden, key, 3 * n_layer + 1 + layer, row0)
        barrier(team)  # hidden: rows
        linear_forward(w.down, s.down, s.hidden.y, hyper, team)
        barrier(team)  # branch: columns
        dropout(s.down.y[own], p.residual, key, 3 * layer + 3, row0)
        stochastic_depth(s.down.y[own], rate, key, 2 * layer + 1, row0, n_time)
        residual_forward(x[i + 1][own], x[i][own], s.down.y[own])
    norm_forward(hyper, params.norm_f, acts.norm_f, x[2 * n_layer], own)


@inlined
def transformer_backward(hyper, params, grads, acts, tokens, starts, key, adds, team):  # type: ignore[no-untyped-def]
    """Undo the forward from the last norm, whose gradient ``acts.dnorm`` holds, to the first
    operation. Each member has made its part of it. ``adds`` as for ``linear_backward``."""
    n_layer, n_time = acts.x.shape[0] // 2, tokens.shape[1]
    engine, n_head, p, x = hyper.engine, hyper.n_head, hyper.dropout, acts.x
    dx, dnorm, dqkv, dlow, partial = acts.dx, acts.dnorm, acts.dqkv, acts.dlow, acts.partial
    first, stop = share(tokens.size, 1, team)
    own = slice(first, stop)
    row0 = key.sequence0 * n_time + first
    job0, job1 = share(tokens.shape[0] * n_head, hyper.group, team)

    dx[own] = dx.dtype.type(0.0)
    barrier(team)  # dnorm: columns
    # fmt: off
    norm_backward(hyper, params.norm_f, grads.norm_f, acts.norm_f, dx, dnorm, x[2 * n_layer],
                  partial, team)
    for layer in range(n_layer - 1, -1, -1):
        w, dw, s = at(params.blocks, layer), at(grads.blocks, layer), at(acts.blocks, layer)
        branch, qkv, raw, att = s.down.y, s.qkv.y, s.qk_norm, s.attention
        rate = depth_rate(hyper.depth.rate, hyper.depth.rule, layer, n_layer)

        # x = x + drop(down(dropout(hidden(up(norm_2(x))))))
        i = 2 * layer + 1
        residual_backward(branch[own], dx[own])
        dropout(branch[own], p.residual, key, 3 * layer + 3, row0)
        stochastic_depth(branch[own], rate, key, 2 * layer + 1, row0, n_time)
        barrier(team)  # branch: rows
        linear_backward(w.down, dw.down, s.down, acts.dhidden, branch, s.hidden.y,
                        hyper, dlow, adds, team)
        barrier(team)  # dhidden: columns
        dropout(acts.dhidden[own], p.hidden, key, 3 * n_layer + 1 + layer, row0)
        hidden_backward(hyper, s.hidden, acts.dup, acts.dhidden, s.up.y, own)
        barrier(team)  # dup: rows
        linear_backward(w.up, dw.up, s.up, dnorm, acts.dup, s.norm_2.y, hyper, dlow, adds, team)
        barrier(team)  # dnorm: columns
        norm_backward(hyper, w.norm_2, dw.norm_2, s.norm_2, dx, dnorm, x[i], partial, team)

        # x = x + drop(proj(attention(turn(qk_norm(qkv(norm_1(x)))))))
        i = 2 * layer
        residual_backward(branch[own], dx[own])
        dropout(branch[own], p.residual, key, 3 * layer + 2, row0)
        stochastic_depth(branch[own], rate, key, 2 * layer, row0, n_time)
        barrier(team)  # branch: rows
        linear_backward(w.proj, dw.proj, s.proj, acts.dattention, branch, att.y,
                        hyper, dlow, adds, team)
        barrier(team)  # dattention: columns
        attention_backward(engine, dqkv, acts.dattention, att.row_stats,
                           acts.scratch[team.index], qkv, starts, p.attention, key,
                           3 * layer + 1, job0, job1)
        rotary_backward(dqkv, acts.angles, starts, n_head, n_time, job0, job1)
        qk_norm_backward(dqkv, dw.qk_norm.q, dw.qk_norm.k, raw.raw, raw.rstd, w.qk_norm.q,
                         w.qk_norm.k, partial, n_head, n_time, job0, job1, team)
        barrier(team)  # dqkv: heads; and dattention has been read
        linear_backward(w.qkv, dw.qkv, s.qkv, dnorm, dqkv, s.norm_1.y, hyper, dlow, adds, team)
        barrier(team)  # dnorm: columns
        norm_backward(hyper, w.norm_1, dw.norm_1, s.norm_1, dx, dnorm, x[i], partial, team)
    # fmt: on
    # x = dropout(tokens[id] + positions[t])
    dropout(dx[own], p.embedding, key, 0, row0)
    barrier(team)  # dx: rows
    embedding_backward(grads.embed.tokens, grads.embed.positions, dx, tokens, starts, team)


@composition
def transformer_step(  # type: ignore[no-untyped-def]
    hyper,
    params,
    grads,
    acts,
    tokens,
    targets,
    starts,
    key,
    inverse_n_targets,
    terms,
    adds,
    backward,
    team,
):
    """A member's whole step: forward, its part of the loss and of what the terms add, backward.

    Without ``backward`` it ends at the loss, and ``grads`` may be anything of its type: one
    function for both, since all of the forward would be compiled again into a second one.
    """
    barrier(team)  # the last call has read the activations, and the gradients are cleared
    transformer_forward(hyper, params, acts, tokens, starts, key, team)
    norm, flat = acts.norm_f.y, targets.reshape(targets.size)
    head = params.embed.tokens if hyper.tied else params.head.w
    d_head = grads.embed.tokens if hyper.tied else grads.head.w
    no_bias = params.norm_f.w[:0]
    loss, penalty = head_loss_and_gradient(
        *(hyper.engine, acts, acts.dnorm, d_head, no_bias, norm, head, no_bias),
        *(flat, inverse_n_targets, terms, adds, backward, team),
    )
    if backward:
        transformer_backward(hyper, params, grads, acts, tokens, starts, key, adds, team)
    return loss, penalty


@composition
def transformer_token_pass(  # type: ignore[no-untyped-def]
    hyper,
    params,
    grads,
    acts,
    tokens,
    targets,
    starts,
    key,
    dlogp,
    dscore,
    forward,
    backward,
    of_logp,
    adds,
    team,
):
    """A member's part of the forward to ``acts.logp`` and ``acts.score``, or of the backward from
    their gradients, which follows the forward. Without ``of_logp`` the output weights are not
    used. One function for both, as for ``transformer_step``."""
    norm, flat = acts.norm_f.y, targets.reshape(targets.size)
    head = params.embed.tokens if hyper.tied else params.head.w
    d_head = grads.embed.tokens if hyper.tied else grads.head.w
    no_bias = params.norm_f.w[:0]
    scored = params.score.w.size > 0
    first, stop = share(tokens.size, 1, team)
    own = slice(first, stop)
    barrier(team)  # the last call has read the activations, and the gradients are cleared
    if forward:
        transformer_forward(hyper, params, acts, tokens, starts, key, team)
        if of_logp:
            head_logprobs(hyper.engine, acts, norm, head, no_bias, flat, team)
        if scored:
            score_forward(acts.score[own], norm[own], params.score.w, params.score.b)
        barrier(team)  # logp, score: rows
    if backward:
        if of_logp:
            head_logprobs_backward(
                *(hyper.engine, acts, acts.dnorm, d_head, no_bias),
                *(norm, head, no_bias, flat, dlogp, adds, team),
            )
        else:
            acts.dnorm[own] = acts.dnorm.dtype.type(0.0)
            if not adds:
                first, stop = share(d_head.shape[0], 1, team)
                d_head[first:stop] = d_head.dtype.type(0.0)
        if scored:
            barrier(team)  # dnorm: a product
            d_score = grads.score
            score_backward(acts.dnorm, d_score.w, d_score.b, dscore, norm, params.score.w, team)
        transformer_backward(hyper, params, grads, acts, tokens, starts, key, adds, team)


class Transformer(CompiledModel):
    """A transformer of any size and variant; see the module's first lines for the equations.

    A preset is a subclass with a ``Config`` of other defaults (``presets.py``).
    """

    Config = TransformerConfig
    value_head = lora = logprobs = True
    adapters: Lora = NO_LORA
    low_rank = 0.0
    compiled_step = staticmethod(transformer_step)

    @property
    def stored(self) -> frozenset[str]:  # type: ignore[override]
        return stored(self.sites())

    def sites(self, size: Size = ONE_ROW) -> tuple[Site, ...]:
        """The table of this model, with the activations of a shard of ``size``."""
        return sites(self.config, self.n_vocab, self.adapters, size)

    def make_specs(self) -> tuple[ParamSpec, ...]:
        return specs(self.sites())

    def pack(self, tensors: Mapping[str, Array]) -> Params:
        blocks: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for site in self.sites():
            if not site.tensors:
                continue
            fields = {t.part: tensors[field_of(site, t)] for t in (*site.tensors, *site.adapter)}
            (blocks if site.layers else others)[site.field] = WEIGHTS[site.kind](**fields)
        return Params(blocks=Block(**blocks), **others)

    def shapes(self, n_sequences: int, n_time: int, n_members: int) -> dict[str, tuple[int, ...]]:
        size = Size(n_sequences, n_time, n_members)
        c, n, f = self.config, size.n_rows, self.config.hidden_width
        d, width = c.head_width, c.n_embd
        of_q, of_qkv = c.n_head * d, (c.n_head + 2 * c.kv_heads) * d
        turned = (n_time, 2, d // 2) if c.positions == "rotary" else (0, 2, 0)
        return {
            "x": (2 * c.n_layer + 1, n, width),
            **shapes(self.sites(size)),
            "logits": (tile_rows(n, self.n_vocab), self.n_vocab),
            **dict.fromkeys(("logp", "dlogp", "log_sum", "added", "score"), (n,)),
            **dict.fromkeys(("dx", "dnorm"), (n, width)),
            **({} if of_q == width else {"dattention": (n, of_q)}),
            "dqkv": (n, of_qkv),
            "dhidden": (n, f),
            "dup": (n, f * (2 if c.mlp == "gated" else 1)),
            "scratch": (n_members, 2, BLOCK, n_time),
            "partial": (n_members, 2, max(width, d)),
            "dlow": (n, self.adapters.rank),
            "angles": turned,
        }

    def activations(self, arrays: dict[str, Array]) -> Activations:
        c, angles = self.config, arrays["angles"]
        if angles.size:
            angles[:] = rotary_angles(len(angles), c.head_width, c.rotary_base, angles.dtype)
        parts: dict[str, Any] = {}
        for site in self.sites():
            if site.kept:
                kept = {part: arrays[site.array(part)] for part in site.kept}
                parts[site.field] = ACTIVATIONS_KEPT[site.kind](**kept)
        arrays = {"dattention": arrays["dnorm"], **arrays}
        found: dict[str, Any] = {f: arrays[f] for f in Activations._fields if f in arrays}
        blocks = BlockActs(*(parts.pop(site.field) for site in _LAYER))
        return Activations(**found, blocks=blocks, **parts)

    def hyper(self, engine: MatmulEngine, training: bool) -> Hyper:
        c = self.config
        return Hyper(
            engine=engine,
            n_head=c.n_head,
            group=c.n_head // c.kv_heads,
            norm=NORMS[c.norm],
            epsilon=c.norm_epsilon,
            mlp=MLPS[c.mlp],
            activation=ACTIVATIONS[c.activation],
            tied=c.tie_embeddings,
            dropout=c.dropout_sites() if training else NO_DROPOUT,
            depth=c.depth() if training else NO_DEPTH,
            low_rank=self.low_rank,
        )

    def adapted(self, lora: LoraConfig, base: Array) -> Model:
        from bptool.models.lora import adapt  # which is built on this class

        return adapt(self, lora, base)

    @property
    def drops(self) -> bool:
        return max(self.config.dropout_sites()) > 0 or self.config.depth().rate > 0

    def forward_tokens(
        self,
        params: Any,
        acts: Any,
        tokens: Array,
        targets: Array,
        key: MaskKey | None,
        team: Team = ALONE,
        starts: Array = ONE_DOCUMENT,
        of_logp: bool = True,
    ) -> None:
        hyper = acts.evaluating if key is None else acts.training
        none = acts.acts.dlogp
        transformer_token_pass(
            *(hyper, params, params, acts.acts, tokens, targets, starts, key or NO_KEY),
            *(none, none, True, False, of_logp, True, team),
        )

    def backward_tokens(
        self,
        params: Any,
        grads: Any,
        acts: Any,
        tokens: Array,
        targets: Array,
        key: MaskKey,
        dlogp: Array,
        dscores: Array,
        team: Team = ALONE,
        adds: bool = True,
        starts: Array = ONE_DOCUMENT,
        of_logp: bool = True,
    ) -> None:
        transformer_token_pass(
            *(acts.training, params, grads, acts.acts, tokens, targets, starts, key),
            *(dlogp, dscores, False, True, of_logp, adds, team),
        )

    def token_scores(self, acts: Any) -> Array:
        scores: Array = acts.acts.score
        return scores

    @property
    def has_scores(self) -> bool:
        return bool(self.config.score_head)

    def relu_inputs(self, workspace: Any) -> Array | None:
        inputs: Array = workspace.acts.blocks.up.y
        return inputs[..., : self.config.hidden_width] if self.config.activation == "relu" else None

    def intermediates(self, workspace: Any) -> list[tuple[str, Array]]:
        return kernels.transformer_intermediates(workspace.acts)

    def decoder(self, params: Any, capacity: int, workers: Workers) -> TransformerDecoder:
        return TransformerDecoder(self, params, capacity, workers)

    def decoder_bytes(self, n_sequences: int) -> int:
        scratch = sum(4 * math.prod(s) for shapes in scratch_shapes(self) for s in shapes.values())
        cache = math.prod(page_shape(self.config, n_sequences))
        return scratch + 4 * (cache + n_sequences * self.n_vocab)

    def operations(
        self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
    ) -> list[Operation]:
        return kernels.transformer_operations(self, Size(n_sequences, n_time, 1), terms)

    @classmethod
    def references(cls) -> list[Reference]:
        return kernels.transformer_references(cls)

    def flops_per_token(self, n_time: int) -> float:
        c = self.config
        n_positions = c.context * c.n_embd if c.positions == "learned" else 0
        n_weights = self.n_parameters - n_positions
        return 6.0 * n_weights + 12.0 * c.n_layer * c.n_head * c.head_width * n_time
