"""What counting reaches on a text: an interpolated Witten-Bell model of its bytes, and bzip2.

With n the number of times that something occurs in the training part, h the ``order`` bytes before
a byte c, h' the same without the first of them, and T(h) the number of different bytes after h,

    P(c | h) = (n(h c) + T(h) P(c | h')) / (n(h) + T(h)),    P(c | h') where n(h) = 0,

down to the frequencies of single bytes, which are interpolated with the uniform distribution
(Witten and Bell 1991, method C; Chen and Goodman 1999, "An empirical study of smoothing techniques
for language modeling", section 2.6). The order is that of 1 to :data:`MAX_ORDER` which is best on
the last tenth of the training part when the rest is counted; then all of it is counted.
"""

from __future__ import annotations

import bz2
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.data.corpus import Corpus
from bptool.data.tokenizers import Tokenizer

MAX_ORDER = 8
MOST_COUNTED = 1 << 22
"""Bytes of the training part that are counted, the last ones: a few seconds' work."""
N_BYTES = 256
BZIP2_BLOCK = 899_000
"""What ``bzip2 -9`` looks at together (900,000 bytes, less what marks runs may take)."""
_TABLE = 1 << 25
"""Keys below it are numbered by a table, larger ones by sorting."""


@dataclass(frozen=True)
class Counted:
    """What counting reaches on the bytes that a model is judged on.

    Attributes:
        order: of the counted model. bits_per_byte: of it.
        n_counted: bytes that it counts. is_whole: whether they are the whole training part.
        bzip2_bits_per_byte: what bzip2 adds for these bytes behind the end of the training part.
    """

    order: int
    bits_per_byte: float
    n_counted: int
    is_whole: bool
    bzip2_bits_per_byte: float


def counted(corpus: Corpus, max_tokens: int | None) -> Counted | None:
    """Judge counting on what :func:`bptool.training.evaluation.evaluate_split` judges a model on.

    These are the targets among the first ``max_tokens`` of the validation part, so all tokens but
    the first, which is context. A special token is one more symbol, since a model has to predict
    it too; it stands for no byte. None where there is nothing to judge on.
    """
    tokenizer = corpus.tokenizer
    part = corpus.validation if max_tokens is None else corpus.validation[: max_tokens + 1]
    end = _symbols(corpus.train[-MOST_COUNTED:], tokenizer)
    train = end[-MOST_COUNTED:]
    scored = _symbols(part, tokenizer)
    n_context = len(_symbols(part[:1], tokenizer))
    n_bytes = int(np.count_nonzero(scored[n_context:] < N_BYTES))
    if n_bytes == 0 or len(train) == 0:
        return None
    order, bits = witten_bell(train, scored, n_context, N_BYTES + len(tokenizer.special_tokens))
    as_bytes = (_without_special(train), _without_special(scored[n_context:]))
    return Counted(
        order=order,
        bits_per_byte=bits / n_bytes,
        n_counted=len(train),
        is_whole=len(corpus.train) <= MOST_COUNTED and len(end) <= MOST_COUNTED,
        bzip2_bits_per_byte=8.0 * _added_by_bzip2(*as_bytes) / n_bytes,
    )


