"""Dividing text into a training and a validation part."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bptool.config.data_section import SplitConfig
from bptool.data.batches import shuffled
from bptool.data.sources import Source
from bptool.errors import DataError


@dataclass(frozen=True)
class Split:
    """Documents of each part, in the order of the text.

    By position a document is what a file gives to the part. ``separator`` stands between two
    documents where no end-of-text token does.
    """

    train: list[str]
    validation: list[str]
    separator: str


def split_texts(sources: list[Source], config: SplitConfig) -> Split:
    """Divide the texts of ``sources`` as ``config`` says.

    By position: of the ``n`` characters of all texts in order, the first
    ``int(n * (1 - validation_fraction))`` train and the rest validates (nanoGPT, at 0.1).
    Where texts are documents of their own, as the records of a file are, the separator stands
    between them.
    By document: ``round(n * validation_fraction)`` documents, at least one, are set aside; which
    ones depends on their number and the seed alone, and they are spread over the whole text.

    Raises:
        DataError: fewer than two documents.
    """
    if config.by == "position":
        apart = any(source.is_document for source in sources)
        separator = config.separator if apart else ""
        texts = [source.text for source in sources]
        return _by_position(texts, config.validation_fraction, separator)
    documents = documents_of(sources, config.separator)
    if len(documents) < 2:
        raise DataError(
            f"split by document finds {len(documents)} document(s) with the separator "
            f"{config.separator!r}; set data.split.separator to what stands between documents, "
            "or data.split.by to position"
        )
    n = len(documents)
    n_validation = min(max(1, round(n * config.validation_fraction)), n - 1)
    places = np.arange(n_validation, dtype=np.uint64)
    aside = set(shuffled(places, n, config.seed, 0).tolist())
    train = [d for i, d in enumerate(documents) if i not in aside]
    return Split(train, [documents[i] for i in sorted(aside)], config.separator)


def documents_of(sources: list[Source], separator: str) -> list[str]:
    """Every document: a source that is one, or those that the separator cuts it into."""
    found: list[str] = []
    for source in sources:
        if source.is_document:
            found.append(source.text)
        else:
            found += split_documents(source.text, separator)
    return found


def split_documents(text: str, separator: str) -> list[str]:
    """Documents of ``text`` without their separators; empty ones are left out.

    A separator of line ends only stands for any longer run too, so that two blank lines separate
    as one does.
    """
    pattern = re.escape(separator)
    if set(separator) == {"\n"}:
        pattern = "\n" * len(separator) + "+"
    return [d for part in re.split(pattern, text) if (d := part.strip("\n"))]


def _by_position(texts: list[str], validation_fraction: float, separator: str) -> Split:
    n_train = int(sum(map(len, texts)) * (1.0 - validation_fraction))
    train, validation = [], []
    for text in texts:
        if head := text[:n_train]:
            train.append(head)
        if tail := text[len(head) :]:
            validation.append(tail)
        n_train -= len(head)
    return Split(train, validation, separator)
