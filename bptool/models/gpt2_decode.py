"""Decoding with GPT-2: the forward over new positions only, with a cache of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptool.models.base import Array, allocate
from bptool.ops.activations import activation_forward
from bptool.ops.attention import attention_decode
from bptool.ops.embedding import embedding_forward
from bptool.ops.jit import kernel
from bptool.ops.layernorm import layernorm_forward
from bptool.ops.linear import linear_forward
from bptool.ops.matmul import MatmulEngine, matmul
from bptool.ops.memory import aligned_zeros
from bptool.ops.team import ALONE

if TYPE_CHECKING:
    from bptool.models.gpt2 import GPT2, Params


class Cache(NamedTuple):
    """Keys and values of the positions so far, and scratch for B*n_new rows."""

    keys: Array  # (L, B, context, C)
    values: Array  # (L, B, context, C)
    x: Array  # (rows, C)
    norm: Array  # (rows, C)
    mean: Array  # (rows,)
    rstd: Array  # (rows,)
    qkv: Array  # (rows, 3C)
    att: Array  # (rows, C)
    fc: Array  # (rows, F)
    branch: Array  # (rows, C)
    scores: Array  # (context,)
    last: Array  # (B, C)
    logits: Array  # (B, V)


@kernel
def gpt2_decode(hyper, params, cache, tokens, position0, team):  # type: ignore[no-untyped-def]
    """Append ``tokens`` (B, n_new) at ``position0``; logits of the last position of each row.

    For a team of one."""
    n_batch, n_new = tokens.shape
    n_head = hyper.n_head
    engine = hyper.engine
    x, norm, branch = cache.x, cache.norm, cache.branch
    embedding_forward(x, tokens, params.wte, params.wpe, position0, team)
    for layer in range(params.ln_1_w.shape[0]):
        ln_1_w, ln_1_b = params.ln_1_w[layer], params.ln_1_b[layer]
        layernorm_forward(norm, cache.mean, cache.rstd, x, ln_1_w, ln_1_b)
        linear_forward(engine, cache.qkv, norm, params.attn_w[layer], params.attn_b[layer], team)
        attention_decode(
            *(cache.att, cache.keys[layer], cache.values[layer], cache.qkv),
            *(n_head, position0, n_new, cache.scores),
        )
        attn_proj_w, attn_proj_b = params.attn_proj_w[layer], params.attn_proj_b[layer]
        linear_forward(engine, branch, cache.att, attn_proj_w, attn_proj_b, team)
        x += branch
        ln_2_w, ln_2_b = params.ln_2_w[layer], params.ln_2_b[layer]
        layernorm_forward(norm, cache.mean, cache.rstd, x, ln_2_w, ln_2_b)
        linear_forward(engine, cache.fc, norm, params.fc_w[layer], params.fc_b[layer], team)
        activation_forward(hyper.activation, cache.fc, cache.fc)
        fc_proj_w, fc_proj_b = params.fc_proj_w[layer], params.fc_proj_b[layer]
        linear_forward(engine, branch, cache.fc, fc_proj_w, fc_proj_b, team)
        x += branch
    layernorm_forward(norm, cache.mean, cache.rstd, x, params.ln_f_w, params.ln_f_b)
    for i in range(n_batch):
        cache.last[i] = norm[i * n_new + n_new - 1]
    head = params.wte if hyper.tied else params.head_w
    matmul(engine, cache.logits, cache.last, False, head, True, False)


class GPT2Decoder:
    """Incremental decoding with a cache of keys and values.

    Args:
        model: the model. params: its parameters. n_sequences: decoded side by side.
        engine: matrix engine.
    """

    def __init__(self, model: GPT2, params: Params, n_sequences: int, engine: MatmulEngine) -> None:
        config = model.config
        self._model, self._params, self._n = model, params, n_sequences
        self._hyper = model.hyper(engine, training=False)
        self.position = 0
        shape = (config.n_layer, n_sequences, config.context, config.n_embd)
        self._keys = aligned_zeros(shape, params.wte.dtype)
        self._values = aligned_zeros(shape, params.wte.dtype)
        self._cache: Cache | None = None

    @property
    def room(self) -> int:
        """How many more positions fit."""
        return int(self._model.config.context) - self.position

    def reset(self) -> None:
        """Forget every position."""
        self.position = 0

    def append(self, tokens: Array) -> Array:
        """Process (n_sequences, t) more tokens at once; logits (n_sequences, V) after the last."""
        n_new = tokens.shape[1]
        rows = self._n * n_new
        if self._cache is None or len(self._cache.x) != rows:
            c, n_vocab = self._model.config.n_embd, self._model.n_vocab
            shapes: dict[str, tuple[int, ...]] = {
                **{"x": (rows, c), "norm": (rows, c), "mean": (rows,), "rstd": (rows,)},
                **{"qkv": (rows, 3 * c), "att": (rows, c), "fc": (rows, 4 * c)},
                **{"branch": (rows, c), "scores": (self._model.config.context,)},
                **{"last": (self._n, c), "logits": (self._n, n_vocab)},
            }
            scratch = allocate(shapes, self._params.wte.dtype)
            self._cache = Cache(self._keys, self._values, *scratch)
        new = np.ascontiguousarray(tokens, np.int32)
        gpt2_decode(self._hyper, self._params, self._cache, new, self.position, ALONE)
        self.position += n_new
        return self._cache.logits
