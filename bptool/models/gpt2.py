"""GPT-2: a pre-norm transformer decoder with learned positions and a tied head.

    x = dropout(wte[token] + wpe[t])
    x = x + drop(c_proj(attention(c_attn(ln_1(x)))))            for each layer
    x = x + drop(c_proj(dropout(act(c_fc(ln_2(x))))))
    logits = ln_f(x) head^T,  head = wte when tied

``drop`` is dropout, then stochastic depth; attention has a dropout of its own.

Sources: Radford et al. 2019, "Language models are unsupervised multitask learners"; the
initialisation (0.02, residual projections scaled by 1 / sqrt(2 L)) is theirs too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from bptool.models.base import Array, Losses, Model, ParamSpec, Reference, allocate, bytes_of
from bptool.models.decoder import Workers
from bptool.models.gpt2_config import NO_DEPTH, NO_DROPOUT, Depth, Dropout, GPT2Config
from bptool.models.gpt2_decode import GPT2Decoder, page_shape, scratch_shapes
from bptool.models.gpt2_operations import (
    LARGEST_VARIANT,
    SIZES,
    VARIANTS,
    gpt2_intermediates,
    gpt2_operations,
)
from bptool.models.head_loss import head_loss_and_gradient
from bptool.models.operation import Operation
from bptool.ops.activations import ACTIVATIONS, activation_backward, activation_forward
from bptool.ops.attention import BLOCK, attention_backward, attention_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.head import tile_rows
from bptool.ops.jit import composition
from bptool.ops.layernorm import layernorm_backward_share, layernorm_forward
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.matmul import MatmulEngine
from bptool.ops.residual import residual_backward, residual_forward
from bptool.ops.stochastic_depth import depth_rate, stochastic_depth
from bptool.ops.team import ALONE, Team, barrier, share
from bptool.registry import models


class Params(NamedTuple):
    """Parameters (or gradients), layers stacked on the first axis. F = 4C."""

    wte: Array  # (V, C)
    wpe: Array  # (context, C)
    ln_1_w: Array  # (L, C)
    ln_1_b: Array  # (L, C) or (L, 0)
    attn_w: Array  # (L, 3C, C)
    attn_b: Array  # (L, 3C) or (L, 0)
    attn_proj_w: Array  # (L, C, C)
    attn_proj_b: Array  # (L, C) or (L, 0)
    ln_2_w: Array  # (L, C)
    ln_2_b: Array  # (L, C) or (L, 0)
    fc_w: Array  # (L, F, C)
    fc_b: Array  # (L, F) or (L, 0)
    fc_proj_w: Array  # (L, C, F)
    fc_proj_b: Array  # (L, C) or (L, 0)
    ln_f_w: Array  # (C,)
    ln_f_b: Array  # (C,) or (0,)
    head_w: Array  # (V, C), or (0, C) when tied


class Activations(NamedTuple):
    """What the forward saves for the backward, and scratch, of one team; N = B*T rows."""

    x: Array  # (2L+1, N, C) the residual stream before each norm
    norm: Array  # (2L+1, N, C) outputs of the norms
    mean: Array  # (2L+1, N)
    rstd: Array  # (2L+1, N)
    qkv: Array  # (L, N, 3C)
    row_stats: Array  # (L, B, H, T, 2) of the attention weights
    att: Array  # (L, N, C) attention outputs
    fc: Array  # (1, N, F) before the activation; (L, N, F) where that is a ReLU, for relu_inputs
    act: Array  # (L, N, F) after it
    slope: Array  # (L, N, F) of the activation
    logits: Array  # (R, V) of a tile of rows, overwritten by their gradient
    logp: Array  # (N,)
    dlogp: Array  # (N,)
    log_sum: Array  # (N,)
    added: Array  # (N,) to each row's loss, by label smoothing and z-loss
    branch: Array  # (N, C) scratch: what is about to be added to the stream
    dx: Array  # (N, C) gradient of the residual stream
    dnorm: Array  # (N, C)
    dqkv: Array  # (N, 3C)
    dact: Array  # (N, F)
    dfc: Array  # (N, F)
    scratch: Array  # (members, 2, BLOCK, T) for attention
    partial: Array  # (members - 1, 2, C) sums of a norm's gradients


class Hyper(NamedTuple):
    """Numbers that compiled code needs."""

    engine: MatmulEngine
    n_head: int
    activation: int
    tied: bool
    dropout: Dropout
    depth: Depth


NO_KEY = MaskKey(0, 0, 0)
POSITION_AMPLITUDE = 0.1
"""Of sinusoidal initial positions; 0.2 did no better."""


@composition
def gpt2_forward(hyper, params, acts, tokens, starts, key, team):  # type: ignore[no-untyped-def]
    """Fill ``acts`` up to the last norm, of which each member has rows.

    What goes row by row stays with the member that owns the rows; barriers stand where it meets
    products, which need all rows and give columns, and attention, which gives heads.
    """
    n_layer, n_rows = params.ln_1_w.shape[0], tokens.size
    engine, p = hyper.engine, hyper.dropout
    x, norm, mean, rstd, branch = acts.x, acts.norm, acts.mean, acts.rstd, acts.branch
    first, stop = share(n_rows, 1, team)
    own = slice(first, stop)
    row0 = key.sequence0 * tokens.shape[1] + first
    first_job, stop_job = share(tokens.shape[0] * hyper.n_head, 1, team)

    embedding_forward(x[0], tokens, starts, params.wte, params.wpe, team)
    dropout(x[0][own], p.embedding, key, 0, row0)
    for layer in range(n_layer):
        i = 2 * layer
        ln_1_w, ln_1_b = params.ln_1_w[layer], params.ln_1_b[layer]
        layernorm_forward(norm[i][own], mean[i][own], rstd[i][own], x[i][own], ln_1_w, ln_1_b)
        barrier(team)  # norm: rows
        attn_w, attn_b = params.attn_w[layer], params.attn_b[layer]
        linear_forward(engine, acts.qkv[layer], norm[i], attn_w, attn_b, team)
        barrier(team)  # qkv: columns
        attention_forward(
            *(engine, acts.att[layer], acts.row_stats[layer], acts.scratch[team.index]),
            *(acts.qkv[layer], starts, p.attention, key, 3 * layer + 1, first_job, stop_job),
        )
        barrier(team)  # att: heads
        attn_proj_w, attn_proj_b = params.attn_proj_w[layer], params.attn_proj_b[layer]
        linear_forward(engine, branch, acts.att[layer], attn_proj_w, attn_proj_b, team)
        barrier(team)  # branch: columns
        rate = depth_rate(hyper.depth.rate, hyper.depth.rule, layer, n_layer)
        dropout(branch[own], p.residual, key, 3 * layer + 2, row0)
        stochastic_depth(branch[own], rate, key, 2 * layer, row0, tokens.shape[1])
        residual_forward(x[i + 1][own], x[i][own], branch[own])

        i += 1
        ln_2_w, ln_2_b = params.ln_2_w[layer], params.ln_2_b[layer]
        layernorm_forward(norm[i][own], mean[i][own], rstd[i][own], x[i][own], ln_2_w, ln_2_b)
        barrier(team)  # norm: rows; and branch has been read
        fc = acts.fc[layer % acts.fc.shape[0]]
        linear_forward(engine, fc, norm[i], params.fc_w[layer], params.fc_b[layer], team)
        barrier(team)  # fc: columns
        activation_forward(hyper.activation, acts.act[layer][own], acts.slope[layer][own], fc[own])
        dropout(acts.act[layer][own], p.hidden, key, 3 * n_layer + 1 + layer, row0)
        barrier(team)  # act: rows
        fc_proj_w, fc_proj_b = params.fc_proj_w[layer], params.fc_proj_b[layer]
        linear_forward(engine, branch, acts.act[layer], fc_proj_w, fc_proj_b, team)
        barrier(team)  # branch: columns
        dropout(branch[own], p.residual, key, 3 * layer + 3, row0)
        stochastic_depth(branch[own], rate, key, 2 * layer + 1, row0, tokens.shape[1])
        residual_forward(x[i + 1][own], x[i][own], branch[own])
    i = 2 * n_layer
    ln_f_w, ln_f_b = params.ln_f_w, params.ln_f_b
    layernorm_forward(norm[i][own], mean[i][own], rstd[i][own], x[i][own], ln_f_w, ln_f_b)


@composition
def gpt2_backward(hyper, params, grads, acts, tokens, starts, key, adds, team):  # type: ignore[no-untyped-def]
    """Undo the forward from the last norm, whose gradient ``acts.dnorm`` holds, to the first
    operation. Each member has made its part of it. ``adds`` as for ``linear_backward``."""
    n_layer, n_rows = params.ln_1_w.shape[0], tokens.size
    engine, p = hyper.engine, hyper.dropout
    x, norm, mean, rstd = acts.x, acts.norm, acts.mean, acts.rstd
    dx, dnorm, branch, partial = acts.dx, acts.dnorm, acts.branch, acts.partial
    first, stop = share(n_rows, 1, team)
    own = slice(first, stop)
    row0 = key.sequence0 * tokens.shape[1] + first
    first_job, stop_job = share(tokens.shape[0] * hyper.n_head, 1, team)

    i = 2 * n_layer
    dx[own] = dx.dtype.type(0.0)
    barrier(team)  # dnorm: columns
    layernorm_backward_share(
        *(dx, grads.ln_f_w, grads.ln_f_b, dnorm, x[i], mean[i], rstd[i], params.ln_f_w),
        *(partial, team),
    )
    for layer in range(n_layer - 1, -1, -1):
        # x = x + drop(c_proj(dropout(act(c_fc(ln_2(x))))))
        i = 2 * layer + 1
        rate = depth_rate(hyper.depth.rate, hyper.depth.rule, layer, n_layer)
        residual_backward(branch[own], dx[own])
        dropout(branch[own], p.residual, key, 3 * layer + 3, row0)
        stochastic_depth(branch[own], rate, key, 2 * layer + 1, row0, tokens.shape[1])
        barrier(team)  # branch: rows
        linear_backward(
            *(engine, acts.dact, grads.fc_proj_w[layer], grads.fc_proj_b[layer]),
            *(branch, acts.act[layer], params.fc_proj_w[layer], adds, team),
        )
        barrier(team)  # dact: columns
        dropout(acts.dact[own], p.hidden, key, 3 * n_layer + 1 + layer, row0)
        activation_backward(acts.dfc[own], acts.dact[own], acts.slope[layer][own])
        barrier(team)  # dfc: rows
        linear_backward(
            *(engine, dnorm, grads.fc_w[layer], grads.fc_b[layer]),
            *(acts.dfc, norm[i], params.fc_w[layer], adds, team),
        )
        barrier(team)  # dnorm: columns
        layernorm_backward_share(
            *(dx, grads.ln_2_w[layer], grads.ln_2_b[layer], dnorm),
            *(x[i], mean[i], rstd[i], params.ln_2_w[layer], partial, team),
        )

        # x = x + drop(c_proj(attention(c_attn(ln_1(x)))))
        i = 2 * layer
        residual_backward(branch[own], dx[own])
        dropout(branch[own], p.residual, key, 3 * layer + 2, row0)
        stochastic_depth(branch[own], rate, key, 2 * layer, row0, tokens.shape[1])
        barrier(team)  # branch: rows
        linear_backward(
            *(engine, dnorm, grads.attn_proj_w[layer], grads.attn_proj_b[layer]),
            *(branch, acts.att[layer], params.attn_proj_w[layer], adds, team),
        )
        barrier(team)  # dnorm: columns
        attention_backward(
            *(engine, acts.dqkv, dnorm, acts.row_stats[layer], acts.scratch[team.index]),
            *(acts.qkv[layer], starts, p.attention, key, 3 * layer + 1, first_job, stop_job),
        )
        barrier(team)  # dqkv: heads; and dnorm has been read
        linear_backward(
            *(engine, dnorm, grads.attn_w[layer], grads.attn_b[layer]),
            *(acts.dqkv, norm[i], params.attn_w[layer], adds, team),
        )
        barrier(team)  # dnorm: columns
        layernorm_backward_share(
            *(dx, grads.ln_1_w[layer], grads.ln_1_b[layer], dnorm),
            *(x[i], mean[i], rstd[i], params.ln_1_w[layer], partial, team),
        )
    # x = dropout(wte[token] + wpe[t])
    dropout(dx[own], p.embedding, key, 0, row0)
    barrier(team)  # dx: rows
    embedding_backward(grads.wte, grads.wpe, dx, tokens, starts, team)


@composition
def gpt2_loss_and_gradient(  # type: ignore[no-untyped-def]
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
    gpt2_forward(hyper, params, acts, tokens, starts, key, team)
    norm, flat = acts.norm[2 * params.ln_1_w.shape[0]], targets.reshape(targets.size)
    head = params.wte if hyper.tied else params.head_w
    d_head = grads.wte if hyper.tied else grads.head_w
    no_bias = params.ln_f_w[:0]
    loss, penalty = head_loss_and_gradient(
        *(hyper.engine, acts, acts.dnorm, d_head, no_bias, norm, head, no_bias),
        *(flat, inverse_n_targets, terms, adds, backward, team),
    )
    if backward:
        gpt2_backward(hyper, params, grads, acts, tokens, starts, key, adds, team)
    return loss, penalty


class Workspace(NamedTuple):
    """Activations of a team and one member's numbers for the two ways to run it."""

    acts: Activations
    training: Hyper
    evaluating: Hyper


