"""Generating token by token with the model's incremental decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from bptool.inference.sampling import Sampling
from bptool.models.base import Array, Model
from bptool.ops.matmul import MatmulEngine


def generate(
    model: Model,
    params: Any,
    engine: MatmulEngine,
    prompt: Array,
    max_tokens: int,
    sampling: Sampling,
    n_samples: int = 1,
    stop: Collection[int] = (),
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next token id of each sample, None once it has ended.

    The prompt, of shape (t,) with t >= 1, is processed at once. Where a model's context is full,
    the later half of it is kept and processed anew, so that the cost stays bounded; a longer
    prompt is cut to its last ``context`` tokens. A sample ends after one of the ``stop`` tokens.
    """
    context = model.context
    decoder = model.decoder(params, n_samples, engine)
    history = np.tile(np.asarray(prompt, np.int32)[-context:], (n_samples, 1))
    alive = [True] * n_samples
    logits = decoder.append(history) if max_tokens > 0 else None
    for position in range(max_tokens):
        assert logits is not None
        chosen = [sampling.choose(logits[i], i, position) for i in range(n_samples)]
        yield [token if alive[i] else None for i, token in enumerate(chosen)]
        alive = [a and token not in stop for a, token in zip(alive, chosen, strict=True)]
        if not any(alive) or position + 1 == max_tokens:
            return
        new = np.array(chosen, np.int32)[:, None]
        history = np.concatenate([history, new], axis=1)[:, -context:]
        if decoder.room < 1:
            decoder.reset()
            history = history[:, -max(1, context // 2) :]
            logits = decoder.append(history)
        else:
            logits = decoder.append(new)
