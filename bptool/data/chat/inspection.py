"""What records of conversations become: forms, faults, tokens that are trained on, and samples."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from bptool.config.data_section import DataConfig, Form
from bptool.data.chat.records import Record, form_of, parse_record
from bptool.data.chat.rendering import Rendering
from bptool.data.chat.templates import Encoded, Template
from bptool.data.decoding import reading_of
from bptool.data.preference_set import documents_of
from bptool.data.preferences import Judgement, Preference, read_preferences
from bptool.data.record_report import RecordReport
from bptool.data.records import RawRecord, encoded, parse_records
from bptool.data.tokenizers import Tokenizer

SAMPLES = 3
TRAINED = "[[", "]]"
"""Stand around what is trained on, in a sample."""


def inspect_records(
    config: DataConfig, form: Form | None, template: Template, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Look at records as supervised fine-tuning would see them; broken ones are no error here.

    Returns:
        Counts by what they count; then ``samples`` (pairs of a place and the text that the record
        becomes, what is trained on within :data:`TRAINED`), ``faults`` and ``notes`` (lines).

    Raises:
        DataError: a file cannot be read, or is no file of records.
    """
    report = RecordReport()
    forms: Counter[str] = Counter()

    def parse(raw: RawRecord) -> Record:
        record = parse_record(raw, form)
        forms[form_of(raw, form)] += 1
        return record

    n_tokens = n_trained = longest = 0
    samples: list[tuple[str, str]] = []
    for record in parse_records(config.text, parse, report, reading_of(config)):
        made = encoded(record.place, partial(template.encode, record, tokenizer), report)
        if made is None:
            continue
        n_tokens += len(made.ids)
        n_trained += int(made.trained.sum())
        longest = max(longest, len(made.ids))
        if len(samples) < SAMPLES:
            samples.append((record.place, marked(made, tokenizer)))
    return {
        "records": report.n_records,
        **{f"records with {name}": n for name, n in forms.items()},
        "records that are broken": report.n_bad,
        "tokens": n_tokens,
        "tokens trained on": n_trained,
        "tokens of the longest record": longest,
        "samples": samples,
        "faults": report.faults(),
        "notes": list(report.notes()),
    }


def inspect_preferences(config: DataConfig, rendering: Rendering) -> dict[str, Any]:
    """Look at judgements as preference training would see them; broken ones are no error here.

    Returns:
        As :func:`inspect_records`; of a pair both texts are samples, answers within the marks.

    Raises:
        DataError: a file cannot be read, or is no file of records.
    """
    report = RecordReport()
    found = read_preferences(config.text, report, reading_of(config))
    n_tokens = longest = 0
    samples: list[tuple[str, str]] = []
    every: list[Preference | Judgement] = [*found.pairs, *found.judgements]
    for one in every:
        if isinstance(one, Judgement):
            answers = {"good" if one.good else "bad": one.answer}
        else:
            answers = {"chosen": one.chosen, "rejected": one.rejected}
        documents = documents_of(one, list(answers.values()), rendering, report) or []
        for name, document in zip(answers, documents, strict=False):
            n_tokens += len(document.ids)
            longest = max(longest, len(document.ids))
            if len(samples) < 2 * SAMPLES:
                answer = np.arange(len(document.ids)) >= document.n_prompt
                text = marked(Encoded(document.ids, answer), rendering.tokenizer)
                samples.append((f"{one.place}, {name}", text))
    return {
        "records": report.n_records,
        "pairs of answers": len(found.pairs),
        "judged answers": len(found.judgements),
        "records that are broken": report.n_bad,
        "tokens": n_tokens,
        "tokens of the longest answer with its prompt": longest,
        "samples": samples,
        "faults": report.faults(),
        "notes": list(report.notes()),
    }


def marked(made: Encoded, tokenizer: Tokenizer) -> str:
    """The text of ``made``, marks included, what is trained on within :data:`TRAINED`."""
    edges = np.flatnonzero(np.diff(made.trained.astype(np.int8), prepend=0, append=0))
    text, at = "", 0
    for number, edge in enumerate(edges.tolist()):
        text += tokenizer.decode(made.ids[at:edge]) + TRAINED[number % 2]
        at = edge
    return text + tokenizer.decode(made.ids[at:])
