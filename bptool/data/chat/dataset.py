"""From files of records to rows that train and rows that validate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bptool.config.data_section import DataConfig
from bptool.data.batches import shuffled
from bptool.data.chat.packing import Packed, pack, too_long
from bptool.data.chat.records import Record, read_records
from bptool.data.chat.templates import Encoded, Template
from bptool.data.decoding import reading_of
from bptool.data.record_report import RecordReport, records_counted
from bptool.data.records import encoded
from bptool.data.tokenizers import Tokenizer
from bptool.errors import DataError


@dataclass(frozen=True)
class ChatSet:
    """Records, tokenized and packed.

    Attributes:
        train, validation: rows. tokenizer: what made them.
        examples: conversations that validate, to show answers to.
        n_records, n_validation: records that train, and that validate.
        report: what was left out of them, and what was not used.
        sha256: hash of all tokens, of which are trained on, and of how they were divided.
    """

    train: Packed
    validation: Packed
    tokenizer: Tokenizer
    examples: tuple[Record, ...]
    n_records: int
    n_validation: int
    report: RecordReport
    sha256: str

    def __str__(self) -> str:
        train, validation = self.train.n_targets, self.validation.n_targets
        return (
            f"{records_counted(self.n_records)}, {train:,} tokens trained on; "
            f"{records_counted(self.n_validation)}, {validation:,} tokens to validate"
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
    report = RecordReport()
    kept, kept_ids = _encode(config, config.text, template, tokenizer, report)
    aside: list[Record] = []
    aside_ids: list[Encoded] = []
    if config.records.validation:
        names = config.records.validation
        aside, aside_ids = _encode(config, names, template, tokenizer, report)
    report.refuse(config.records.skip_bad)
    if not config.records.validation:
        numbers = _set_aside(len(kept), config)
        aside, aside_ids = [kept[i] for i in numbers], [kept_ids[i] for i in numbers]
        left = sorted(set(range(len(kept))) - set(numbers))
        kept, kept_ids = [kept[i] for i in left], [kept_ids[i] for i in left]
    parts: list[tuple[list[Record], list[Encoded]]] = []
    for name, own, ids in (("train on", kept, kept_ids), ("validate", aside, aside_ids)):
        long = set(too_long(ids, context))
        report.leave_out(f"longer than the model's context of {context} tokens", len(long))
        fitting = [i for i in range(len(own)) if i not in long]
        if not fitting:
            why = report.left_out() or "there are none"
            raise DataError(
                f"{', '.join(config.text)}: no record of at most {context} tokens to {name} "
                f"({why}); give more or shorter records"
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
        report=report,
        sha256=_sha256(train_ids, validation_ids),
    )


def pack_records(
    config: DataConfig, template: Template, tokenizer: Tokenizer, context: int
) -> tuple[Packed, RecordReport]:
    """All records of ``config`` in rows, undivided, and what was left out of them.

    Raises:
        DataError: a file cannot be read, a record is broken, or none fits into the context.
    """
    report = RecordReport()
    _, encoded_ids = _encode(config, config.text, template, tokenizer, report)
    report.refuse(config.records is not None and config.records.skip_bad)
    long = set(too_long(encoded_ids, context))
    report.leave_out(f"longer than the model's context of {context} tokens", len(long))
    fitting = [ids for number, ids in enumerate(encoded_ids) if number not in long]
    if not fitting:
        raise DataError(f"{', '.join(config.text)}: no record to use ({report.left_out()})")
    return pack(fitting, context), report


def _encode(
    config: DataConfig,
    names: Sequence[str],
    template: Template,
    tokenizer: Tokenizer,
    report: RecordReport,
) -> tuple[list[Record], list[Encoded]]:
    """The records of files that can be encoded, and what they become."""
    form = config.records.form if config.records else None
    kept, ids = [], []
    for record in read_records(names, report, form, reading_of(config)):
        found = encoded(record.place, partial(template.encode, record, tokenizer), report)
        if found is not None:
            kept.append(record)
            ids.append(found)
    return kept, ids


def _set_aside(n: int, config: DataConfig) -> list[int]:
    """Numbers of the records that validate, spread by the split's seed."""
    if n < 2:
        raise DataError(
            f"{', '.join(config.text)}: {records_counted(n)} to use, too few to train on "
            "some and validate with others; give at least 2, or name others with "
            "data.records.validation"
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
