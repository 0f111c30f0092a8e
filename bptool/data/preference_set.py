"""Preferences as tokens: pairs of documents that a step trains on together.

A document is a prompt and an answer. A *unit* is two documents: the chosen and the rejected answer;
or, for single-sided judgements, an answer and the next record's answer behind the same prompt,
which only measures how far the model is from its reference.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptool.config.data_section import DataConfig
from bptool.data.batches import MASKED, shuffled
from bptool.data.best_fit import best_fit_decreasing
from bptool.data.chat.packing import Packed, fill_rows
from bptool.data.chat.records import Message
from bptool.data.chat.rendering import Ids, NoTemplate, Rendering
from bptool.data.chat.templates import Encoded
from bptool.data.decoding import reading_of
from bptool.data.preferences import Judgement, Preference, Preferences, read_preferences
from bptool.data.record_report import RecordReport
from bptool.data.records import encoded
from bptool.errors import DataError

FEWEST_TO_CHOOSE = 30
"""Pairs that choose the checkpoint, where others judge it."""


class Document(NamedTuple):
    """A prompt and an answer, one after the other."""

    ids: Ids
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Tokens of the answer, its end included."""
        return len(self.ids) - self.n_prompt


class Unit(NamedTuple):
    """Two documents of one prompt, and a label: 0 for a pair, else whether the first answer is
    desirable (1) or not (-1)."""

    first: Document
    second: Document
    label: int
    prompt: tuple[Message, ...]
    place: str

    @property
    def sha256(self) -> str:
        """Hash of its tokens."""
        digest = hashlib.sha256()
        for document in (self.first, self.second):
            digest.update(document.ids.astype("<i4").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class PreferenceSet:
    """Units that train and units that validate.

    Attributes:
        rendering: what made tokens of them.
        test: units that only the trained model is judged on; none where there are too few.
        report: what was left out of the records, and what was not used.
        sha256: hash of all tokens and labels, and of how they were divided.
    """

    train: tuple[Unit, ...]
    validation: tuple[Unit, ...]
    test: tuple[Unit, ...]
    rendering: Rendering
    report: RecordReport
    sha256: str

    def __str__(self) -> str:
        held_out = len(self.validation) + len(self.test)
        judged = f", {len(self.test):,} of them only to judge at the end" if self.test else ""
        return f"{_counted(self.train)} to train on, {held_out:,} held out{judged}"


def _counted(units: Sequence[Unit]) -> str:
    """How many pairs or judged answers, in words."""
    single = any(unit.label for unit in units)
    return f"{len(units):,} {'judged answers' if single else 'pairs of answers'}"


def prepare_preferences(
    config: DataConfig, rendering: Rendering, context: int, single_sided: bool = False
) -> PreferenceSet:
    """Read, tokenize and divide the preferences of ``config``; ``single_sided``: for KTO.

    Records of one prompt are on one side of the division.

    Raises:
        DataError: a file cannot be read, a record is broken or of the other kind, or too few are
            left to train on or to validate with.
    """
    assert config.records is not None
    report, reading = RecordReport(), reading_of(config)
    read = [read_preferences(config.text, report, reading)]
    if config.records.validation:
        read.append(read_preferences(config.records.validation, report, reading))
    make = _judged if single_sided else _pairs
    made = [make(found, rendering, context, report) for found in read]
    report.refuse(config.records.skip_bad)
    for found, units, names in zip(
        read, made, (config.text, config.records.validation), strict=False
    ):
        _require(found, units, ", ".join(names), context, single_sided, report)
    train, validation = made if len(made) == 2 else _divide(made[0], config, ", ".join(config.text))
    validation, test = _apart(validation, config)
    return PreferenceSet(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        rendering=rendering,
        report=report,
        sha256=_sha256(train, validation, *([test] if test else [])),
    )


def _require(
    found: Preferences,
    units: Sequence[Unit],
    place: str,
    context: int,
    single_sided: bool,
    report: RecordReport,
) -> None:
    """Raise a DataError where files have nothing to learn from."""
    if not single_sided and found.judgements and not found.pairs:
        raise DataError(
            f"{place}: the records judge single answers, from which "
            "`bptool finetune dpo RUN --loss kto` learns"
        )
    if not units:
        why = report.left_out() or "there are none"
        raise DataError(f"{place}: no judgement of at most {context} tokens to use: {why}")


def _document(prompt: Ids, answer: str, rendering: Rendering) -> Document:
    return Document(np.concatenate([prompt, rendering.answer(answer)]), len(prompt))


def fits(document: Document, context: int) -> bool:
    """Whether a row has room for it, and for a score behind its last token."""
    return len(document.ids) <= context


def _pairs(
    found: Preferences, rendering: Rendering, context: int, report: RecordReport
) -> list[Unit]:
    units, n_long = [], 0
    for pair in found.pairs:
        both = documents_of(pair, (pair.chosen, pair.rejected), rendering, report)
        if both is None:
            continue
        if all(fits(document, context) for document in both):
            units.append(Unit(both[0], both[1], 0, pair.prompt, pair.place))
        else:
            n_long += 1
    report.leave_out(
        "that judge a single answer, from which only kto learns", len(found.judgements)
    )
    report.leave_out(f"longer than the model's context of {context} tokens", n_long)
    return units


def documents_of(
    of: Preference | Judgement, answers: Sequence[str], rendering: Rendering, report: RecordReport
) -> list[Document] | None:
    """A prompt with each answer; None where that cannot be written, which goes into ``report``."""

    def written() -> list[Document]:
        prompt = rendering.prompt(of.prompt)
        return [_document(prompt, text, rendering) for text in answers]

    try:
        return encoded(of.place, written, report)
    except NoTemplate as error:
        report.add_bad(of.place, str(error), "with several turns, for a run without a template")
        return None


def _judged(
    found: Preferences, rendering: Rendering, context: int, report: RecordReport
) -> list[Unit]:
    """Judgements, and the two that each pair makes."""
    judged = list(found.judgements)
    for pair in found.pairs:
        judged.append(Judgement(pair.prompt, pair.chosen, True, pair.place))
        judged.append(Judgement(pair.prompt, pair.rejected, False, pair.place))
    made: list[tuple[Judgement, Ids, Document]] = []
    n_long = 0
    for one in judged:
        documents = documents_of(one, (one.answer,), rendering, report)
        if documents is None:
            continue
        (document,) = documents
        if fits(document, context):
            made.append((one, document.ids[: document.n_prompt], document))
        else:
            n_long += 1
    report.leave_out(f"longer than the model's context of {context} tokens", n_long)
    units = []
    for number, (one, prompt, document) in enumerate(made):
        other = _other_answer(made, number, context)
        mixed = Document(np.concatenate([prompt, other]), len(prompt))
        label = 1 if one.good else -1
        units.append(Unit(document, mixed, label, one.prompt, one.place))
    return units


def _other_answer(
    made: Sequence[tuple[Judgement, Ids, Document]], number: int, context: int
) -> Ids:
    """The answer of the next record with another prompt, of those that fit; else its own."""
    own, prompt, own_document = made[number]
    for step in range(1, len(made)):
        other, _, document = made[(number + step) % len(made)]
        if other.prompt != own.prompt and len(prompt) + document.n_answer <= context:
            return document.ids[document.n_prompt :]
    return own_document.ids[own_document.n_prompt :]


def _divide(units: Sequence[Unit], config: DataConfig, place: str) -> tuple[list[Unit], list[Unit]]:
    prompts = list(dict.fromkeys(unit.prompt for unit in units))
    if len(prompts) < 2:
        raise DataError(
            f"{place}: the records have one prompt; give some with others, to validate with, or "
            "name such a file with --validation"
        )
    n = len(prompts)
    wanted = max(1, min(n - 1, round(n * config.split.validation_fraction)))
    places = shuffled(np.arange(wanted, dtype=np.uint64), n, config.split.seed, 0)
    aside = {prompts[i] for i in places.tolist()}
    return (
        [unit for unit in units if unit.prompt not in aside],
        [unit for unit in units if unit.prompt in aside],
    )


def _apart(held_out: list[Unit], config: DataConfig) -> tuple[list[Unit], list[Unit]]:
    """Pairs that choose the checkpoint, and those that only the trained model is judged on; the
    latter none where too few pairs would be left to choose by."""
    assert config.records is not None
    prompts = list(dict.fromkeys(unit.prompt for unit in held_out))
    n = len(prompts)
    places = shuffled(np.arange(n, dtype=np.uint64), n, config.split.seed, 1)
    judged = {prompts[i] for i in places[: round(n * config.records.judged_fraction)].tolist()}
    choosing, judging = ([u for u in held_out if (u.prompt in judged) == x] for x in (False, True))
    if len(choosing) < FEWEST_TO_CHOOSE or any(unit.label for unit in held_out):
        return held_out, []
    return choosing, judging


def _sha256(*parts: Sequence[Unit]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        for unit in part:
            digest.update(unit.label.to_bytes(1, "little", signed=True))
            for document in unit[:2]:
                for number in (len(document.ids), document.n_prompt):
                    digest.update(number.to_bytes(8, "little"))
                digest.update(document.ids.astype("<i4").tobytes())
    return digest.hexdigest()


class PackedUnits(NamedTuple):
    """Documents of units in rows."""

    rows: Packed
    owner: NDArray[np.int32]
    """(rows * context,): the document that each target of an answer belongs to, -1 for none."""
    last: NDArray[np.int64]
    """(documents,): where in the flat rows each document's last token is an input, if it is."""


def pack_documents(documents: Sequence[Document], context: int, scored: bool) -> PackedUnits:
    """Rows of documents, each alone in its part of a row.

    ``scored``: every token is an input, the last one too, and there are no targets, so that the
    last token can be scored; else answers are targets.
    """
    encoded = []
    for ids, n_prompt in documents:
        trained = np.arange(len(ids)) >= n_prompt
        if scored:
            ids, trained = np.append(ids, np.int32(0)), np.zeros(len(ids) + 1, np.bool_)
        encoded.append(Encoded(ids, trained))
    placed = best_fit_decreasing([len(ids) - 1 for ids, _ in encoded], context)
    assert placed is not None  # what is too long has been left out
    rows = fill_rows(placed, encoded, context)
    owner = np.full(rows.tokens.shape, -1, np.int32)
    last = np.zeros(len(documents), np.int64)
    for row, numbers in enumerate(rows.documents):
        place = 0
        for number in numbers:
            stop = place + len(encoded[number].ids) - 1
            owner[row, place:stop] = number
            last[number] = row * context + stop - 1
            place = stop
    return PackedUnits(rows, np.where(rows.targets == MASKED, -1, owner).reshape(-1), last)


COUNTED_UNITS, LEAST_COUNTED = 1 << 15, 8
"""Units of the epochs whose steps are counted one by one, and the fewest epochs of which."""
AHEAD = 32
"""Units that wait for a later step, since they found no room in this one."""


class UnitBatches:
    """Which units each step trains on: every unit once an epoch in a fresh order, as many a step as
    fit into its rows. A function of the seed and the step's number.

    Args:
        units: to draw from. context, n_rows: of a step.
    """

    def __init__(
        self, units: Sequence[Unit], context: int, n_rows: int, seed: int, scored: bool
    ) -> None:
        extra = 0 if scored else 1
        self._lengths = [[len(d.ids) - extra for d in unit[:2]] for unit in units]
        self._context, self._n_rows, self._seed = context, n_rows, seed
        self._ends = [0]
        self._latest: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, number: int) -> list[int]:
        """Numbers of the units of step ``number``, from 1."""
        while self._ends[-1] < number:
            self.epoch(len(self._ends) - 1)
        epoch = bisect.bisect_left(self._ends, number) - 1
        return self.epoch(epoch)[number - 1 - self._ends[epoch]]

    def epoch(self, epoch: int) -> list[list[int]]:
        """The steps of an epoch, from 0. Only the latest that was asked for is kept."""
        if self._latest[0] != epoch:
            self._latest = epoch, self._divide(epoch)
            if epoch == len(self._ends) - 1:
                self._ends.append(self._ends[-1] + len(self._latest[1]))
        return self._latest[1]

    def steps(self, epochs: float) -> int:
        """Steps that this many epochs take, at least one.

        They are counted epoch by epoch, since each packs its units in another way; of more epochs
        than :data:`COUNTED_UNITS` allows, the others are taken to have as many steps each as those
        that were counted, so that the answer does not take as long as the epochs would.
        """
        counted = min(int(epochs), max(LEAST_COUNTED, COUNTED_UNITS // max(len(self._lengths), 1)))
        whole = sum(len(self.epoch(e)) for e in range(counted))
        if counted < int(epochs):
            return max(1, round(whole / counted * epochs))
        part = epochs - int(epochs)
        return max(1, whole + (round(part * len(self.epoch(int(epochs)))) if part else 0))

    def _divide(self, epoch: int) -> list[list[int]]:
        n = len(self._lengths)
        undrawn = iter(shuffled(np.arange(n, dtype=np.uint64), n, self._seed, epoch).tolist())
        steps: list[list[int]] = []
        waiting = list(itertools.islice(undrawn, AHEAD))
        while waiting:
            step: list[int] = []
            passed: list[int] = []
            for unit in itertools.chain(waiting, undrawn):
                if self._fit([*step, unit]):
                    step.append(unit)
                else:
                    passed.append(unit)
                if len(passed) == AHEAD:
                    break
            if not step:  # the first needs more rows than there are, and is a step of its own
                step, passed = passed[:1], passed[1:]
            steps.append(step)
            waiting = passed
        return steps

    def _fit(self, units: Sequence[int]) -> bool:
        """Whether the rows of a step have room for both documents of all."""
        lengths = [length for unit in units for length in self._lengths[unit]]
        total, n_rows = sum(lengths), self._n_rows
        if total > n_rows * self._context:
            return False
        if total <= n_rows * (self._context - max(lengths)):  # some row has room for any of them
            return True
        return best_fit_decreasing(lengths, self._context, self._n_rows) is not None
