"""The counted model, against the same equation by dictionaries, one byte at a time; and bzip2."""

from __future__ import annotations

import bz2
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import DataConfig
from bptool.data import counted as module
from bptool.data.corpus import Corpus, prepare
from bptool.data.counted import MAX_ORDER, counted, witten_bell


class Slow:
    """Interpolated Witten-Bell of one order, as Chen and Goodman 1999 write it."""

    def __init__(self, train: list[int], order: int, n_symbols: int) -> None:
        self.order, self.n_symbols = order, n_symbols
        self.after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for i, symbol in enumerate(train):
            for length in range(min(order, i) + 1):
                self.after[tuple(train[i - length : i])][symbol] += 1

    def p(self, symbol: int, context: tuple[int, ...]) -> float:
        shorter = self.p(symbol, context[1:]) if context else 1.0 / self.n_symbols
        after = self.after.get(context)
        if not after:
            return shorter
        return (after[symbol] + len(after) * shorter) / (after.total() + len(after))

    def bits(self, text: list[int], start: int) -> float:
        return -sum(
            math.log2(self.p(text[i], tuple(text[max(0, i - self.order) : i])))
            for i in range(start, len(text))
        )


def slow_witten_bell(
    train: list[int], scored: list[int], n_context: int, n_symbols: int
) -> tuple[int, float]:
    n = len(train) - len(train) // 10
    held = {k: Slow(train[:n], k, n_symbols).bits(train, n) for k in range(1, MAX_ORDER + 1)}
    order = min(held, key=lambda k: (round(held[k], 9), k))
    return order, Slow(train, order, n_symbols).bits(scored, n_context)


TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=80)


@given(TEXTS, TEXTS, st.integers(0, 2), st.sampled_from([1, 1 << 24]))
def test_it_is_witten_and_bells_estimate(
    train: list[int], scored: list[int], n_context: int, table: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:  # both ways of numbering contexts
        patch.setattr(module, "_TABLE", table)
        n_context = min(n_context, len(scored))
        order, bits = witten_bell(np.array(train), np.array(scored), n_context, 4)
    expected_order, expected = slow_witten_bell(train, scored, n_context, 4)
    if order != expected_order:  # a tie but for rounding
        n = len(train) - len(train) // 10
        one, other = (Slow(train[:n], k, 4).bits(train, n) for k in (order, expected_order))
        assert one == pytest.approx(other)
        expected = Slow(train, order, 4).bits(scored, n_context)
    assert bits == pytest.approx(expected)


def test_the_slow_estimate_is_a_distribution() -> None:
    slow = Slow([0, 1, 2, 0, 1, 0, 0, 2], 3, 4)
    for context in ((), (0,), (0, 1), (2, 0, 1), (3, 3, 3)):
        assert sum(slow.p(symbol, context) for symbol in range(4)) == pytest.approx(1.0)


def corpus_of(tmp_path: Path, text: str, **data: object) -> Corpus:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8", newline="\n")
    return prepare(DataConfig(text=[str(path)], **data), 8, cache=tmp_path / "cache")


STORY = "".join(f"Der Müller {i % 7} mahlt das Korn von Säckel {i % 11}.\n" for i in range(120))


@pytest.mark.parametrize("tokenizer", ["char", "byte", {"name": "bpe", "vocab_size": 300}])
@pytest.mark.parametrize("max_tokens", [None, 100])
def test_it_is_judged_on_the_bytes_of_the_models_targets(
    tmp_path: Path, tokenizer: object, max_tokens: int | None
) -> None:
    corpus = corpus_of(tmp_path, STORY, tokenizer=tokenizer)
    tokens = corpus.validation[: None if max_tokens is None else max_tokens + 1]
    n_train = int(len(STORY) * 0.9)
    train = STORY[:n_train].encode()
    pieces = [corpus.tokenizer.piece(int(i)) for i in tokens]
    scored = b"".join(pieces)
    assert STORY[n_train:].encode().startswith(scored)
    order, bits = slow_witten_bell(list(train), list(scored), len(pieces[0]), 256)
    found = counted(corpus, max_tokens)
    assert found is not None
    assert (found.n_counted, found.is_whole) == (len(train), True)
    n_bytes = len(scored) - len(pieces[0])
    assert (found.order, found.bits_per_byte) == (order, pytest.approx(bits / n_bytes))
    added = len(bz2.compress(train + scored[len(pieces[0]) :])) - len(bz2.compress(train))
    assert found.bzip2_bits_per_byte == pytest.approx(8 * added / n_bytes)


def test_the_end_of_a_document_is_one_more_symbol(tmp_path: Path) -> None:
    text = "\n\n".join(f"Story {i}: the mill turns, turn {i % 3}." for i in range(60))
    corpus = corpus_of(
        tmp_path, text, tokenizer="char", split={"by": "document", "validation_fraction": 0.2}
    )
    end = corpus.tokenizer.special_tokens["<|endoftext|>"]
    train, scored = (
        [256 if i == end else corpus.tokenizer.piece(int(i))[0] for i in part]
        for part in (corpus.train, corpus.validation)
    )
    assert scored.count(256) > 5
    order, bits = slow_witten_bell(train, scored, 1, 257)
    found = counted(corpus, None)
    assert found is not None
    n_bytes = corpus.validation_bytes
    assert (found.order, found.bits_per_byte) == (order, pytest.approx(bits / n_bytes))


def test_the_last_bytes_are_counted_and_bzip2_sees_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path, STORY, tokenizer="byte")
    train, scored = (list(map(int, part)) for part in (corpus.train, corpus.validation))
    monkeypatch.setattr(module, "MOST_COUNTED", 500)
    monkeypatch.setattr(module, "BZIP2_BLOCK", len(scored) + 99)
    found = counted(corpus, None)
    assert found is not None
    order, bits = slow_witten_bell(train[-500:], scored, 1, 256)
    n_bytes = len(scored) - 1
    assert (found.order, found.bits_per_byte) == (order, pytest.approx(bits / n_bytes))
    assert (found.n_counted, found.is_whole) == (500, False)
    before = bytes(train[-100:])
    added = len(bz2.compress(before + bytes(scored[1:]))) - len(bz2.compress(before))
    assert found.bzip2_bits_per_byte == pytest.approx(8 * added / n_bytes)
