"""The arrays of GPT-2: parameters, with their names and where they start, and activations."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from bptool.models.base import Array, ParamSpec
from bptool.models.gpt2_config import GPT2Config
from bptool.ops.attention import BLOCK
from bptool.ops.head import tile_rows

POSITION_AMPLITUDE = 0.1
"""Of sinusoidal initial positions; 0.2 did no better."""


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
    score_w: Array  # (C,), or (0,) without a scalar head
    score_b: Array  # (1,) or (0,)
    attn_down: Array  # (L, r, C), or (L, 0, C) without an adapter, as for the others
    attn_up: Array  # (L, 3C, r)
    attn_proj_down: Array  # (L, r, C)
    attn_proj_up: Array  # (L, C, r)
    fc_down: Array  # (L, r, C)
    fc_up: Array  # (L, F, r)
    fc_proj_down: Array  # (L, r, F)
    fc_proj_up: Array  # (L, C, r)


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
    score: Array  # (N,) of the scalar head
    branch: Array  # (N, C) scratch: what is about to be added to the stream
    dx: Array  # (N, C) gradient of the residual stream
    dnorm: Array  # (N, C)
    dqkv: Array  # (N, 3C)
    dact: Array  # (N, F)
    dfc: Array  # (N, F)
    scratch: Array  # (members, 2, BLOCK, T) for attention
    partial: Array  # (members, 2, C) sums of a norm's gradients
    low: Array  # (4, L, N, r) inside the adapters, in the order of their maps
    dlow: Array  # (N, r)


def gpt2_specs(
    config: GPT2Config, n_vocab: int, rank: int = 0, targets: Collection[str] = ()
) -> tuple[ParamSpec, ...]:
    """The tensors in the order of :class:`Params`; the maps named by ``targets`` have adapters of
    ``rank``, which add nothing at first: A starts at random, B at 0."""
    c, n_layer = config.n_embd, config.n_layer
    f = 4 * c
    n_bias = 1 if config.bias else 0
    std = config.init_std
    std_residual = std / math.sqrt(2 * n_layer)

    def weight(field: str, name: str, *shape: int, init: float = std) -> ParamSpec:
        return ParamSpec(field, name, shape, init, decay=True)

    sinusoidal = config.position_init == "sinusoidal"
    positions = ParamSpec(
        "wpe",
        "wpe.weight",
        (config.context, c),
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

    def adapter(field: str, name: str, n_out: int, n_in: int) -> tuple[ParamSpec, ParamSpec]:
        r, tensor = rank if name in targets else 0, f"h.{{}}.{name}.lora"
        return (
            weight(f"{field}_down", f"{tensor}_a", n_layer, r, n_in, init=1 / math.sqrt(n_in)),
            ParamSpec(f"{field}_up", f"{tensor}_b", (n_layer, n_out, r), 0.0, "constant", True),
        )

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
        table("head_w", "lm_head.weight", 0 if config.tie_embeddings else n_vocab, c),
        weight("score_w", "score.weight", c if config.score_head else 0, init=0.0),
        ParamSpec("score_b", "score.bias", (int(config.score_head),), 0.0, "constant"),
        *adapter("attn", "attn.c_attn", 3 * c, c),
        *adapter("attn_proj", "attn.c_proj", c, c),
        *adapter("fc", "mlp.c_fc", f, c),
        *adapter("fc_proj", "mlp.c_proj", c, f),
    )


def gpt2_shapes(
    config: GPT2Config,
    n_vocab: int,
    n_sequences: int,
    n_time: int,
    n_members: int,
    rank: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Shapes of :class:`Activations`, in order."""
    c, n_layer, n_head = config.n_embd, config.n_layer, config.n_head
    n, f = n_sequences * n_time, 4 * c
    return {
        "x": (2 * n_layer + 1, n, c),
        "norm": (2 * n_layer + 1, n, c),
        "mean": (2 * n_layer + 1, n),
        "rstd": (2 * n_layer + 1, n),
        "qkv": (n_layer, n, 3 * c),
        "row_stats": (n_layer, n_sequences, n_head, n_time, 2),
        "att": (n_layer, n, c),
        "fc": (n_layer if config.activation == "relu" else 1, n, f),
        "act": (n_layer, n, f),
        "slope": (n_layer, n, f),
        "logits": (tile_rows(n, n_vocab), n_vocab),
        "logp": (n,),
        "dlogp": (n,),
        "log_sum": (n,),
        "added": (n,),
        "score": (n,),
        "branch": (n, c),
        "dx": (n, c),
        "dnorm": (n, c),
        "dqkv": (n, 3 * c),
        "dact": (n, f),
        "dfc": (n, f),
        "scratch": (n_members, 2, BLOCK, n_time),
        "partial": (n_members, 2, c),
        "low": (4, n_layer, n, rank),
        "dlow": (n, rank),
    }
