"""Prompts of a run that learns from rewards: those it answers in training, and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bptool.config.data_section import DataConfig
from bptool.data.batches import shuffled
from bptool.data.chat.rendering import Ids, NoTemplate, Rendering
from bptool.data.record_report import RecordReport
from bptool.data.records import encoded
from bptool.errors import ConfigError, DataError
from bptool.feedback.prompts import PromptRecord, as_messages, read_prompt_records
from bptool.models.base import Array

_HASHED_TOKENS = 1 << 20
"""At once."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts that train and prompts that validate, with their ids.

    Attributes:
        report: what was left out of the records, and what was not used.
        sha256: hash of all ids, and of how they were divided.
    """

    train: tuple[PromptRecord, ...]
    validation: tuple[PromptRecord, ...]
    train_ids: tuple[Ids, ...]
    validation_ids: tuple[Ids, ...]
    rendering: Rendering
    report: RecordReport
    sha256: str

    def __str__(self) -> str:
        return f"{len(self.train):,} prompts to train on, {len(self.validation):,} held out"

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
    report, place = RecordReport(), ", ".join(config.text)
    most, named = context - max_tokens, config.records.validation
    if most < 1:
        raise ConfigError(
            f"rollouts.max_tokens {max_tokens:,}: answers of this length leave no room for a "
            f"prompt in the model's context of {context:,} tokens; give a lower --max-tokens"
        )
    read = [_fitting(read_prompt_records(config.text, report), rendering, most, report)]
    if named:
        read.append(_fitting(read_prompt_records(named, report), rendering, most, report))
    report.refuse(config.records.skip_bad)
    kept, ids = read[0]
    if not named:
        n = len(kept)
        if n < 2:
            raise DataError(
                f"{place}: {n} prompts of at most {most:,} tokens, which leave room for answers of "
                f"{max_tokens:,} in the model's context of {context:,}; give more or shorter ones, "
                "or lower rollouts.max_tokens"
            )
        wanted = max(1, min(n - 1, round(n * config.split.validation_fraction)))
        chosen = set(shuffled(np.arange(wanted, dtype=np.uint64), n, config.split.seed, 0).tolist())
        train, others = ([i for i in range(n) if (i in chosen) == x] for x in (False, True))
        read = [([kept[i] for i in part], [ids[i] for i in part]) for part in (train, others)]
    (train_prompts, train_ids), (judged, judged_ids) = read
    if not train_prompts or not judged:
        raise DataError(f"{place}: no prompt leaves room for {max_tokens} tokens of an answer")
    return PromptSet(
        *(tuple(train_prompts), tuple(judged), tuple(train_ids), tuple(judged_ids)),
        rendering=rendering,
        report=report,
        sha256=_sha256(train_ids, judged_ids),
    )


def _fitting(
    prompts: Sequence[PromptRecord], rendering: Rendering, most: int, report: RecordReport
) -> tuple[list[PromptRecord], list[Ids]]:
    """Prompts that can be written and leave room for an answer, and their ids."""
    kept, ids, n_long = [], [], 0
    for prompt in prompts:
        try:
            write = partial(rendering.prompt, as_messages(prompt.prompt))
            own = encoded(prompt.place, write, report)
        except NoTemplate as error:
            kind = "with several turns, for a run without a template"
            report.add_bad(prompt.place, str(error), kind)
            continue
        if own is None:
            continue
        if 1 <= len(own) <= most:
            kept.append(prompt)
            ids.append(own)
        else:
            n_long += 1
    report.leave_out("that leave too little room for an answer", n_long)
    return kept, ids


def _sha256(*parts: Sequence[Ids]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        for ids in part:
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.astype("<i4").tobytes())
    return digest.hexdigest()
