"""The neural probabilistic language model: a feed-forward network over a window of words.

    h_0 = dropout(E[token[t-W+1]], ..., E[token[t]])
    h_i = dropout(act(W_i h_{i-1} + b_i))       for each hidden layer
    logits = U h + c

Source: Bengio, Ducharme, Vincent, Jauvin 2003, JMLR 3, without its optional direct connections.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from bptool.config.section import Section
from bptool.models.base import Array, CompiledModel, ParamSpec, Reference, Workspace
from bptool.models.decoder import Workers
from bptool.models.head_loss import head_loss_and_gradient
from bptool.models.mlp_decode import MLPDecoder
from bptool.models.mlp_operations import SIZES, VARIANTS, mlp_intermediates, mlp_operations
from bptool.models.operation import Operation
from bptool.ops.activations import ACTIVATIONS, activation_backward, activation_forward
from bptool.ops.dropout import dropout
from bptool.ops.head import tile_rows
from bptool.ops.jit import composition
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import (
    NO_TERMS,
    LogitTerms,
)
from bptool.ops.matmul import MatmulEngine
from bptool.ops.team import barrier, share
from bptool.ops.window import window_backward, window_forward
from bptool.registry import models

_GAIN = {"tanh": 5 / 3, "sigmoid": 1.0, "relu": math.sqrt(2), "gelu": math.sqrt(2)}


class Dropout(NamedTuple):
    """Probabilities by site, as compiled code takes them."""

    embedding: float
    hidden: float


NO_DROPOUT = Dropout(0.0, 0.0)


class MLPDropoutSites(Section):
    """Dropout probability at each place of the feed-forward model."""

    embedding: float = Field(0.0, ge=0, lt=1, description="on the window of embeddings")
    hidden: float = Field(0.0, ge=0, lt=1, description="after each hidden layer")


class MLPConfig(Section):
    """Size and options of the feed-forward model."""

    window: int = Field(8, ge=1, le=4096, description="how many tokens the prediction looks at")
    n_embd: int = Field(24, ge=1, le=65536, description="width of a token's embedding")
    n_hidden: int = Field(128, ge=1, le=65536, description="width of every hidden layer")
    n_layer: int = Field(1, ge=1, le=1000, description="hidden layers")
    context: int = Field(64, ge=1, le=1_000_000, description="tokens a training sequence has")
    activation: Literal["tanh", "sigmoid", "relu", "gelu"] = Field("tanh", description="hidden")
    dropout: Annotated[float, Field(ge=0, lt=1)] | MLPDropoutSites = Field(
        0.0,
        description="one probability for the embeddings and the hidden layers, or a section with "
        "one for each",
    )

    def dropout_sites(self) -> Dropout:
        """The probability at each site."""
        if isinstance(self.dropout, MLPDropoutSites):
            return Dropout(**self.dropout.model_dump())
        return Dropout(self.dropout, self.dropout)


class Params(NamedTuple):
    """Parameters (or gradients); hidden layers after the first are stacked."""

    embedding: Array  # (V+1, E), the last row for positions before the start
    input_w: Array  # (F, W*E)
    input_b: Array  # (F,)
    hidden_w: Array  # (L-1, F, F)
    hidden_b: Array  # (L-1, F)
    output_w: Array  # (V, F)
    output_b: Array  # (V,)


class Activations(NamedTuple):
    """What the forward saves for the backward, and scratch, of one team; N = B*T rows."""

    x: Array  # (N, W*E)
    pre: Array  # (L, N, F) before the activation
    slope: Array  # (L, N, F) of the activation
    hidden: Array  # (L, N, F) after activation and dropout
    logits: Array  # (R, V) of a tile of rows, overwritten by their gradient
    logp: Array  # (N,)
    dlogp: Array  # (N,)
    log_sum: Array  # (N,)
    added: Array  # (N,) to each row's loss, by label smoothing and z-loss
    dx: Array  # (N, W*E)
    dhidden: Array  # (N, F)
    dpre: Array  # (N, F)


class Hyper(NamedTuple):
    """Numbers that compiled code needs."""

    engine: MatmulEngine
    activation: int
    dropout: Dropout


@composition
def mlp_forward(hyper, params, acts, tokens, starts, key, team):  # type: ignore[no-untyped-def]
    """Fill ``acts`` up to the last hidden layer, of which each member has rows.

    What goes row by row stays with the member that owns the rows.
    """
    n_layer = acts.pre.shape[0]
    first, stop = share(tokens.size, 1, team)
    own = slice(first, stop)
    row0 = key.sequence0 * tokens.shape[1] + first
    window_forward(acts.x, tokens, starts, params.embedding, team)
    dropout(acts.x[own], hyper.dropout.embedding, key, 0, row0)
    barrier(team)  # x: rows
    for layer in range(n_layer):
        pre, hidden = acts.pre[layer], acts.hidden[layer]
        if layer == 0:
            linear_forward(hyper.engine, pre, acts.x, params.input_w, params.input_b, team)
        else:
            w, b = params.hidden_w[layer - 1], params.hidden_b[layer - 1]
            linear_forward(hyper.engine, pre, acts.hidden[layer - 1], w, b, team)
        barrier(team)  # pre: a product
        activation_forward(hyper.activation, hidden[own], acts.slope[layer][own], pre[own])
        dropout(hidden[own], hyper.dropout.hidden, key, layer + 1, row0)
        barrier(team)  # hidden: rows


@composition
def mlp_backward(hyper, params, grads, acts, tokens, starts, key, adds, team):  # type: ignore[no-untyped-def]
    """Undo the forward from the last hidden layer, whose gradient ``acts.dhidden`` holds, to the
    first operation. Each member has made its part of it."""
    n_layer = acts.pre.shape[0]
    first, stop = share(tokens.size, 1, team)
    own = slice(first, stop)
    row0 = key.sequence0 * tokens.shape[1] + first
    engine, dhidden, dpre = hyper.engine, acts.dhidden, acts.dpre
    for layer in range(n_layer - 1, -1, -1):
        barrier(team)  # dhidden: a product; and dpre has been read
        dropout(dhidden[own], hyper.dropout.hidden, key, layer + 1, row0)
        activation_backward(dpre[own], dhidden[own], acts.slope[layer][own])
        barrier(team)  # dpre: rows
        if layer > 0:
            linear_backward(
                *(engine, dhidden, grads.hidden_w[layer - 1], grads.hidden_b[layer - 1]),
                *(dpre, acts.hidden[layer - 1], params.hidden_w[layer - 1], adds, team),
            )
    linear_backward(
        *(engine, acts.dx, grads.input_w, grads.input_b),
        *(dpre, acts.x, params.input_w, adds, team),
    )
    barrier(team)  # dx: a product
    dropout(acts.dx[own], hyper.dropout.embedding, key, 0, row0)
    barrier(team)  # dx: rows
    window_backward(grads.embedding, acts.dx, tokens, starts, team)


@composition
def mlp_loss_and_gradient(  # type: ignore[no-untyped-def]
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

    Without ``backward`` it ends at the loss, and ``grads`` may be anything of its type.
    """
    barrier(team)  # the last call has read the activations, and the gradients are cleared
    mlp_forward(hyper, params, acts, tokens, starts, key, team)
    last, flat = acts.hidden[acts.hidden.shape[0] - 1], targets.reshape(targets.size)
    loss, penalty = head_loss_and_gradient(
        *(hyper.engine, acts, acts.dhidden, grads.output_w, grads.output_b),
        *(last, params.output_w, params.output_b, flat),
        *(inverse_n_targets, terms, adds, backward, team),
    )
    if backward:
        mlp_backward(hyper, params, grads, acts, tokens, starts, key, adds, team)
    return loss, penalty