@models.register("gpt2")
class GPT2(Model):
    """GPT-2 of any size; see the module's first lines for the equations."""

    Config = GPT2Config
    Params = Params

    @property
    def stored(self) -> frozenset[str]:  # type: ignore[override]
        head = "wte" if self.config.tie_embeddings else "head_w"
        return frozenset({"attn_w", "attn_proj_w", "fc_w", "fc_proj_w", head})

    def make_specs(self) -> tuple[ParamSpec, ...]:
        c, n_layer, n_vocab = self.config.n_embd, self.config.n_layer, self.n_vocab
        f = 4 * c
        n_bias = 1 if self.config.bias else 0
        std = self.config.init_std
        std_residual = std / math.sqrt(2 * n_layer)

        def weight(field: str, name: str, *shape: int, init: float = std) -> ParamSpec:
            return ParamSpec(field, name, shape, init, decay=True)

        sinusoidal = self.config.position_init == "sinusoidal"
        positions = ParamSpec(
            "wpe",
            "wpe.weight",
            (self.config.context, c),
            POSITION_AMPLITUDE if sinusoidal else std,
            kind="sinusoidal" if sinusoidal else "normal",
            decay=True,
            table=True,
        )

        def table(field: str, name: str, *shape: int) -> ParamSpec:
            return ParamSpec(field, name, shape, std, decay=True, table=True)

        def norm(field: str, name: str, *shape: int) -> ParamSpec:
            return ParamSpec(field, name, shape, 1.0, kind="constant")

        def bias(field: str, name: str, *shape: int) -> ParamSpec:
            return ParamSpec(field, name, (*shape[:-1], shape[-1] * n_bias), 0.0, kind="constant")

        return (
            table("wte", "wte.weight", n_vocab, c),
            positions,
            norm("ln_1_w", "h.{}.ln_1.weight", n_layer, c),
            bias("ln_1_b", "h.{}.ln_1.bias", n_layer, c),
            weight("attn_w", "h.{}.attn.c_attn.weight", n_layer, 3 * c, c),
            bias("attn_b", "h.{}.attn.c_attn.bias", n_layer, 3 * c),
            weight("attn_proj_w", "h.{}.attn.c_proj.weight", n_layer, c, c, init=std_residual),
            bias("attn_proj_b", "h.{}.attn.c_proj.bias", n_layer, c),
            norm("ln_2_w", "h.{}.ln_2.weight", n_layer, c),
            bias("ln_2_b", "h.{}.ln_2.bias", n_layer, c),
            weight("fc_w", "h.{}.mlp.c_fc.weight", n_layer, f, c),
            bias("fc_b", "h.{}.mlp.c_fc.bias", n_layer, f),
            weight("fc_proj_w", "h.{}.mlp.c_proj.weight", n_layer, c, f, init=std_residual),
            bias("fc_proj_b", "h.{}.mlp.c_proj.bias", n_layer, c),
            norm("ln_f_w", "ln_f.weight", c),
            bias("ln_f_b", "ln_f.bias", c),
            table("head_w", "lm_head.weight", 0 if self.config.tie_embeddings else n_vocab, c),
        )

    def _shapes(self, n_sequences: int, n_time: int, n_members: int) -> dict[str, tuple[int, ...]]:
        c, n_layer, n_head = self.config.n_embd, self.config.n_layer, self.config.n_head
        n, f = n_sequences * n_time, 4 * c
        return {
            "x": (2 * n_layer + 1, n, c),
            "norm": (2 * n_layer + 1, n, c),
            "mean": (2 * n_layer + 1, n),
            "rstd": (2 * n_layer + 1, n),
            "qkv": (n_layer, n, 3 * c),
            "row_stats": (n_layer, n_sequences, n_head, n_time, 2),
            "att": (n_layer, n, c),
            "fc": (n_layer if self.config.activation == "relu" else 1, n, f),
            "act": (n_layer, n, f),
            "slope": (n_layer, n, f),
            "logits": (tile_rows(n, self.n_vocab), self.n_vocab),
            "logp": (n,),
            "dlogp": (n,),
            "log_sum": (n,),
            "added": (n,),
            "branch": (n, c),
            "dx": (n, c),
            "dnorm": (n, c),
            "dqkv": (n, 3 * c),
            "dact": (n, f),
            "dfc": (n, f),
            "scratch": (n_members, 2, BLOCK, n_time),
            "partial": (n_members - 1, 2, c),
        }

    def hyper(self, engine: MatmulEngine, training: bool) -> Hyper:
        """The numbers that compiled code needs; nothing is dropped but in training."""
        config = self.config
        sites = config.dropout_sites() if training else NO_DROPOUT
        depth = config.depth() if training else NO_DEPTH
        kind = ACTIVATIONS[config.activation]
        return Hyper(engine, config.n_head, kind, config.tie_embeddings, sites, depth)

    def workspaces(
        self, n_sequences: int, n_time: int, dtype: npt.DTypeLike, engines: Sequence[MatmulEngine]
    ) -> list[Workspace]:
        shapes = self._shapes(n_sequences, n_time, len(engines))
        acts = Activations(*allocate(shapes, dtype))
        return [Workspace(acts, self.hyper(e, True), self.hyper(e, False)) for e in engines]

    def workspace_bytes(
        self, n_sequences: int, n_time: int, itemsize: int, n_members: int = 1
    ) -> int:
        return bytes_of(self._shapes(n_sequences, n_time, n_members), itemsize)

    def loss_and_gradient(
        self,
        params: Any,
        grads: Any,
        acts: Workspace,
        tokens: Array,
        targets: Array,
        inverse_n_targets: float,
        key: MaskKey,
        team: Team = ALONE,
        terms: LogitTerms = NO_TERMS,
        adds: bool = True,
        starts: Array = ONE_DOCUMENT,
    ) -> Losses:
        return Losses(
            *gpt2_loss_and_gradient(
                *(acts.training, params, grads, acts.acts, tokens, targets, starts),
                *(key, inverse_n_targets, terms, adds, True, team),
            )
        )

    def loss(
        self,
        params: Any,
        acts: Workspace,
        tokens: Array,
        targets: Array,
        team: Team = ALONE,
        terms: LogitTerms = NO_TERMS,
        starts: Array = ONE_DOCUMENT,
    ) -> float:
        return float(
            sum(
                gpt2_loss_and_gradient(
                    *(acts.evaluating, params, params, acts.acts, tokens, targets, starts),
                    *(NO_KEY, 1.0, terms, True, False, team),
                )
            )
        )

    def token_logprobs(self, acts: Workspace) -> Array:
        return acts.acts.logp

    def decoder_bytes(self, n_sequences: int) -> int:
        scratch = sum(bytes_of(shapes, 4) for shapes in scratch_shapes(self))
        cache = math.prod(page_shape(self, n_sequences))
        return scratch + 4 * (cache + n_sequences * self.n_vocab)

    def intermediates(self, workspace: Workspace) -> list[tuple[str, Array]]:
        return gpt2_intermediates(workspace.acts)

    def relu_inputs(self, workspace: Workspace) -> Array | None:
        return workspace.acts.fc if self.config.activation == "relu" else None

    def decoder(self, params: Any, capacity: int, workers: Workers) -> GPT2Decoder:
        return GPT2Decoder(self, params, capacity, workers)

    def operations(
        self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
    ) -> list[Operation]:
        return gpt2_operations(self, n_sequences, n_time, terms)

    @classmethod
    def references(cls) -> list[Reference]:
        return [
            Reference(cls(GPT2Config(**size, **variant), n_vocab), n, whole=variant == VARIANTS[0])
            for size, n_vocab, n in SIZES
            for variant in VARIANTS[: 1 if size["n_embd"] > LARGEST_VARIANT else None]
        ]

    def flops_per_token(self, n_time: int) -> float:
        n_weights = self.n_parameters - self.config.context * self.config.n_embd
        return 6.0 * n_weights + 12.0 * self.config.n_layer * self.config.n_embd * n_time
