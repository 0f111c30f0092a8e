"""Decoding with the feed-forward model: one window of tokens a sequence, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptool.models.base import Array, allocate
from bptool.models.decoder import Decoder, check_append, check_capacity, check_parents
from bptool.ops.activations import ACTIVATIONS, activation_forward
from bptool.ops.jit import composition
from bptool.ops.linear_decode import linear_decode
from bptool.ops.team import ALONE

if TYPE_CHECKING:
    from bptool.models.mlp import MLP, Params


class Scratch(NamedTuple):
    """Buffers for ``capacity`` sequences."""

    x: Array  # (capacity, W*C)
    pre: Array  # (capacity, F)
    hidden: Array  # (capacity, F)
    slope: Array  # (capacity, F) not wanted
    logits: Array  # (capacity, V)


@composition
def mlp_decode(team, activation, params, scratch, windows):  # type: ignore[no-untyped-def]
    """Logits after windows (n, W) of token ids, the number V standing for "before the start"."""
    n, n_window = windows.shape
    width = params.embedding.shape[1]
    x, pre, hidden, slope = scratch.x, scratch.pre[:n], scratch.hidden[:n], scratch.slope[:n]
    for i in range(n):
        for w in range(n_window):
            for j in range(width):
                x[i, w * width + j] = params.embedding[windows[i, w], j]
    linear_decode(team, pre, x, n, params.input_w, params.input_b, False)
    activation_forward(activation, hidden, slope, pre)
    for layer in range(params.hidden_w.shape[0]):
        hidden_w, hidden_b = params.hidden_w[layer], params.hidden_b[layer]
        linear_decode(team, pre, hidden, n, hidden_w, hidden_b, False)
        activation_forward(activation, hidden, slope, pre)
    linear_decode(team, scratch.logits, hidden, n, params.output_w, params.output_b, False)


class MLPDecoder(Decoder):
    """Keeps the last ``window`` tokens of each sequence, so its room never ends.

    It works on one thread: the model is too small for a team.
    """

    def __init__(self, model: MLP, params: Params, capacity: int) -> None:
        self._params, self._capacity, self._blank = params, capacity, model.n_vocab
        config = model.config
        self._window, self._activation = config.window, ACTIVATIONS[config.activation]
        shapes: dict[str, tuple[int, ...]] = {
            "x": (capacity, config.window * config.n_embd),
            "pre": (capacity, config.n_hidden),
            "hidden": (capacity, config.n_hidden),
            "slope": (capacity, config.n_hidden),
            "logits": (capacity, model.n_vocab),
        }
        self._scratch = Scratch(*allocate(shapes, params.embedding.dtype))
        self._windows = np.zeros((0, config.window), np.int32)

    @property
    def n_sequences(self) -> int:
        return len(self._windows)

    def room(self, sequence: int) -> int:
        return 1 << 62

    def add(self, n: int) -> None:
        check_capacity(self.n_sequences + n, self._capacity)
        empty = np.full((n, self._window), self._blank, np.int32)
        self._windows = np.concatenate([self._windows, empty])

    def select(self, parents: Sequence[int]) -> None:
        check_parents(self, parents, self._capacity)
        self._windows = self._windows[np.asarray(parents, np.int64)]

    def restart(self, sequence: int) -> None:
        self._windows[sequence] = self._blank

    def append(self, tokens: Sequence[Array]) -> Array:
        check_append(self, tokens)
        for window, new in zip(self._windows, tokens, strict=True):
            window[:] = np.concatenate([window, np.asarray(new, np.int32)])[-self._window :]
        mlp_decode(ALONE, self._activation, self._params, self._scratch, self._windows)
        return self._scratch.logits[: self.n_sequences]
