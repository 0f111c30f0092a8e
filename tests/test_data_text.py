"""Reading texts: each way a file can be no text is one clear line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.data.sources import read_sources
from bptool.errors import DataError


def read_texts(paths: Iterable[Path | str]) -> list[str]:
    return [source.text for source in read_sources(list(paths))]


def read_text(path: Path | str) -> str:
    (text,) = read_texts([path])
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.txt"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"one\r\ntwo\rthree\n\r\n", "one\ntwo\rthree\n\n"),
        ("naïve €\U0001f600".encode(), "naïve €\U0001f600"),
    ],
)
def test_what_is_read(data: bytes, text: str, path: Path) -> None:
    path.write_bytes(data)
    assert read_text(path) == read_text(str(path)) == text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"abc\0def", r"line 1: not a text file \(NUL at byte 3\)"),
        (b"a\nb\ncaf\xe9\n", r"book\.txt, line 3: byte 0xE9 at offset 7 is not UTF-8"),
        (b"abc\xe2\x82", r"line 1: byte 0xE2 at offset 3 is not UTF-8"),
        (b"\xed\xa0\x80", r"byte 0xED at offset 0"),
    ],
)
def test_what_is_refused(data: bytes, expected: str, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError, match=expected) as caught:
        read_text(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        read_text(tmp_path / "gone.txt")
    with pytest.raises(DataError, match="the folder holds nothing to read"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="cannot be the name of a file"):
        read_text("a\0b")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable here")
def test_a_file_without_permission(path: Path) -> None:
    path.write_text("secret", encoding="utf-8")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        read_text(path)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_survives(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
        assert read_text(path) == text.replace("\r\n", "\n")


def test_several_files_keep_their_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert read_texts([tmp_path / "b", tmp_path / "a"]) == ["b", "a"]
