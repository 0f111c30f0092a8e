"""Answers that a model in training gives, and how far they are from what a reference would say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bptool.data.chat.rendering import Ids, Rendering
from bptool.data.preference_set import Document, PackedUnits, pack_documents
from bptool.inference.generate import generate
from bptool.inference.sampling import Sampling
from bptool.models.base import Array
from bptool.training.token_shards import Rows, TokenShards


class Answered(NamedTuple):
    """Prompts with sampled answers."""

    documents: list[Document]
    ended: Array
    """(A,) bool: whether each ended by itself."""

    @property
    def lengths(self) -> Array:
        """Tokens of each answer, (A,)."""
        return np.array([document.n_answer for document in self.documents])


def sample_answers(
    shards: TokenShards,
    params: Any,
    prompts: Sequence[Ids],
    n: int,
    max_tokens: int,
    rendering: Rendering,
    seed: int,
    first: int = 0,
) -> Answered:
    """``n`` answers to each prompt, at temperature 1, each of at most ``max_tokens`` and of what
    the context has room for, up to a special token.

    An answer is a function of the weights, the prompt, the seed and its number, which counts from
    ``first``.
    """
    context = shards.n_time
    prompts = [prompt[-(context - 1) :] for prompt in prompts]
    n_texts = len(prompts) * n
    answers: list[list[int]] = [[] for _ in range(n_texts)]
    end, stop = rendering.end_id, rendering.stop_ids
    longest = min(max_tokens, context - min(map(len, prompts)))
    steps = generate(
        *(shards.model, params, shards.team, prompts, longest, Sampling(1.0, None, None, seed)),
        n_samples=n,
        stop=stop,
        numbers=range(first, first + n_texts),
    )
    room = [min(max_tokens, context - len(prompts[text // n])) for text in range(n_texts)]
    for tokens in steps:
        for text, token in enumerate(tokens):
            if token is not None and len(answers[text]) < room[text]:
                answers[text].append(token)
    documents = [
        Document(
            np.concatenate([prompts[text // n], np.array(answer, np.int32)]).astype(np.int32),
            len(prompts[text // n]),
        )
        for text, answer in enumerate(answers)
    ]
    ended = np.array([bool(answer) and answer[-1] == end for answer in answers])
    return Answered(documents, ended)


def rows_of(packed: PackedUnits) -> Rows:
    """Packed documents as a step takes them."""
    return Rows(packed.rows.tokens, packed.rows.targets, packed.rows.starts)


def packed_answers(answered: Answered, context: int) -> PackedUnits:
    """Rows whose targets are the sampled tokens."""
    return pack_documents(answered.documents, context, scored=False)


def kl_of(logp: Array, reference: Array, owner: Array, n_answers: int) -> tuple[float, float]:
    """KL divergence from the reference in nats an answer, over sampled answers: the estimators k1
    and k3 (Schulman 2020, "Approximating KL divergence")."""
    inside = owner >= 0
    off = logp[inside].astype(np.float64) - reference[inside]
    k3 = np.exp(np.minimum(-off, 20.0)) - 1.0 + off
    n = max(n_answers, 1)
    return float(off.sum()) / n, float(k3.sum()) / n
