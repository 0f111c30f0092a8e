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
_TABLE = 1 << 24
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
    end = corpus.train[-MOST_COUNTED:]
    sizes = np.cumsum(_sizes(tokenizer)[end[::-1]])
    end = end[-1 - int(np.searchsorted(sizes, MOST_COUNTED)) :]
    train = _symbols(end, tokenizer)[-MOST_COUNTED:]
    scored = _symbols(part, tokenizer)
    n_context = len(_symbols(part[:1], tokenizer))
    n_bytes = int(np.count_nonzero(scored[n_context:] < N_BYTES))
    if n_bytes == 0:
        return None
    order, bits = witten_bell(train, scored, n_context, N_BYTES + len(tokenizer.special_tokens))
    as_bytes = (_without_special(train), _without_special(scored[n_context:]))
    return Counted(
        order=order,
        bits_per_byte=bits / n_bytes,
        n_counted=len(train),
        is_whole=len(end) == len(corpus.train) and int(sizes[-1]) <= MOST_COUNTED,
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
    used, symbols = _numbered(np.concatenate([train, scored]))
    width = len(used)
    whole = np.int32 if len(symbols) * width < 2**31 else np.int64
    symbols, places = symbols.astype(whole), np.arange(len(symbols), dtype=whole)
    # Contexts of one length are numbered from 0; those that nothing is known of are left out.
    contexts = np.zeros(len(symbols), whole)
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
    places: NDArray[Any],
    contexts: NDArray[Any],
    context_of: NDArray[Any],
    numbers: NDArray[Any],
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


def _numbered(keys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The different keys in ascending order, and for each key its place among them."""
    largest = int(keys.max(initial=0))
    if largest >= _TABLE:
        different, numbers = np.unique(keys, return_inverse=True)
        return different, numbers.astype(keys.dtype)
    number = np.zeros(largest + 1, keys.dtype)
    number[keys] = 1
    different = np.flatnonzero(number)
    number[different] = np.arange(len(different))
    return different, number[keys]


def _symbols(ids: NDArray[Any], tokenizer: Tokenizer) -> NDArray[np.int32]:
    """The bytes of tokens one after another; special tokens are numbers from 256 on."""
    n_special = len(tokenizer.special_tokens)
    pieces = b"".join(map(tokenizer.piece, range(tokenizer.vocab_size - n_special)))  # type: ignore[arg-type]
    table = np.append(
        np.frombuffer(pieces, np.uint8), N_BYTES + np.arange(n_special, dtype=np.int32)
    )
    sizes = _sizes(tokenizer)
    each = sizes[ids]
    shift = (np.cumsum(sizes) - sizes)[ids] - (np.cumsum(each) - each)
    return table[np.repeat(shift, each) + np.arange(each.sum())]


def _sizes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Symbols of each token."""
    return np.maximum(tokenizer.token_bytes(), 1)


def _without_special(symbols: NDArray[np.int32]) -> bytes:
    return symbols[symbols < N_BYTES].astype(np.uint8).tobytes()


def _added_by_bzip2(train: bytes, scored: bytes) -> int:
    """Bytes by which the end of ``train`` becomes longer, compressed, with ``scored`` behind it."""
    before = train[max(0, len(train) - max(0, BZIP2_BLOCK - len(scored))) :]
    return len(bz2.compress(before + scored)) - len(bz2.compress(before))
