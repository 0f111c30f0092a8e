"""Splits: by position as nanoGPT, by document as a deterministic choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import SplitConfig
from bptool.data.sources import Source
from bptool.data.split import Split, split_documents
from bptool.data.split import split_texts as split_sources
from bptool.errors import DataError


def split_texts(texts: list[str], config: SplitConfig) -> Split:
    return split_sources([Source(text, "here") for text in texts], config)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_position_cuts_all_texts_once(texts: list[str], fraction: float) -> None:
    split = split_texts(texts, SplitConfig(validation_fraction=fraction))
    whole = "".join(texts)
    assert "".join(split.train) + "".join(split.validation) == whole
    assert len("".join(split.train)) == int(len(whole) * (1.0 - fraction))
    assert split.separator == ""
    assert all([*split.train, *split.validation])


def test_position_is_nanogpts_cut() -> None:
    for n in (10, 99, 1_115_394):
        text = "x" * n
        split = split_texts([text], SplitConfig())
        assert len(split.train[0]) == int(n * 0.9)


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
    assert split_documents(text, separator) == documents


@given(n=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_every_document_goes_to_one_part(n: int, fraction: float, seed: int) -> None:
    documents = [f"d{i}" for i in range(n)]
    config = SplitConfig(by="document", validation_fraction=fraction, seed=seed)
    split = split_texts(["\n\n".join(documents)], config)
    assert sorted(split.train + split.validation) == sorted(documents)
    assert len(split.validation) == min(max(1, round(n * fraction)), n - 1)
    assert split == split_texts(["\n\n".join(documents)], config)
    for part in (split.train, split.validation):
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
    split = split_texts(["a\n\nb", "c"], config)
    assert sorted(split.train + split.validation) == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["one document\nonly", "\n\n\n\n"])
def test_too_few_documents(text: str) -> None:
    with pytest.raises(DataError, match=r"finds \d document\(s\) with the separator") as caught:
        split_texts([text], SplitConfig(by="document"))
    assert "\n" not in str(caught.value)
