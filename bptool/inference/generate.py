"""Generating token by token with the model's incremental decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from bptool.inference.sampling import Sampling
from bptool.models.base import Array, Model
from bptool.models.decoder import Workers


def generate(
    model: Model,
    params: Any,
    workers: Workers,
    prompts: Sequence[Array],
    max_tokens: int,
    sampling: Sampling,
    n_samples: int = 1,
    stop: Collection[int] = (),
    numbers: Sequence[int] | None = None,
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next token id of each text, None once it has ended.

    The prompts, each of shape (t,) with t >= 1, may differ in length. Each is processed once and
    its samples go on from there: text ``p * n_samples + s`` is sample s of prompt p. A text depends
    on its prompt, the seed and s, and not on what else is generated, nor on the workers.
    ``numbers`` gives each text a number of its own in place of s.

    Where a model's context is full, the later half of it is kept and processed anew, so that the
    cost stays bounded; a longer prompt is cut to its last ``context`` tokens. A text ends after one
    of the ``stop`` tokens, and costs nothing from there on.
    """
    if max_tokens < 1:
        return
    context, n_texts = model.context, len(prompts) * n_samples
    decoder = model.decoder(params, n_texts, workers)
    decoder.add(len(prompts))
    starts = [np.asarray(prompt, np.int32)[-context:] for prompt in prompts]
    logits = decoder.append(starts)
    parents = [text // n_samples for text in range(n_texts)]
    decoder.select(parents)
    logits = logits[parents]
    histories = [starts[parent].tolist() for parent in parents]
    alive = list(range(n_texts))  # the text that each of the decoder's sequences is
    drawn = [text % n_samples for text in range(n_texts)] if numbers is None else numbers
    for position in range(max_tokens):
        step: list[int | None] = [None] * n_texts
        chosen = sampling.choose_all(logits, [drawn[text] for text in alive], position)
        for text, token in zip(alive, chosen, strict=True):
            step[text] = token
        yield step
        going = [i for i, text in enumerate(alive) if step[text] not in stop]
        if not going or position + 1 == max_tokens:
            return
        if len(going) < len(alive):
            decoder.select(going)
            alive = [alive[i] for i in going]
        new = []
        for sequence, text in enumerate(alive):
            history = histories[text]
            history.append(step[text])
            if decoder.room(sequence) < 1:
                decoder.restart(sequence)
                new.append(history[-max(1, context // 2) :])
            else:
                new.append(history[-1:])
            del history[:-context]
        logits = decoder.append(new)
