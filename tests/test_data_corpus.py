"""From text files to token arrays: splits, reuse, and what is too little to train on."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptool import caches
from bptool.config.choice import Choice
from bptool.config.data_section import DataConfig, SplitConfig
from bptool.data import cache
from bptool.data.batches import MASKED, evaluation_windows
from bptool.data.corpus import Corpus, prepare, tokenizer_choice
from bptool.data.inspection import inspect
from bptool.data.tokenizers import END_OF_TEXT
from bptool.data.tokenizers.bpe import BpeConfig, BpeTokenizer
from bptool.data.tokenizers.char import CharConfig, CharTokenizer
from bptool.data.whole import encode_all
from bptool.errors import BptoolWarning, ConfigError, DataError

TEXT = "".join(f"Story {i}: the fox and the owl met {i * 7} times.\n\n" for i in range(60))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(TEXT.encode("utf-8"))
    return path


def made(book: Path, context: int = 8, **settings: Any) -> Corpus:
    keywords = {k: settings.pop(k) for k in ("tokenizer_made", "progress") if k in settings}
    if "tokenizer_made" in keywords:
        keywords["tokenizer"] = keywords.pop("tokenizer_made")
    config = DataConfig(text=[str(book)], **settings)
    return prepare(config, context, cache=book.parent / "cache", **keywords)


@pytest.mark.parametrize("tokenizer", ["char", "byte", {"name": "bpe", "vocab_size": 300}])
def test_position_split_joins_to_the_text(tokenizer: Any, book: Path) -> None:
    corpus = made(book, tokenizer=tokenizer)
    head = corpus.tokenizer.decode(corpus.train)
    assert head == TEXT[: int(len(TEXT) * 0.9)]
    assert head + corpus.tokenizer.decode(corpus.validation) == TEXT
    assert corpus.n_characters == len(TEXT)
    assert corpus.train.dtype == np.uint16
    first = corpus.tokenizer.n_bytes(corpus.validation[:1])
    assert corpus.validation_bytes == len(TEXT[len(head) :].encode()) - first


def test_validation_bytes_belong_to_the_targets_of_an_evaluation(book: Path) -> None:
    corpus = made(book, split=SplitConfig(by="document"), tokenizer={"name": "bpe"})
    sizes = corpus.tokenizer.token_bytes()
    total = 0
    for _, targets, _ in evaluation_windows(corpus.validation, 8, 3):
        total += int(sizes[targets[targets != MASKED]].sum())
    assert total == corpus.validation_bytes


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_documents_stand_between_ends_of_text(tokenizer: str, book: Path) -> None:
    corpus = made(book, split=SplitConfig(by="document"), tokenizer=tokenizer)
    end = corpus.tokenizer.special_tokens[END_OF_TEXT]
    documents = []
    for part in (corpus.train, corpus.validation):
        assert part[0] == part[-1] == end
        texts = corpus.tokenizer.decode(part).split(END_OF_TEXT)
        assert texts[0] == texts[-1] == ""
        documents.append(texts[1:-1])
    assert len(documents[0]) == 54
    assert len(documents[1]) == 6
    assert sorted(documents[0] + documents[1]) == sorted(TEXT.strip().split("\n\n"))


def test_documents_without_end_of_text_keep_their_separator(book: Path) -> None:
    corpus = made(
        book,
        split=SplitConfig(by="document"),
        tokenizer={"name": "char", "special_tokens": []},
    )
    assert corpus.tokenizer.special_tokens == {}
    shown = corpus.tokenizer.decode(corpus.validation)
    assert len(shown.split("\n\n")) == 6
    assert not shown.endswith("\n")


def test_files_are_documents_where_an_end_of_text_is_reserved(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name * 30, encoding="utf-8")
    config = DataConfig(
        text=[str(tmp_path / "one"), str(tmp_path / "two")],
        tokenizer={"name": "char", "special_tokens": [END_OF_TEXT]},
    )
    corpus = prepare(config, 4, cache=tmp_path)
    shown = corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.validation)
    assert shown == "one" * 30 + END_OF_TEXT + "two" * 30


def test_bpe_learns_from_the_training_part_only(book: Path) -> None:
    text = "a" * 900 + "zq" * 50
    book.write_text(text, encoding="utf-8")
    corpus = made(book, context=2, tokenizer="bpe")
    pieces = [corpus.tokenizer.piece(i) for i in range(256, corpus.tokenizer.vocab_size)]
    assert pieces
    assert b"zq" not in pieces
    assert made(book, tokenizer="char").tokenizer.vocab_size == 3


def test_a_token_file_is_reused_until_something_changes(book: Path) -> None:
    first = made(book)
    again = made(book)
    assert (first.reused, again.reused) == (False, True)
    assert again.token_file == first.token_file
    assert again.tokenizer.to_json() == first.tokenizer.to_json()
    np.testing.assert_array_equal(again.train, first.train)
    # What only the sampling or a longer context changes is no reason to build again.
    assert made(book, context=16, sampling="epoch").reused
    for change in (
        {"tokenizer": "byte"},
        {"tokenizer": {"name": "char", "unknown": "?"}},
        {"split": SplitConfig(validation_fraction=0.2)},
        {"split": SplitConfig(by="document")},
        {"split": SplitConfig(by="document", seed=1)},
        {"tokenizer_made": CharTokenizer.train([TEXT + "!"], CharConfig())},
    ):
        assert not made(book, **change).reused
        assert made(book, **change).reused
    book.write_text(TEXT + "x", encoding="utf-8")
    changed = made(book)
    assert not changed.reused
    assert changed.text_sha256 != first.text_sha256


def test_line_ends_do_not_change_the_tokens(book: Path) -> None:
    first = made(book)
    book.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert made(book).reused
    assert made(book).text_sha256 == first.text_sha256


def test_a_damaged_token_file_is_built_again(book: Path) -> None:
    first = made(book)
    expected = first.train.tolist()
    path = first.token_file
    del first
    path.write_bytes(path.read_bytes()[:-3])
    again = made(book)
    assert not again.reused
    assert again.train.tolist() == expected


def test_progress_ends_at_the_whole(book: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    made(book, progress=lambda *call: calls.append(call), split=SplitConfig(by="document"))
    last = {what: (done, total) for what, done, total in calls}
    assert set(last) == {"tokenizer", "training text", "validation text"}
    assert all(done == total > 0 for done, total in last.values())


def test_a_run_can_bring_its_tokenizer(book: Path) -> None:
    tokenizer = made(book).tokenizer
    book.write_text("the owl\n" * 40, encoding="utf-8")
    corpus = made(book, tokenizer_made=tokenizer)
    assert corpus.tokenizer is tokenizer
    assert tokenizer.decode(corpus.train).startswith("the owl\n")
    book.write_text("the owl\nÜber" * 40, encoding="utf-8")
    with pytest.raises(DataError, match=r"book\.txt: .*'Ü' \(U\+00DC\) at character 9 \(line 2,"):
        made(book, tokenizer_made=tokenizer)


@pytest.mark.parametrize(
    ("text", "context", "expected"),
    [
        ("ab" * 50, 90, "training part has 90 tokens, but a context of 90 needs at least 91"),
        ("ab" * 50, 10, "validation part has 10 tokens, but a context of 10 needs at least 11"),
        ("aaaa" * 50, 4, "one character over and over"),
        ("a", 1, "one character over and over"),
    ],
)
def test_too_little_text(text: str, context: int, expected: str, book: Path) -> None:
    book.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=expected) as caught:
        made(book, context=context)
    assert str(book) in str(caught.value)
    assert "\n" not in str(caught.value)
    # Just enough is enough.
    if "validation" in expected:
        assert made(book, context=9).n_validation == 10


@pytest.mark.parametrize("by", ["position", "document"])
def test_the_whole_text_of_another_file(by: Any, book: Path, tmp_path: Path) -> None:
    tokenizer = made(book, split=SplitConfig(by=by)).tokenizer
    other = tmp_path / "other.txt"
    other.write_text("the owl\n\nthe fox\n", encoding="utf-8")
    config = DataConfig(text=[str(other)], split=SplitConfig(by=by))
    ids = encode_all(config, tokenizer)
    end = END_OF_TEXT
    whole = f"{end}the owl{end}the fox{end}" if by == "document" else "the owl\n\nthe fox\n"
    assert ids.dtype == np.uint16
    assert tokenizer.decode(ids) == whole
    other.write_text("Ü", encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.txt: .*U\+00DC"):
        encode_all(config, tokenizer)


def test_token_files_that_no_one_used_for_long_are_deleted(book: Path) -> None:
    old, used = made(book), made(book, tokenizer="byte")
    for corpus in (old, used):
        os.utime(corpus.token_file, (0, 0))
    assert made(book, tokenizer="byte").reused
    made(book, tokenizer="bpe")
    assert not old.token_file.exists() or os.name == "nt"
    assert used.token_file.exists()
    assert old.tokenizer.decode(old.train) == TEXT[: int(len(TEXT) * 0.9)]


def test_inspect_counts(book: Path) -> None:
    config = DataConfig(text=[str(book)], split=SplitConfig(by="document"))
    counts = inspect(config, cache=book.parent)
    assert counts["characters"] == len(TEXT)
    assert counts["of these special"] == 1
    assert counts["tokens"] == counts["training tokens"] + counts["validation tokens"]


@pytest.mark.parametrize(
    "value",
    [
        "bpe",
        {"name": "bpe"},
        BpeConfig(),
        Choice("bpe", BpeConfig()),
    ],
)
def test_tokenizer_choice(value: Any) -> None:
    assert tokenizer_choice(value) == (BpeTokenizer, BpeConfig())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("chars", "did you mean 'char'"),
        (5, r"give a name \(bpe, byte, char"),
        ({"vocab_size": 5}, "give a name"),
        ({"name": "bpe", "vocab_size": 5}, r"data\.tokenizer\.vocab_size: .*256.*found 5"),
        ({"name": "char", "vocab": 5}, r"data\.tokenizer\.vocab: "),
    ],
)
def test_tokenizer_choice_refuses(value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        tokenizer_choice(value)
    assert "\n" not in str(caught.value)


def test_cache_folder_by_argument_environment_and_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.ENVIRONMENT_VARIABLE, str(tmp_path / "env"))
    assert cache.cache_folder("tokens") == tmp_path / "env" / "tokens"
    assert cache.cache_folder("tokens", tmp_path / "arg") == tmp_path / "arg" / "tokens"
    monkeypatch.delenv(cache.ENVIRONMENT_VARIABLE)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert cache.cache_folder("tokens") == tmp_path / "bptool" / "tokens"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match="set BPTOOL_CACHE_DIR to a folder that can"):
        cache.cache_folder("tokens", blocked)
    # The system's own place is no one's choice: a temporary folder does.
    monkeypatch.delenv(cache.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: blocked / name)
    monkeypatch.setenv(caches.TEMPORARY, "")  # and gone after the test
    with pytest.warns(BptoolWarning, match="file/bptool/tokens: Not a directory"):
        folder = cache.cache_folder("tokens")
    assert folder.is_dir()
    assert folder == cache.cache_folder("tokens")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_without_write_permission(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("bptool.caches.os.access", lambda path, mode: False)
    with pytest.raises(DataError, match="permission denied"):
        cache.cache_folder("tokens", tmp_path)
    assert stat.S_ISDIR((tmp_path / "tokens").stat().st_mode)
