"""What a text becomes: counts of documents and tokens, duplicates, and samples decoded back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.config.data_section import DataConfig
from bptool.data.corpus import Corpus, prepare_and_survey, texts_of_config
from bptool.data.split import Fragments, documents_of, grouped, split_documents, split_texts
from bptool.data.survey import Progress, Survey

SHOWN = 10
"""Tokens that are listed of the commonest and of the rarest."""
SAMPLES, SAMPLE_TOKENS = 3, 48
_SLICE = 1 << 22


def inspect(
    config: DataConfig, cache: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Look at the text of ``config`` as training would see it.

    Memory does not grow with the text but for 8 bytes a document.

    Returns:
        Counts by what they count; then ``commonest`` and ``rarest`` (pairs of a token, shown by
        its ``repr``, and its count), ``samples`` (texts) and ``notes``.

    Raises:
        UserError: a text or a setting is unfit.
    """
    corpus, found = prepare_and_survey(config, 1, progress, cache, None)
    trained, validated = _hashes(config, found)
    everything = np.concatenate([trained, validated])
    counts = _counts(corpus)
    n_tokens = int(counts.sum())
    used = np.flatnonzero(counts)
    by_count = used[np.argsort(-counts[used], kind="stable")]
    return {
        "texts": found.n_texts,
        "documents": _n_documents(config),
        "bytes (UTF-8)": found.n_bytes,
        "characters": found.n_characters,
        "distinct characters": len(found.characters),
        "vocabulary (tokens)": corpus.tokenizer.vocab_size,
        "of these special": len(corpus.tokenizer.special_tokens),
        "tokens never used": corpus.tokenizer.vocab_size - len(used),
        "tokens": n_tokens,
        "characters per token": found.n_characters / n_tokens,
        "training tokens": corpus.n_train,
        "validation tokens": corpus.n_validation,
        "duplicate documents": len(everything) - len(np.unique(everything)),
        "validation documents also in training": int(np.isin(validated, trained).sum()),
        "commonest": _shown(corpus, by_count[:SHOWN], counts),
        "rarest": _shown(corpus, by_count[::-1][:SHOWN], counts),
        "samples": _samples(corpus),
        "notes": list(corpus.notes),
    }


def _n_documents(config: DataConfig) -> int:
    """Documents of the whole text, of which a split by position may cut one in two."""
    documents = documents_of(texts_of_config(config), config.split.separator)
    return sum(1 for _ in grouped(documents))


def _counts(corpus: Corpus) -> NDArray[np.int64]:
    """How often each token stands in both parts, shape (vocab,)."""
    counts = np.zeros(corpus.tokenizer.vocab_size, np.int64)
    for ids in (corpus.train, corpus.validation):
        for at in range(0, len(ids), _SLICE):
            counts += np.bincount(ids[at : at + _SLICE], minlength=len(counts))
    return counts


def _hashes(config: DataConfig, found: Survey) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """A hash of every document that trains, and of every one that validates."""
    split = split_texts(
        texts_of_config(config), config.split, found.n_characters, found.n_documents, found.apart
    )
    # by position a text that holds several documents is still whole
    separator = config.split.separator if config.split.by == "position" and not found.apart else ""
    return _hashes_of(split.train, separator), _hashes_of(split.validation, separator)


def _hashes_of(part: Callable[[], Fragments], separator: str) -> NDArray[np.uint64]:
    hashes = bytearray()
    for document in _documents(part, separator):
        digest = hashlib.blake2b(digest_size=8)
        for piece in document:
            digest.update(piece.encode("utf-8"))
        hashes += digest.digest()
    return np.frombuffer(hashes, np.uint64)


def _documents(part: Callable[[], Fragments], separator: str) -> Iterator[Iterator[str]]:
    for text in grouped(part()):
        if separator:
            yield from grouped(split_documents(text, separator))
        else:
            yield text


def _shown(
    corpus: Corpus, ids: NDArray[np.int64], counts: NDArray[np.int64]
) -> list[tuple[str, int]]:
    """Tokens readable on one line, and their counts."""
    found = []
    for token in ids.tolist():
        piece = corpus.tokenizer.piece(token)
        if isinstance(piece, bytes):
            try:
                piece = repr(piece.decode("utf-8"))
            except UnicodeDecodeError:
                piece = repr(piece)
        found.append((piece, int(counts[token])))
    return found


def _samples(corpus: Corpus) -> list[str]:
    """Tokens from the start, the middle and the end of the training part, decoded."""
    last = max(0, corpus.n_train - SAMPLE_TOKENS)
    starts = sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)})
    return [corpus.tokenizer.decode(corpus.train[at : at + SAMPLE_TOKENS]) for at in starts]
