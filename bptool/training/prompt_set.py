"""Prompts of a run that learns from rewards: those it answers in training, and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bptool.config.data_section import DataConfig
from bptool.data.batches import shuffled
from bptool.data.chat.records import Message
from bptool.data.chat.rendering import Ids, Rendering
from bptool.errors import DataError
from bptool.feedback.prompts import as_messages, read_prompts
from bptool.models.base import Array

_HASHED_TOKENS = 1 << 20
"""At once."""
Asked = tuple[Message, ...]
"""A prompt as messages."""


def read_all(paths: Sequence[Path | str], skip_bad: bool) -> list[Asked]:
    """The prompts of files as messages, each once."""
    found = [as_messages(prompt) for prompt in read_prompts(paths, skip_bad)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class PromptSet:
    """Prompts that train and prompts that validate, with their ids.

    Attributes:
        n_too_long: prompts that leave no room for an answer, and were left out.
        sha256: hash of all ids, and of how they were divided.
    """

    train: tuple[Asked, ...]
    validation: tuple[Asked, ...]
    train_ids: tuple[Ids, ...]
    validation_ids: tuple[Ids, ...]
    rendering: Rendering
    n_too_long: int
    sha256: str

    def digest(self, mix: Array | None, rewarded_by: str) -> str:
        """A hash of all that ppo and grpo learn from: these prompts, the pretraining mix, and what
        rewards, unless that is a program, which the manifest knows by itself. Earlier versions had
        a program's hash in here too."""
        digest = hashlib.sha256(self.sha256.encode())
        digest.update(rewarded_by.encode())
        mix = np.empty(0, np.int32) if mix is None else mix
        for at in range(0, len(mix), _HASHED_TOKENS):
            digest.update(mix[at : at + _HASHED_TOKENS].astype(np.int32).tobytes())
        return digest.hexdigest()


def prepare_prompts(
    config: DataConfig, rendering: Rendering, context: int, max_tokens: int
) -> PromptSet:
    """Read, tokenize and divide the prompts of ``config``; each leaves room for ``max_tokens``.

    Raises:
        DataError: a file cannot be read, a record is broken, or too few prompts are left.
    """
    assert config.records is not None
    skip, place = config.records.skip_bad, ", ".join(config.text)
    named = config.records.validation
    parts = [_fitting(read_all(config.text, skip), rendering, context - max_tokens)]
    if named:
        aside = _fitting(read_all(named, skip), rendering, context - max_tokens)
        parts.append(aside)
    else:
        kept, ids, n_long = parts[0]
        n = len(kept)
        if n < 2:
            raise DataError(
                f"{place}: {n} prompts of at most {context - max_tokens} tokens, which leaves room "
                f"for {max_tokens}; give more or shorter ones, or lower rollouts.max_tokens"
            )
        wanted = max(1, min(n - 1, round(n * config.split.validation_fraction)))
        chosen = set(shuffled(np.arange(wanted, dtype=np.uint64), n, config.split.seed, 0).tolist())
        train, others = ([i for i in range(n) if (i in chosen) == x] for x in (False, True))
        parts = [
            ([kept[i] for i in numbers], [ids[i] for i in numbers], n_long * first)
            for first, numbers in ((1, train), (0, others))
        ]
    (train_prompts, train_ids, n_long), (judged, judged_ids, n_more) = parts
    if not train_prompts or not judged:
        raise DataError(f"{place}: no prompt leaves room for {max_tokens} tokens of an answer")
    return PromptSet(
        *(tuple(train_prompts), tuple(judged), tuple(train_ids), tuple(judged_ids)),
        rendering=rendering,
        n_too_long=n_long + n_more,
        sha256=_sha256(train_ids, judged_ids),
    )


def _fitting(
    prompts: Sequence[Asked], rendering: Rendering, most: int
) -> tuple[list[Asked], list[Ids], int]:
    kept, ids = [], []
    for prompt in prompts:
        own = rendering.prompt(prompt)
        if 1 <= len(own) <= most:
            kept.append(prompt)
            ids.append(own)
    return kept, ids, len(prompts) - len(kept)


def _sha256(*parts: Sequence[Ids]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        for ids in part:
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.astype("<i4").tobytes())
    return digest.hexdigest()
