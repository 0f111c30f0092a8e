"""From documents to token ids, batch by batch.

Where one batch ends and the next begins follows from the text and the tokenizer alone, so that
tokenizing which was interrupted goes on after the last whole batch. Batches are encoded in several
threads, where the tokenizer can, and come in the order of the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from bptool.data.split import Fragments, grouped, joined
from bptool.data.tokenizers import END_OF_TEXT, Tokenizer
from bptool.data.tokenizers.base import Ids, UnknownCharacters
from bptool.ops.cores import usable_cores

BATCH_CHARACTERS = 1 << 20
_MOST_PIECES = 1 << 16
MOST_THREADS = 8
"""More would wait for the one that reads the text."""


class Batch(NamedTuple):
    """What was encoded at once."""

    ids: Ids
    n_characters: int


def encode_documents(
    fragments: Fragments, separator: str, ends: bool, tokenizer: Tokenizer, skip: int = 0
) -> Iterator[Batch]:
    """Ids of documents one after the other, in batches.

    Where the tokenizer reserves the end of text, it stands between two documents in place of the
    separator, and with ``ends`` before the first and after the last one too. Otherwise the
    documents are joined by the separator, or by nothing where the tokenizer, which is that of
    another text then, does not know it.

    Args:
        fragments: of the documents. separator, ends: see above. tokenizer: what encodes.
        skip: how many batches to pass over.

    Raises:
        DataError: a text cannot be read or has a character that the tokenizer does not know.
    """
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    marks = np.array([0 if end is None else end], np.int32)

    def encoded(batch: list[str | None]) -> Batch:
        texts = [piece for piece in batch if piece is not None]
        found = iter(tokenizer.encode_many(texts))
        ids = [marks if piece is None else next(found) for piece in batch]
        return Batch(np.concatenate(ids), sum(map(len, texts)))

    try:
        tokenizer.check(separator)
    except UnknownCharacters:
        separator = ""
    pieces = _pieces(fragments, separator, ends, tokenizer)
    batches = islice(_batches(pieces), skip, None)
    n_threads = min(usable_cores(), MOST_THREADS) if tokenizer.in_threads else 1
    yield from _in_threads(encoded, batches, n_threads)


def _in_threads(
    function: Callable[[list[str | None]], Batch], batches: Iterable[list[str | None]], n: int
) -> Iterator[Batch]:
    """``map`` in ``n`` threads, with no more batches at hand than one for each and one to come."""
    batches = iter(batches)
    first = list(islice(batches, 2))
    batches = chain(first, batches)
    if n == 1 or len(first) < 2:  # a record takes less time than a thread to begin
        yield from map(function, batches)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(n, "tokenizing") as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) > n:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever stops waits for no batch that was not begun
            for future in waiting:
                future.cancel()


def _pieces(
    fragments: Fragments, separator: str, ends: bool, tokenizer: Tokenizer
) -> Iterator[str | None]:
    """Parts that can be encoded one by one, and None where an end of text stands."""
    if END_OF_TEXT not in tokenizer.special_tokens:
        yield from tokenizer.pieces(joined(fragments, separator))
        return
    first = True
    for document in grouped(fragments):
        if ends or not first:
            yield None
        first = False
        yield from tokenizer.pieces(document)
    if ends:
        yield None


def _batches(pieces: Iterable[str | None]) -> Iterator[list[str | None]]:
    batch: list[str | None] = []
    n = 0
    for piece in pieces:
        batch.append(piece)
        n += 0 if piece is None else len(piece)
        if n >= BATCH_CHARACTERS or len(batch) >= _MOST_PIECES:
            yield batch
            batch, n = [], 0
    if batch:
        yield batch