@models.register("mlp")
class MLP(CompiledModel):
    """The feed-forward model; see the module's first lines for the equations."""

    Config = MLPConfig
    Params = Params
    stored = frozenset({"input_w", "hidden_w", "output_w"})
    compiled_step = staticmethod(mlp_loss_and_gradient)

    def make_specs(self) -> tuple[ParamSpec, ...]:
        c = self.config
        n_in = c.window * c.n_embd
        gain = _GAIN[c.activation]
        hidden = (c.n_layer - 1, c.n_hidden)

        def weight(field: str, name: str, init: float, *shape: int) -> ParamSpec:
            return ParamSpec(field, name, shape, init, decay=True)

        def table(field: str, name: str, init: float, *shape: int) -> ParamSpec:
            return ParamSpec(field, name, shape, init, decay=True, table=True)

        def bias(field: str, name: str, *shape: int) -> ParamSpec:
            return ParamSpec(field, name, shape, 0.0, kind="constant")

        root = math.sqrt(c.n_hidden)
        return (
            table("embedding", "embedding.weight", 1.0, self.n_vocab + 1, c.n_embd),
            weight("input_w", "input.weight", gain / math.sqrt(n_in), c.n_hidden, n_in),
            bias("input_b", "input.bias", c.n_hidden),
            weight("hidden_w", "hidden.{}.weight", gain / root, *hidden, c.n_hidden),
            bias("hidden_b", "hidden.{}.bias", *hidden),
            table("output_w", "output.weight", 0.1 / root, self.n_vocab, c.n_hidden),
            bias("output_b", "output.bias", self.n_vocab),
        )

    def shapes(self, n_sequences: int, n_time: int, n_members: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        n, n_in, f = n_sequences * n_time, c.window * c.n_embd, c.n_hidden
        return {
            "x": (n, n_in),
            **dict.fromkeys(("pre", "slope", "hidden"), (c.n_layer, n, f)),
            "logits": (tile_rows(n, self.n_vocab), self.n_vocab),
            **dict.fromkeys(("logp", "dlogp", "log_sum", "added"), (n,)),
            **{"dx": (n, n_in), "dhidden": (n, f), "dpre": (n, f)},
        }

    def activations(self, arrays: dict[str, Array]) -> Activations:
        return Activations(**arrays)

    def hyper(self, engine: MatmulEngine, training: bool) -> Hyper:
        kind, p = ACTIVATIONS[self.config.activation], self.config.dropout_sites()
        return Hyper(engine, kind, p if training else NO_DROPOUT)

    @property
    def drops(self) -> bool:
        return max(self.config.dropout_sites()) > 0

    def intermediates(self, workspace: Workspace) -> list[tuple[str, Array]]:
        return mlp_intermediates(workspace.acts)

    def relu_inputs(self, workspace: Workspace) -> Array | None:
        return workspace.acts.pre if self.config.activation == "relu" else None

    def decoder(self, params: Any, capacity: int, workers: Workers) -> MLPDecoder:
        return MLPDecoder(self, params, capacity)

    def operations(
        self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
    ) -> list[Operation]:
        return mlp_operations(self, n_sequences, n_time, terms)

    @classmethod
    def references(cls) -> list[Reference]:
        return [
            Reference(cls(MLPConfig(**size, **variant), n_vocab), n, whole=variant == VARIANTS[0])
            for size, n_vocab, n in SIZES
            for variant in VARIANTS
        ]

    def flops_per_token(self, n_time: int) -> float:
        embedding = (self.n_vocab + 1) * self.config.n_embd
        return 6.0 * (self.n_parameters - embedding)
