"""From files of records to rows that train and rows that validate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bptool.config.data_section import DataConfig
from bptool.data.batches import shuffled
from bptool.data.chat.packing import Packed, pack, too_long
from bptool.data.chat.records import Record, read_records
from bptool.data.chat.templates import Encoded, Template
from bptool.data.tokenizers import Tokenizer
from bptool.errors import DataError


@dataclass(frozen=True)
class ChatSet:
    """Records, tokenized and packed.

    Attributes:
        train, validation: rows. tokenizer: what made them.
        examples: conversations that validate, to show answers to.
        n_records, n_validation: records that train, and that validate.
        n_broken, n_too_long: records that were left out.
        sha256: hash of all tokens, of which are trained on, and of how they were divided.
    """

    train: Packed
    validation: Packed
    tokenizer: Tokenizer
    examples: tuple[Record, ...]
    n_records: int
    n_validation: int
    n_broken: int
    n_too_long: int
    sha256: str

    def notes(self, context: int) -> Iterator[str]:
        """What the user should know of the records, one line each."""
        if self.n_broken:
            yield f"{_records(self.n_broken)} broken and left out"
        if self.n_too_long:
            yield (
                f"{_records(self.n_too_long)} longer than the model's context of {context} tokens "
                "and left out"
            )


def prepare_records(
    config: DataConfig, template: Template, tokenizer: Tokenizer, context: int
) -> ChatSet:
    """Read, tokenize, divide and pack the records of ``config``.

    Raises:
        DataError: a file cannot be read, a record is broken, or too few are left to train on or to
            validate with.
    """
    assert config.records is not None
    skip = config.records.skip_bad
    records, broken = read_records(config.text, skip)
    kept, encoded = _encode(records, template, tokenizer)
    if config.records.validation:
        others, more_broken = read_records(config.records.validation, skip)
        aside, encoded_aside = _encode(others, template, tokenizer)
        broken += more_broken
    else:
        numbers = _set_aside(len(kept), config)
        aside, encoded_aside = [kept[i] for i in numbers], [encoded[i] for i in numbers]
        left = [i for i in range(len(kept)) if i not in set(numbers)]
        kept, encoded = [kept[i] for i in left], [encoded[i] for i in left]
    n_long = 0
    parts: list[tuple[list[Record], list[Encoded]]] = []
    for name, own, ids in (("train on", kept, encoded), ("validate", aside, encoded_aside)):
        long = set(too_long(ids, context))
        n_long += len(long)
        fitting = [i for i in range(len(own)) if i not in long]
        if not fitting:
            why = f"all {len(long)} are longer than its context" if long else "there are none"
            raise DataError(
                f"{', '.join(config.text)}: no record of at most {context} tokens to {name}: "
                f"{why}; give more or shorter records"
            )
        parts.append(([own[i] for i in fitting], [ids[i] for i in fitting]))
    (train, train_ids), (validation, validation_ids) = parts
    return ChatSet(
        train=pack(train_ids, context),
        validation=pack(validation_ids, context),
        tokenizer=tokenizer,
        examples=tuple(r for r in validation if r.text is None),
        n_records=len(train),
        n_validation=len(validation),
        n_broken=len(broken),
        n_too_long=n_long,
        sha256=_sha256(train_ids, validation_ids),
    )


def _encode(
    records: Sequence[Record], template: Template, tokenizer: Tokenizer
) -> tuple[list[Record], list[Encoded]]:
    return list(records), [template.encode(record, tokenizer) for record in records]


def _set_aside(n: int, config: DataConfig) -> list[int]:
    """Numbers of the records that validate, spread by the split's seed."""
    if n < 2:
        raise DataError(
            f"{', '.join(config.text)}: {_records(n)} too few to train on some and validate with "
            "others; give at least 2, or name others with data.records.validation"
        )
    wanted = max(1, min(n - 1, round(n * config.split.validation_fraction)))
    places = np.arange(wanted, dtype=np.uint64)
    return sorted(shuffled(places, n, config.split.seed, 0).tolist())


def _sha256(*parts: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        for ids, trained in part:
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.astype("<i4").tobytes())
            digest.update(trained.tobytes())
    return digest.hexdigest()


def _records(n: int) -> str:
    return "1 record is" if n == 1 else f"{n:,} records are"
