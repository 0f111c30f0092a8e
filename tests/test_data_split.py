"""Splits: by position as nanoGPT, by document as a deterministic choice."""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import SplitConfig
from bptool.data import split
from bptool.data.sources import Source
from bptool.data.split import documents_of, grouped
from bptool.errors import DataError


class Parts(NamedTuple):
    """Documents of both parts."""

    train: list[str]
    validation: list[str]
    separator: str


def sources(texts: list[str], size: int) -> list[Source]:
    """Texts that come in slices of ``size`` characters."""

    def slices(text: str) -> list[str]:
        return [text[i : i + size] for i in range(0, len(text), size)]

    return [Source("here", partial(slices, text)) for text in texts]


def split_texts(texts: list[str], config: SplitConfig, size: int = 3) -> Parts:
    made = sources(texts, size)
    n = 1 + max((i for i, _ in documents_of(made, config.separator)), default=-1)
    found = split.split_texts(made, config, sum(map(len, texts)), n, apart=False)
    parts = (["".join(d) for d in grouped(part())] for part in (found.train, found.validation))
    return Parts(*parts, found.separator)


def split_documents(text: str, separator: str, size: int) -> list[str]:
    (source,) = sources([text], size)
    return ["".join(d) for d in grouped(documents_of([source], separator))]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_position_cuts_all_texts_once(texts: list[str], fraction: float) -> None:
    parts = split_texts(texts, SplitConfig(validation_fraction=fraction))
    whole = "".join(texts)
    assert "".join(parts.train) + "".join(parts.validation) == whole
    assert len("".join(parts.train)) == int(len(whole) * (1.0 - fraction))
    assert parts.separator == ""
    assert all([*parts.train, *parts.validation])


def test_position_is_nanogpts_cut() -> None:
    for n in (10, 99, 1_115_394):
        text = "x" * n
        parts = split_texts([text], SplitConfig(), 1000)
        assert len(parts.train[0]) == int(n * 0.9)


@pytest.mark.parametrize(
    ("text", "separator", "documents"),
    [
        ("a\nb\n\nc\n\n\n\nd\n", "\n\n", ["a\nb", "c", "d"]),
        ("\n\n\na\n\nb", "\n\n", ["a", "b"]),
        ("ann\nbob\n\ncid\n", "\n", ["ann", "bob", "cid"]),
        ("a\n---\nb\n---\n", "---", ["a", "b"]),
        ("a.b", ".", ["a", "b"]),
        ("  a \n\n b ", "\n\n", ["  a ", " b "]),
    ],
)
def test_documents(text: str, separator: str, documents: list[str]) -> None:
    for size in (1, 2, 3, 5, 100):
        assert split_documents(text, separator, size) == documents


@given(
    st.text(st.sampled_from("ab\n-"), max_size=60),
    st.sampled_from(["\n", "\n\n", "-", "--", "\n-\n", "a-", "-\n", "aba"]),
    st.integers(1, 9),
)
def test_how_a_text_is_sliced_changes_no_document(text: str, separator: str, size: int) -> None:
    pattern = re.escape(separator)
    if set(separator) == {"\n"}:
        pattern = "\n" * len(separator) + "+"
    expected = [d for part in re.split(pattern, text) if (d := part.strip("\n"))]
    assert split_documents(text, separator, size) == expected


@given(n=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_every_document_goes_to_one_part(n: int, fraction: float, seed: int) -> None:
    documents = [f"d{i}" for i in range(n)]
    config = SplitConfig(by="document", validation_fraction=fraction, seed=seed)
    parts = split_texts(["\n\n".join(documents)], config)
    assert sorted(parts.train + parts.validation) == sorted(documents)
    assert len(parts.validation) == min(max(1, round(n * fraction)), n - 1)
    assert parts == split_texts(["\n\n".join(documents)], config)
    for part in (parts.train, parts.validation):
        assert part == sorted(part, key=lambda d: int(d[1:]))


def test_documents_set_aside_are_spread_and_depend_on_the_seed() -> None:
    text = "\n".join(f"{i}" for i in range(1000))
    parts = [
        split_texts([text], SplitConfig(by="document", separator="\n", seed=seed)).validation
        for seed in (0, 1)
    ]
    assert parts[0] != parts[1]
    for part in parts:
        places = [int(d) for d in part]
        assert len(places) == 100
        assert min(places) < 100
        assert max(places) > 900
        assert sum(p < 500 for p in places) in range(30, 71)


def test_documents_never_join_across_files() -> None:
    config = SplitConfig(by="document", validation_fraction=0.5)
    parts = split_texts(["a\n\nb", "c"], config)
    assert sorted(parts.train + parts.validation) == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["one document\nonly", "\n\n\n\n"])
def test_too_few_documents(text: str) -> None:
    with pytest.raises(DataError, match=r"finds \d document\(s\) with the separator") as caught:
        split_texts([text], SplitConfig(by="document"))
    assert "\n" not in str(caught.value)