def witten_bell(
    train: NDArray[Any], scored: NDArray[Any], n_context: int, n_symbols: int
) -> tuple[int, float]:
    """The order that is best on the last tenth of ``train``, and the bits of ``scored`` by it.

    Args:
        train, scored: symbols below ``n_symbols``, 1-D. The first ``n_context`` of ``scored`` are
            context only, and nothing before them is known.
    """
    n, n_held = len(train), len(train) // 10
    symbols = np.concatenate([train, scored]).astype(np.int64)
    used, symbols = np.unique(symbols, return_inverse=True)
    width = len(used)
    places = np.arange(len(symbols))
    # Contexts of one length are numbered from 0; those that nothing is known of are left out.
    contexts = np.zeros(len(symbols), np.int64)
    held = np.full(n_held, 1.0 / n_symbols)
    wanted = np.full(len(scored) - n_context, 1.0 / n_symbols)
    bits = []
    for _ in range(MAX_ORDER + 1):
        grams, numbers = _numbered(contexts * width + symbols[places])
        _refine(held, places, contexts, grams // width, numbers, n - n_held, n - n_held)
        _refine(wanted, places, contexts, grams // width, numbers, n, n + n_context)
        bits.append((-float(np.log2(held).sum()), -float(np.log2(wanted).sum())))
        # What occurs once in both parts together tells nothing of what follows it.
        known = np.bincount(numbers)[numbers] > 1
        known &= (places != n - 1) & (places != len(symbols) - 1)  # the parts are apart
        places, contexts = places[known] + 1, numbers[known]
    order = min(range(1, MAX_ORDER + 1), key=lambda k: bits[k][0])
    return order, bits[order][1]


def _refine(
    p: NDArray[np.float64],
    places: NDArray[np.int64],
    contexts: NDArray[np.int64],
    context_of: NDArray[np.int64],
    numbers: NDArray[np.int64],
    n: int,
    first: int,
) -> None:
    """Interpolate ``p``, probabilities of the symbols from place ``first`` on by shorter contexts,
    with the counts of one more length in the first ``n`` symbols.

    Args:
        places: of the symbols whose context is known. contexts: numbers of these.
        context_of: of each gram, a context with its symbol. numbers: of the gram at each place.
    """
    n_counted = int(np.searchsorted(places, n))
    start, end = np.searchsorted(places, [first, first + len(p)])
    n_contexts = int(contexts.max(initial=-1)) + 1
    of_gram = np.bincount(numbers[:n_counted], minlength=len(context_of))
    of_context = np.bincount(contexts[:n_counted], minlength=n_contexts)
    followers = np.bincount(context_of[of_gram > 0], minlength=n_contexts)
    at = contexts[start:end]
    seen = of_context[at] > 0
    which, at = places[start:end][seen] - first, at[seen]
    t = followers[at]
    count = of_gram[numbers[start:end][seen]]
    p[which] = (count + t * p[which]) / (of_context[at] + t)


def _numbered(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different keys in ascending order, and for each key its place among them."""
    largest = int(keys.max(initial=0))
    if largest >= _TABLE:
        different, numbers = np.unique(keys, return_inverse=True)
        return different, numbers
    present = np.zeros(largest + 1, bool)
    present[keys] = True
    number = np.cumsum(present, dtype=np.int32)
    return np.flatnonzero(present) if len(keys) else keys, number[keys].astype(np.int64) - 1


def _symbols(ids: NDArray[Any], tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The bytes of tokens one after another; special tokens are numbers from 256 on."""
    n_special = len(tokenizer.special_tokens)
    n_pieces = tokenizer.vocab_size - n_special
    pieces = b"".join(map(tokenizer.piece, range(n_pieces)))  # type: ignore[arg-type]
    table = np.append(np.frombuffer(pieces, np.uint8), N_BYTES + np.arange(n_special))
    lengths = tokenizer.token_bytes()
    lengths[n_pieces:] = 1
    starts = np.cumsum(lengths) - lengths
    each = lengths[ids]
    first = np.cumsum(each) - each
    return table[np.repeat(starts[ids] - first, each) + np.arange(each.sum())]


def _without_special(symbols: NDArray[np.int64]) -> bytes:
    return symbols[symbols < N_BYTES].astype(np.uint8).tobytes()


def _added_by_bzip2(train: bytes, scored: bytes) -> int:
    """Bytes by which the end of ``train`` becomes longer, compressed, with ``scored`` behind it."""
    before = train[max(0, len(train) - max(0, BZIP2_BLOCK - len(scored))) :]
    return len(bz2.compress(before + scored)) - len(bz2.compress(before))
