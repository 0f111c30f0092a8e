"""The kernels of the feed-forward model's step, as its forward and backward call them."""

from __future__ import annotations

from typing import Any

from bptool.models.base import Array
from bptool.models.head_operations import HeadArrays, head_operations
from bptool.models.operation import Operation, Shard, elementwise, linear
from bptool.ops.activations import activation_backward, activation_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import (
    NO_TERMS,
    LogitTerms,
)
from bptool.ops.window import window_backward, window_forward

KEY = MaskKey(0, 1, 0)
SIZES: tuple[tuple[dict[str, int], int, int], ...] = (
    ({"window": 2, "n_embd": 8, "n_hidden": 16, "n_layer": 2, "context": 8}, 16, 1),
    ({"window": 8, "n_embd": 16, "n_hidden": 64, "n_layer": 2, "context": 32}, 32, 8),
    ({"window": 8, "n_embd": 24, "n_hidden": 256, "n_layer": 2, "context": 32}, 96, 16),
    ({"window": 4, "n_embd": 64, "n_hidden": 512, "n_layer": 2, "context": 128}, 1024, 2),
)
"""Size, vocabulary and sequences of a shard of the small models that are timed for predictions."""
VARIANTS: tuple[dict[str, Any], ...] = (
    {"activation": "tanh"},
    {"activation": "gelu", "dropout": 0.1},
    {"activation": "relu"},
    {"activation": "sigmoid"},
)
"""Each has kernels that others do not; the whole steps of the first are timed."""


def mlp_operations(
    model: Any, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
) -> list[Operation]:
    """The step of a shard of ``n_sequences``."""
    c, v, n = model.config, model.n_vocab, n_sequences * n_time
    n_in, f = c.window * c.n_embd, c.n_hidden
    into = linear("input", 1, (n, n_in, f), _input, _input_backward)
    between = linear("hidden", c.n_layer - 1, (n, f, f), _hidden, _hidden_backward)
    output, *in_loss, output_backward = head_operations((n, f, v), terms, _output)
    found = [
        elementwise("window", 1, 2 * n * n_in, _window),
        *(into[0], between[0]),
        elementwise("activation", c.n_layer, 3 * n * f, _activation, c.activation),
        *(output, *in_loss, output_backward),
        elementwise(
            *("activation, backward", c.n_layer, 3 * n * f, _activation_backward, c.activation)
        ),
        *(between[1], into[1]),
        elementwise("window, backward", 1, 3 * n * n_in, _window_backward),
    ]
    p = c.dropout_sites()
    for name, count, field, width, rate in (
        ("dropout, embeddings", 2, "dx", n_in, p.embedding),
        ("dropout, hidden", 2 * c.n_layer, "dhidden", f, p.hidden),
    ):
        if rate > 0:
            found.append(elementwise(name, count, 2 * n * width, _dropout(field, rate)))
    return [operation for operation in found if operation.count]


def _dropout(field: str, rate: float) -> Any:
    return lambda s, i: dropout(getattr(s.work.acts, field)[s.own], rate, KEY, i, 0)


def _window(s: Shard, i: int) -> None:
    window_forward(s.work.acts.x, s.tokens, ONE_DOCUMENT, s.params.embedding, s.team)


def _window_backward(s: Shard, i: int) -> None:
    window_backward(s.grads.embedding, s.work.acts.dx, s.tokens, ONE_DOCUMENT, s.team)


def _input(s: Shard, i: int) -> None:
    a, p = s.work.acts, s.params
    linear_forward(s.work.training.engine, a.pre[0], a.x, p.input_w, p.input_b, s.team)


def _input_backward(s: Shard, i: int) -> None:
    a, p, g = s.work.acts, s.params, s.grads
    linear_backward(
        *(s.work.training.engine, a.dx, g.input_w, g.input_b),
        *(a.dpre, a.x, p.input_w, False, s.team),
    )


def _hidden(s: Shard, i: int) -> None:
    a, p = s.work.acts, s.params
    linear_forward(
        s.work.training.engine, a.pre[i + 1], a.hidden[i], p.hidden_w[i], p.hidden_b[i], s.team
    )


def _hidden_backward(s: Shard, i: int) -> None:
    a, p, g = s.work.acts, s.params, s.grads
    linear_backward(
        *(s.work.training.engine, a.dhidden, g.hidden_w[i], g.hidden_b[i]),
        *(a.dpre, a.hidden[i], p.hidden_w[i], False, s.team),
    )


def _output(s: Shard) -> HeadArrays:
    a, p, g = s.work.acts, s.params, s.grads
    return HeadArrays(a.hidden[-1], p.output_w, p.output_b, a.dhidden, g.output_w, g.output_b)


def _activation(s: Shard, i: int) -> None:
    a, own = s.work.acts, s.own
    kind = s.work.training.activation
    activation_forward(kind, a.hidden[i][own], a.slope[i][own], a.pre[i][own])


def _activation_backward(s: Shard, i: int) -> None:
    a, own = s.work.acts, s.own
    activation_backward(a.dpre[own], a.dhidden[own], a.slope[i][own])


def mlp_intermediates(acts: Any) -> list[tuple[str, Array]]:
    """What each operation of a forward left in ``acts``, in the order of the forward."""
    found = [("window of embeddings", acts.x)]
    for layer in range(len(acts.pre)):
        found.append((f"linear map, layer {layer}", acts.pre[layer]))
        found.append((f"activation, layer {layer}", acts.hidden[layer]))
    return [*found, ("log-probabilities", acts.logp)]
