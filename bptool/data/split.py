"""Dividing text into a training and a validation part.

A part is a stream of **fragments**: which document, and the next characters of it. It can be gone
through as often as need be, so that no text has to fit in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from bptool.config.data_section import SplitConfig
from bptool.data.batches import shuffled
from bptool.data.sources import Source
from bptool.errors import DataError

Fragments = Iterator[tuple[int, str]]
"""Numbers of documents, which ascend, and characters of them, never none."""


@dataclass(frozen=True)
class Split:
    """Documents of each part, in the order of the text.

    By position a document is what a file gives to the part.

    Attributes:
        train, validation: start to go through the part.
        separator: stands between two documents where no end-of-text token does.
        ends: whether an end of text stands before the first document and after the last one too.
        shares: characters of each part, for showing how far it is; by document about.
    """

    train: Callable[[], Fragments]
    validation: Callable[[], Fragments]
    separator: str
    ends: bool
    shares: tuple[int, int]


def split_texts(
    sources: Iterable[Source],
    config: SplitConfig,
    n_characters: int,
    n_documents: int,
    apart: bool,
) -> Split:
    """Divide the texts of ``sources`` as ``config`` says.

    By position: of the ``n`` characters of all texts in order, the first
    ``int(n * (1 - validation_fraction))`` train and the rest validates (nanoGPT, at 0.1).
    Where texts are documents of their own, as the records of a file are, the separator stands
    between them.
    By document: ``round(n * validation_fraction)`` documents, at least one, are set aside; which
    ones depends on their number and the seed alone, and they are spread over the whole text.

    Args:
        sources: can be gone through more than once. config: how.
        n_characters: of all texts. n_documents: that :func:`documents_of` finds in them.
        apart: whether a text among them is a document of its own.

    Raises:
        DataError: fewer than two documents, by document.
    """
    if config.by == "position":
        n_train = int(n_characters * (1.0 - config.validation_fraction))
        return Split(
            train=partial(_head, sources, n_train),
            validation=partial(_tail, sources, n_train),
            separator=config.separator if apart else "",
            ends=False,
            shares=(n_train, n_characters - n_train),
        )
    n = n_documents
    if n < 2:
        raise DataError(
            f"split by document finds {n} document(s) with the separator "
            f"{config.separator!r}; set data.split.separator to what stands between documents, "
            "or data.split.by to position"
        )
    n_validation = min(max(1, round(n * config.validation_fraction)), n - 1)
    places = np.arange(n_validation, dtype=np.uint64)
    aside = np.zeros(n, bool)
    aside[shuffled(places, n, config.seed, 0).astype(np.int64)] = True
    share = round(n_characters * n_validation / n)
    return Split(
        train=partial(_chosen, sources, config.separator, ~aside),
        validation=partial(_chosen, sources, config.separator, aside),
        separator=config.separator,
        ends=True,
        shares=(n_characters - share, share),
    )


def texts_of(sources: Iterable[Source]) -> Fragments:
    """Every text as one document."""
    for number, source in enumerate(sources):
        for piece in source.slices():
            yield number, piece


def documents_of(sources: Iterable[Source], separator: str) -> Fragments:
    """Every document: a source that is one, or those that the separator cuts it into."""
    first = 0
    for source in sources:
        last = first - 1
        if source.is_document:
            found: Fragments = ((0, piece) for piece in source.slices())
        else:
            found = split_documents(source.slices(), separator)
        for number, piece in found:
            last = first + number
            yield last, piece
        first = last + 1


def split_documents(slices: Iterable[str], separator: str) -> Fragments:
    """Documents of a text without their separators and without line ends around them.

    Empty ones are left out. A separator of line ends only stands for any longer run too, so that
    two blank lines separate as one does.
    """
    lines = set(separator) == {"\n"}
    cut = re.compile("\n" * len(separator) + "+" if lines else re.escape(separator))
    number, begun, held = 0, False, ""
    for piece in slices:
        held += piece
        # a run of line ends may go on, and so may a separator that has begun
        whole = len(held.rstrip("\n")) if lines else len(held)
        *before, last = cut.split(held[:whole])
        for document in before:
            document = (document if begun else document.lstrip("\n")).rstrip("\n")
            if document:
                yield number, document
            if document or begun:
                number += 1
            begun = False
        open_end = 0 if lines else len(separator) - 1
        body = last[: max(0, len(last) - open_end)]
        start = 0 if begun else len(body) - len(body.lstrip("\n"))
        ready = body[start:].rstrip("\n")
        if ready:
            begun = True
            yield number, ready
        held = last[start + len(ready) :] + held[whole:]
    held = (held if begun else held.lstrip("\n")).rstrip("\n")
    if held:
        yield number, held


def joined(fragments: Fragments, separator: str) -> Iterator[str]:
    """The characters of all documents, with ``separator`` between two."""
    before = None
    for number, piece in fragments:
        if separator and before is not None and number != before:
            yield separator
        before = number
        yield piece


def grouped(fragments: Fragments) -> Iterator[Iterator[str]]:
    """The characters of each document; one has to be gone through before the next is taken."""
    for _, group in groupby(fragments, key=itemgetter(0)):
        yield (piece for _, piece in group)


def _head(sources: Iterable[Source], left: int) -> Fragments:
    for number, piece in texts_of(sources):
        if left <= 0:
            return
        yield number, piece[:left]
        left -= len(piece)


def _tail(sources: Iterable[Source], skipped: int) -> Fragments:
    for number, piece in texts_of(sources):
        if skipped < len(piece):
            yield number, piece[skipped:]
        skipped = max(0, skipped - len(piece))


def _chosen(sources: Iterable[Source], separator: str, wanted: NDArray[np.bool_]) -> Fragments:
    for number, piece in documents_of(sources, separator):
        if wanted[number]:
            yield number, piece
