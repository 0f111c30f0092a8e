"""A bigram model by counting: the loss that a neural model must go below to be worth its name.

The interpolated Kneser-Ney estimate (Kneser and Ney 1995; Chen and Goodman 1999, "An empirical
study of smoothing techniques for language modeling", sections 2.7 and 3). With c the counts of the
training tokens, N(u.) the number of different tokens that follow u, N(.w) of those that w follows,
N(..) of different pairs, and V the size of the vocabulary,

    p(w | u) = max(c(u w) - D, 0) / c(u) + D N(u.) / c(u) * q(w)
    q(w)     = max(N(.w) - D', 0) / N(..) + D' / N(..) * #{x: N(.x) > 0} / V

so that what was never seen has a share too. D is n1 / (n1 + 2 n2), the discount of Ney, Essen and
Kneser 1994, where n1 and n2 pairs were counted once and twice; D' is the same of the N(.w).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_COUNTED = 1 << 24
"""Training tokens that are counted; more would change the estimate little and take gigabytes."""
ORDINARY_DISCOUNT = 0.5
"""Where no pair was counted once, or none twice, so that there is nothing to estimate it from."""


def bigram_loss(train: NDArray[Any], validation: NDArray[Any], n_vocab: int) -> float:
    """Mean loss (nats per token) on all of ``validation`` but its first token.

    Args:
        train, validation: token ids, 1-D, two or more.
        n_vocab: ids are below it.
    """
    keys, counts = np.unique(_pairs(train[:MOST_COUNTED], n_vocab), return_counts=True)
    first, second = np.divmod(keys, n_vocab)
    n_seen = np.bincount(first, counts, n_vocab)  # c(u)
    n_after = np.bincount(first, minlength=n_vocab)  # N(u.)
    n_before = np.bincount(second, minlength=n_vocab)  # N(.w)
    discount, discount_below = _discount(counts), _discount(n_before)
    below = np.maximum(n_before - discount_below, 0.0)
    below += discount_below * np.count_nonzero(n_before) / n_vocab
    below /= len(keys)

    wanted = _pairs(validation, n_vocab)
    u, w = np.divmod(wanted, n_vocab)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    count = np.where(keys[at] == wanted, counts[at], 0)
    known = n_seen[u] > 0
    total = np.where(known, n_seen[u], 1.0)
    share = np.where(known, discount * n_after[u] / total, 1.0)
    p = np.maximum(count - discount, 0.0) / total + share * below[w]
    return float(-np.log(p).mean())


def _pairs(tokens: NDArray[Any], n_vocab: int) -> NDArray[np.int64]:
    ids = np.asarray(tokens, np.int64)
    return ids[:-1] * n_vocab + ids[1:]


def _discount(counts: NDArray[Any]) -> float:
    once, twice = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2))
    return once / (once + 2 * twice) if once and twice else ORDINARY_DISCOUNT
