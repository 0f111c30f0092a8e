"""GPT-2: a pre-norm transformer decoder with learned positions and a tied head.

    x = dropout(wte[token] + wpe[t])
    x = x + drop(c_proj(attention(c_attn(ln_1(x)))))            for each layer
    x = x + drop(c_proj(dropout(act(c_fc(ln_2(x))))))
    logits = ln_f(x) head^T,  head = wte when tied

A linear map has an adapter beside it where there is one (``adapters.py``).

``drop`` is dropout, then stochastic depth; attention has a dropout of its own.

Sources: Radford et al. 2019, "Language models are unsupervised multitask learners"; the
initialisation (0.02, residual projections scaled by 1 / sqrt(2 L)) is theirs too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from bptool.models import gpt2_operations as kernels
from bptool.models.base import Array, Losses, Model, ParamSpec, Reference, allocate, bytes_of
from bptool.models.decoder import Workers
from bptool.models.gpt2_config import NO_DEPTH, NO_DROPOUT, Depth, Dropout, GPT2Config
from bptool.models.gpt2_decode import GPT2Decoder, page_shape, scratch_shapes
from bptool.models.gpt2_tensors import Activations, Params, gpt2_shapes, gpt2_specs
from bptool.models.head_loss import (
    head_logprobs,
    head_logprobs_backward,
    head_loss_and_gradient,
)
from bptool.models.operation import Operation
from bptool.ops.activations import ACTIVATIONS, activation_backward, activation_forward
from bptool.ops.attention import attention_backward, attention_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.jit import composition
from bptool.ops.layernorm import layernorm_backward_share, layernorm_forward
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.low_rank import low_rank_backward, low_rank_forward
from bptool.ops.matmul import MatmulEngine
from bptool.ops.residual import residual_backward, residual_forward
from bptool.ops.score import score_backward, score_forward
from bptool.ops.stochastic_depth import depth_rate, stochastic_depth
from bptool.ops.team import ALONE, Team, barrier, share
from bptool.registry import models


class Hyper(NamedTuple):
    """Numbers that compiled code needs."""

    engine: MatmulEngine
    n_head: int
    activation: int
    tied: bool
    dropout: Dropout
    depth: Depth
    low_rank: float


NO_KEY = MaskKey(0, 0, 0)


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
        low_rank_forward(
            *(engine, acts.qkv[layer], acts.low[0, layer], norm[i], params.attn_down[layer]),
            *(params.attn_up[layer], hyper.low_rank, team),
        )
        barrier(team)  # qkv: columns
        attention_forward(
            *(engine, acts.att[layer], acts.row_stats[layer], acts.scratch[team.index]),
            *(acts.qkv[layer], starts, p.attention, key, 3 * layer + 1, first_job, stop_job),
        )
        barrier(team)  # att: heads
        attn_proj_w, attn_proj_b = params.attn_proj_w[layer], params.attn_proj_b[layer]
        linear_forward(engine, branch, acts.att[layer], attn_proj_w, attn_proj_b, team)
        low_rank_forward(
            *(engine, branch, acts.low[1, layer], acts.att[layer], params.attn_proj_down[layer]),
            *(params.attn_proj_up[layer], hyper.low_rank, team),
        )
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
        low_rank_forward(
            *(engine, fc, acts.low[2, layer], norm[i], params.fc_down[layer]),
            *(params.fc_up[layer], hyper.low_rank, team),
        )
        barrier(team)  # fc: columns
        activation_forward(hyper.activation, acts.act[layer][own], acts.slope[layer][own], fc[own])
        dropout(acts.act[layer][own], p.hidden, key, 3 * n_layer + 1 + layer, row0)
        barrier(team)  # act: rows
        fc_proj_w, fc_proj_b = params.fc_proj_w[layer], params.fc_proj_b[layer]
        linear_forward(engine, branch, acts.act[layer], fc_proj_w, fc_proj_b, team)
        low_rank_forward(
            *(engine, branch, acts.low[3, layer], acts.act[layer], params.fc_proj_down[layer]),
            *(params.fc_proj_up[layer], hyper.low_rank, team),
        )
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
        low_rank_backward(
            *(engine, acts.dact, grads.fc_proj_down[layer], grads.fc_proj_up[layer], acts.dlow),
            *(branch, acts.act[layer], acts.low[3, layer], params.fc_proj_down[layer]),
            *(params.fc_proj_up[layer], hyper.low_rank, adds, team),
        )
        barrier(team)  # dact: columns
        dropout(acts.dact[own], p.hidden, key, 3 * n_layer + 1 + layer, row0)
        activation_backward(acts.dfc[own], acts.dact[own], acts.slope[layer][own])
        barrier(team)  # dfc: rows
        linear_backward(
            *(engine, dnorm, grads.fc_w[layer], grads.fc_b[layer]),
            *(acts.dfc, norm[i], params.fc_w[layer], adds, team),
        )
        low_rank_backward(
            *(engine, dnorm, grads.fc_down[layer], grads.fc_up[layer], acts.dlow),
            *(acts.dfc, norm[i], acts.low[2, layer], params.fc_down[layer]),
            *(params.fc_up[layer], hyper.low_rank, adds, team),
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
        low_rank_backward(
            *(engine, dnorm, grads.attn_proj_down[layer], grads.attn_proj_up[layer], acts.dlow),
            *(branch, acts.att[layer], acts.low[1, layer], params.attn_proj_down[layer]),
            *(params.attn_proj_up[layer], hyper.low_rank, adds, team),
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
        low_rank_backward(
            *(engine, dnorm, grads.attn_down[layer], grads.attn_up[layer], acts.dlow),
            *(acts.dqkv, norm[i], acts.low[0, layer], params.attn_down[layer]),
            *(params.attn_up[layer], hyper.low_rank, adds, team),
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


@composition
def gpt2_token_pass(  # type: ignore[no-untyped-def]
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
    used. One function for both, as for ``gpt2_loss_and_gradient``."""
    norm, flat = acts.norm[2 * params.ln_1_w.shape[0]], targets.reshape(targets.size)
    head = params.wte if hyper.tied else params.head_w
    d_head = grads.wte if hyper.tied else grads.head_w
    scored = params.score_w.size > 0
    first, stop = share(tokens.size, 1, team)
    own = slice(first, stop)
    barrier(team)  # the last call has read the activations, and the gradients are cleared
    if forward:
        gpt2_forward(hyper, params, acts, tokens, starts, key, team)
        if of_logp:
            head_logprobs(hyper.engine, acts, norm, head, params.ln_f_w[:0], flat, team)
        if scored:
            score_forward(acts.score[own], norm[own], params.score_w, params.score_b)
        barrier(team)  # logp, score: rows
    if backward:
        if of_logp:
            head_logprobs_backward(
                *(hyper.engine, acts, acts.dnorm, d_head, params.ln_f_w[:0]),
                *(norm, head, params.ln_f_w[:0], flat, dlogp, adds, team),
            )
        else:
            acts.dnorm[own] = acts.dnorm.dtype.type(0.0)
            if not adds:
                first, stop = share(d_head.shape[0], 1, team)
                d_head[first:stop] = d_head.dtype.type(0.0)
        if scored:
            barrier(team)  # dnorm: a product
            score_backward(
                *(acts.dnorm, grads.score_w, grads.score_b),
                *(dscore, norm, params.score_w, team),
            )
        gpt2_backward(hyper, params, grads, acts, tokens, starts, key, adds, team)


