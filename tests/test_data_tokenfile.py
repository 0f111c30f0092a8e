"""Token files: what is written is what is mapped, and damage never goes unseen."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.data import tokenfile
from bptool.data.token_writer import TRAIN, VALIDATION, TokenWriter
from bptool.data.tokenfile import open_token_file
from bptool.errors import DataError


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def write(path: Path, **changes: Any) -> None:
    settings: dict[str, Any] = {
        "key": "k",
        "vocab_size": 300,
        "tokenizer": {"a": "é"},
        "train": [ids(1, 2, 299), ids(), ids(4)],
        "validation": [ids(5)],
    }
    settings |= changes
    with TokenWriter(path, settings["key"]) as writer:
        writer.begin(settings["tokenizer"], settings["vocab_size"])
        for part, name in ((TRAIN, "train"), (VALIDATION, "validation")):
            for some in settings[name]:
                writer.add(part, some, len(some))
        writer.finish()


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(300, np.uint16), (65536, np.uint16), (65537, np.uint32)]
)
def test_round_trip(vocab_size: int, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    write(path, vocab_size=vocab_size, validation=[ids(vocab_size - 1)])
    file = open_token_file(path, "k")
    assert file.train.tolist() == [1, 2, 299, 4]
    assert file.validation.tolist() == [vocab_size - 1]
    assert file.train.dtype == dtype
    assert file.header["tokenizer"] == {"a": "é"}
    assert (file.header["n_train"], file.header["n_validation"]) == (4, 1)
    assert not file.train.flags.writeable
    assert file.train.ctypes.data % 64 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_empty_parts(tmp_path: Path) -> None:
    write(tmp_path / "t", train=[], validation=[ids()])
    file = open_token_file(tmp_path / "t", "k")
    assert len(file.train) == len(file.validation) == 0


def test_another_key_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t")
    with pytest.raises(DataError, match="another text or tokenizer"):
        open_token_file(tmp_path / "t", "other")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        open_token_file(tmp_path / "t", "k")


@given(cut=st.integers(0, 10_000), extra=st.integers(0, 3))
def test_any_other_length_is_refused(
    cut: int, extra: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "length"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: cut % len(data)] if extra == 0 else data + b"\0" * extra)
    with pytest.raises(DataError):
        open_token_file(path, "k")


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_never_gives_an_id_outside_the_vocabulary(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    write(path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    file = None
    with contextlib.suppress(DataError):
        file = open_token_file(path, "k")
    if file is not None:
        everything = np.concatenate([file.train, file.validation])
        assert everything.max() < file.header["vocab_size"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"BPTOKENS", b"BPTOKENZ", "not a token file"),
        (b'"format_version": 1', b'"format_version": 2', "unknown format_version"),
        (b'"n_train": 4', b'"n_train": 5', "its header speaks of 6 tokens"),
        (b'"n_train": 4', b'"n_train": x', "damaged header"),
        (b'"n_train": 4', b'"n_train":-4', "damaged header"),
        (b'"n_train": 4', b'"m_train": 4', "damaged header"),
        (b'"uint16"', b'"uint99"', "another text or tokenizer"),
        (b'"vocab_size": 300', b'"vocab_size": 299', "outside the vocabulary"),
    ],
)
def test_damage_by_kind(old: bytes, new: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    write(path)
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(DataError, match=expected):
        open_token_file(path, "k")


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Any:
        yield ids(1)
        raise DataError("unknown character")

    with pytest.raises(DataError, match="unknown character"):
        write(tmp_path / "t", validation=breaks())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bptool.files.os.fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        write(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_made_and_mapped_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mapped(source: Any, target: Any) -> None:
        raise PermissionError(13, "Access is denied")

    path = tmp_path / "t"
    write(path)
    before = path.read_bytes()
    monkeypatch.setattr("bptool.files.os.replace", mapped)
    write(path)
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_large_files_are_checked_in_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenfile, "_CHECK_TOKENS", 2)
    write(tmp_path / "t", validation=[ids(0, 0, 0, 300)])
    with pytest.raises(DataError, match="outside the vocabulary"):
        open_token_file(tmp_path / "t", "k")
