"""The bigram model, against the same equations by dictionaries, one pair at a time."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.data.bigram import ORDINARY_DISCOUNT, bigram_loss


class Slow:
    """Interpolated Kneser-Ney as Chen and Goodman 1999 write it."""

    def __init__(self, train: list[int], n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.pairs = Counter(itertools.pairwise(train))
        self.first = Counter(train[:-1])
        self.after = Counter(u for u, _ in self.pairs)
        self.before = Counter(w for _, w in self.pairs)
        self.d, self.d_below = self.discount(self.pairs), self.discount(self.before)

    @staticmethod
    def discount(counts: Counter) -> float:
        once, twice = (sum(c == k for c in counts.values()) for k in (1, 2))
        return once / (once + 2 * twice) if once and twice else ORDINARY_DISCOUNT

    def below(self, w: int) -> float:
        share = self.d_below * len(self.before) / len(self.pairs) / self.n_vocab
        return max(self.before[w] - self.d_below, 0.0) / len(self.pairs) + share

    def p(self, w: int, u: int) -> float:
        if not self.first[u]:
            return self.below(w)
        share = self.d * self.after[u] / self.first[u]
        return max(self.pairs[u, w] - self.d, 0.0) / self.first[u] + share * self.below(w)


IDS = st.lists(st.integers(0, 6), min_size=2, max_size=60)


@given(IDS, IDS)
def test_it_is_kneser_neys_estimate(train: list[int], validation: list[int]) -> None:
    slow = Slow(train, 8)
    for u in range(8):  # also those that were never seen
        assert sum(slow.p(w, u) for w in range(8)) == pytest.approx(1.0)
    logs = [math.log(slow.p(w, u)) for u, w in itertools.pairwise(validation)]
    found = bigram_loss(np.array(train, np.uint16), np.array(validation, np.uint16), 8)
    assert found == pytest.approx(-sum(logs) / len(logs))


def test_it_knows_what_follows_what_and_no_more() -> None:
    rng = np.random.default_rng(0)
    # Each token is followed by one of two others with equal chances: ln 2 at best.
    tokens = [0]
    for coin in rng.integers(0, 2, 40_000):
        tokens.append((3 * tokens[-1] + 1 + int(coin)) % 50)
    ids = np.array(tokens, np.uint16)
    assert bigram_loss(ids[:30_000], ids[30_000:], 50) == pytest.approx(math.log(2), abs=5e-3)
    # What nobody can know costs the entropy of it.
    noise = rng.integers(0, 20, 60_000)
    assert bigram_loss(noise[:50_000], noise[50_000:], 20) == pytest.approx(math.log(20), abs=0.02)
