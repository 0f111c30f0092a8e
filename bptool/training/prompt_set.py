"""Prompts of a run that learns from rewards: those it answers in training, and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bptool.config.data_section import DataConfig
from bptool.data.batches import shuffled
from bptool.data.chat.rendering import Ids, Rendering
from bptool.errors import DataError
from bptool.feedback.prompts import PromptRecord, as_messages, read_prompt_records


@dataclass(frozen=True)
class PromptSet:
    """Prompts that train and prompts that validate, with their ids.

    Attributes:
        n_too_long: prompts that leave no room for an answer, and were left out.
        n_broken, n_other: records without a prompt, and with one that was there before with other
            columns, that were left out.
        sha256: hash of all ids, and of how they were divided.
    """

    train: tuple[PromptRecord, ...]
    validation: tuple[PromptRecord, ...]
    train_ids: tuple[Ids, ...]
    validation_ids: tuple[Ids, ...]
    rendering: Rendering
    n_too_long: int
    n_broken: int
    n_other: int
    sha256: str

    def notes(self) -> Iterator[str]:
        """What the user should know of the prompts, one line each."""
        if n := self.n_broken:
            yield f"{'1 record is' if n == 1 else f'{n:,} records are'} broken and left out"
        if n := self.n_other:
            others = "1 record repeats a prompt" if n == 1 else f"{n:,} records repeat a prompt"
            yield f"{others} with other columns and {'is' if n == 1 else 'are'} left out"
        if n := self.n_too_long:
            yield f"{n:,} prompts leave too little room for an answer and are left out"


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
    read = [read_prompt_records(config.text, skip)]
    parts = [_fitting(read[0].records, rendering, context - max_tokens)]
    if named:
        read.append(read_prompt_records(named, skip))
        parts.append(_fitting(read[1].records, rendering, context - max_tokens))
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
        n_broken=sum(len(x.broken) for x in read),
        n_other=sum(x.n_other for x in read),
        sha256=_sha256(train_ids, judged_ids),
    )


def _fitting(
    prompts: Sequence[PromptRecord], rendering: Rendering, most: int
) -> tuple[list[PromptRecord], list[Ids], int]:
    kept, ids = [], []
    for prompt in prompts:
        own = rendering.prompt(as_messages(prompt.prompt))
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