class Workspace(NamedTuple):
    """Activations of a team and one member's numbers for the two ways to run it."""

    acts: Activations
    training: Hyper
    evaluating: Hyper


@models.register("gpt2-old")
class GPT2(Model):
    """GPT-2 of any size; see the module's first lines for the equations."""

    Config = GPT2Config
    Params = Params
    rank, low_rank = 0, 0.0

    @property
    def stored(self) -> frozenset[str]:  # type: ignore[override]
        head = "wte" if self.config.tie_embeddings else "head_w"
        maps = ("attn", "attn_proj", "fc", "fc_proj")
        return frozenset({head, *(f"{m}_{part}" for m in maps for part in ("w", "down", "up"))})

    def make_specs(self) -> tuple[ParamSpec, ...]:
        return gpt2_specs(self.config, self.n_vocab)

    def _shapes(self, n_sequences: int, n_time: int, n_members: int) -> dict[str, tuple[int, ...]]:
        sizes = n_sequences, n_time, n_members
        return gpt2_shapes(self.config, self.n_vocab, *sizes, self.rank)

    def hyper(self, engine: MatmulEngine, training: bool) -> Hyper:
        """The numbers that compiled code needs; nothing is dropped but in training."""
        config = self.config
        sites = config.dropout_sites() if training else NO_DROPOUT
        depth = config.depth() if training else NO_DEPTH
        kind = ACTIVATIONS[config.activation]
        return Hyper(
            engine, config.n_head, kind, config.tie_embeddings, sites, depth, self.low_rank
        )

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

    def forward_tokens(
        self,
        params: Any,
        acts: Workspace,
        tokens: Array,
        targets: Array,
        key: MaskKey | None,
        team: Team = ALONE,
        starts: Array = ONE_DOCUMENT,
        of_logp: bool = True,
    ) -> None:
        hyper = acts.evaluating if key is None else acts.training
        none = acts.acts.dlogp
        gpt2_token_pass(
            *(hyper, params, params, acts.acts, tokens, targets, starts, key or NO_KEY),
            *(none, none, True, False, of_logp, True, team),
        )

    def backward_tokens(
        self,
        params: Any,
        grads: Any,
        acts: Workspace,
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
        gpt2_token_pass(
            *(acts.training, params, grads, acts.acts, tokens, targets, starts, key),
            *(dlogp, dscores, False, True, of_logp, adds, team),
        )

    def token_logprobs(self, acts: Workspace) -> Array:
        return acts.acts.logp

    def token_scores(self, acts: Workspace) -> Array:
        return acts.acts.score

    @property
    def has_scores(self) -> bool:
        return bool(self.config.score_head)

    def decoder_bytes(self, n_sequences: int) -> int:
        scratch = sum(bytes_of(shapes, 4) for shapes in scratch_shapes(self))
        cache = math.prod(page_shape(self, n_sequences))
        return scratch + 4 * (cache + n_sequences * self.n_vocab)

    def intermediates(self, workspace: Workspace) -> list[tuple[str, Array]]:
        return kernels.gpt2_intermediates(workspace.acts)

    def relu_inputs(self, workspace: Workspace) -> Array | None:
        return workspace.acts.fc if self.config.activation == "relu" else None

    def decoder(self, params: Any, capacity: int, workers: Workers) -> GPT2Decoder:
        return GPT2Decoder(self, params, capacity, workers)

    def operations(
        self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
    ) -> list[Operation]:
        return kernels.gpt2_operations(self, n_sequences, n_time, terms)

    @classmethod
    def references(cls) -> list[Reference]:
        return kernels.gpt2_references(cls)

    def flops_per_token(self, n_time: int) -> float:
        n_weights = self.n_parameters - self.config.context * self.config.n_embd
        return 6.0 * n_weights + 12.0 * self.config.n_layer * self.config.n_embd * n_time
