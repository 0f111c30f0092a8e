"""Texts from what people have: folders, patterns, records, compressed files, other encodings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st

from bptool.cli.training_request import settle
from bptool.config.data_section import DataConfig
from bptool.data.corpus import prepare
from bptool.data.decoding import Reading
from bptool.data.sources import read_sources
from bptool.data.tokenizers import END_OF_TEXT
from bptool.errors import DataError, UserError

NAMES = ["a.txt", "a.jsonl", "a.json", "a.csv", "a.txt.gz"]
TALES = ["One tale.", "Another, of\n\ntwo parts.", "café"]


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def texts(*names: Any, **reading: Any) -> list[str]:
    return [source.text for source in read_sources(names, Reading(**reading))]


def lines_of(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_folders_and_patterns_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "c/d.txt", "notes.pdf", "c/e.txt.gz"):
        data = name.encode()
        write(tmp_path / "texts" / name, gzip.compress(data) if name.endswith("gz") else data)
    folder = tmp_path / "texts"
    assert texts(folder) == ["a.md", "b.txt", "c/d.txt", "c/e.txt.gz"]
    assert texts(folder / "*.txt") == ["b.txt"]
    assert texts(folder / "**" / "*.txt*") == ["b.txt", "c/d.txt", "c/e.txt.gz"]
    assert texts(folder / "[ab].*") == ["a.md", "b.txt"]
    odd = write(tmp_path / "what[1].txt", "its own name")
    assert texts(odd) == ["its own name"]
    with pytest.raises(DataError, match=r"no file matches the pattern"):
        texts(folder / "*.rst")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder holds no text"):
        texts(tmp_path / "empty")


def records(tmp_path: Path) -> dict[str, Path]:
    """The same three documents in every kind of file."""
    values = [{"text": tale, "id": i} for i, tale in enumerate(TALES)]
    rows = "id,text\n" + "".join(f'{i},"{tale}"\n' for i, tale in enumerate(TALES))
    found = {
        "lines": write(tmp_path / "a.jsonl", lines_of(values) + "\n"),
        "list": write(tmp_path / "a.json", json.dumps(values, indent=1)),
        "texts": write(tmp_path / "b.json", lines_of(TALES)),
        "rows": write(tmp_path / "a.csv", rows),
        "zipped": write(tmp_path / "c.jsonl.gz", gzip.compress(lines_of(values).encode())),
    }
    return found


def test_every_record_is_a_document(tmp_path: Path) -> None:
    for path in records(tmp_path).values():
        sources = read_sources([path])
        assert [source.text for source in sources] == TALES
        assert all(source.is_document for source in sources)
        assert str(path) in sources[1].place


def test_parquet_and_zstandard_where_they_are_installed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", b"PAR1 and no more")
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        with pytest.raises(DataError, match=r'pip install "bptool\[parquet\]"'):
            texts(path)
    else:
        with pytest.raises(DataError, match="not a parquet file"):
            texts(path)
        parquet.write_table(pyarrow.table({"text": [*TALES, None]}), path)
        assert texts(path) == TALES
        with pytest.raises(DataError, match=r"no column 'body' \('text'\)"):
            texts(path, field="body")
    packed = write(tmp_path / "a.txt.zst", b"no zstandard")
    try:
        import zstandard
    except ImportError:
        with pytest.raises(DataError, match=r'pip install "bptool\[zstd\]"'):
            texts(packed)
    else:
        with pytest.raises(DataError, match="not a whole zstd file"):
            texts(packed)
        packed.write_bytes(zstandard.compress("café".encode()))
        assert texts(packed) == ["café"]


def test_documents_are_kept_apart_by_their_token(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", lines_of([{"text": f"tale {i}\n\nof two"} for i in range(20)])
    )
    special = {"name": "byte", "special_tokens": [END_OF_TEXT]}
    for by in ("document", "position"):
        config = DataConfig(text=[str(path)], tokenizer=special, split={"by": by})
        corpus = prepare(config, 4, cache=tmp_path / by)
        text = corpus.tokenizer.decode(corpus.train)
        assert f"tale 1\n\nof two{END_OF_TEXT}" in text
    plain = DataConfig(text=[str(path)], tokenizer="char")
    corpus = prepare(plain, 4, cache=tmp_path / "plain")
    assert "of two\n\ntale 1\n\nof two\n\ntale 2" in corpus.tokenizer.decode(corpus.train)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl", '{"text": "x"}\n{', r"a.jsonl:2: not JSON"),
        ("a.jsonl", '{"body": "x"}', r"a.jsonl:1: no field 'text' \('body'\); name one with data"),
        ("a.jsonl", '{"text": 3}', r"a.jsonl:1: the field 'text' is not a text"),
        ("a.json", "[1]", r"a.json, record 1: no field 'text' \(no fields\)"),
        ("a.json", '["x",', "not JSON"),
        ("a.jsonl", '{"text": " "}', "no record has text in its field 'text'"),
        ("a.csv", "id,body\n1,x\n", r"a.csv:1: no column 'text' \('id', 'body'\)"),
        ("a.txt.gz", "not gzip", "not a whole gzip file"),
        ("a.json", "[" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, data: str, reason: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(DataError, match=reason):
        texts(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_marks_tell_the_encoding_where_it_is_to_be_detected(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", "naïve €\r\n".encode(encoding))
    assert texts(path, encoding="detect") == ["naïve €\n"]


def test_an_encoding_is_named_or_detected(tmp_path: Path) -> None:
    said = "Der Bär läßt die Tür öffnen, für Müßiggänger übrigens völlig unmöglich. " * 4
    path = write(tmp_path / "a.txt", said.encode("latin-1"))
    with pytest.raises(DataError, match=r"byte 0xE4 at offset 5 is not UTF-8"):
        texts(path)
    assert texts(path, encoding="latin-1") == [said]
    assert texts(path, encoding="detect") == [said]
    for name in ("latin-99", "hex", "rot13", "undefined", "a\0b"):
        with pytest.raises(DataError, match="no encoding of texts is called"):
            texts(path, encoding=name)


@pytest.mark.parametrize("line", [r'{"text": "a\ud800"}', r'{"text": "a\u0000"}'])
def test_escapes_that_are_no_characters_are_errors_or_mended(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.jsonl", f"{line}\n")
    with pytest.raises(DataError, match=r"a.jsonl:1.*data.errors=replace or skip"):
        texts(path)
    assert texts(path, errors="replace") == ["a\ufffd"]
    assert texts(path, errors="skip") == ["a"]


def test_nuls_are_found_in_any_encoding_and_marks_by_any_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\0b".encode("utf-16"))
    with pytest.raises(DataError, match=r"not a text file \(NUL at character 1\)"):
        texts(path, encoding="utf-16")
    marked = write(tmp_path / "b.txt", b"\xef\xbb\xbfmarked")
    assert texts(marked, encoding="utf8") == texts(marked, encoding="U8") == ["marked"]


def test_bytes_that_are_no_characters_may_be_replaced_or_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\nt\xffw\0o")
    with pytest.raises(DataError, match=r"line 2: not a text file \(NUL at byte 7\)"):
        texts(path)
    assert texts(path, errors="replace") == ["one\nt�w�o"]
    assert texts(path, errors="skip") == ["one\ntwo"]


@given(
    st.binary(max_size=300), st.sampled_from(["a.txt", "a.jsonl", "a.json", "a.csv", "a.txt.gz"])
)
def test_no_bytes_make_a_reader_fail_otherwise(
    tmp_path_factory: Any, data: bytes, name: str
) -> None:
    path = write(tmp_path_factory.getbasetemp() / name, data)
    said = str(path)
    try:
        texts(path)
        texts(path, errors="replace")
    except DataError as error:
        said = str(error)
    assert str(path) in said


def test_a_folder_of_texts_is_trained_on_and_a_run_is_not(tmp_path: Path) -> None:
    text = runs.write_text(tmp_path, 4000).read_text(encoding="utf-8")
    write(tmp_path / "texts" / "a.txt", text)
    request = settle([str(tmp_path / "texts")], [], [], tmp_path / "out", False)
    assert request.config.data.text == [str(tmp_path / "texts")]
    write(tmp_path / "run" / "manifest.json", "{}")
    with pytest.raises(UserError, match="holds a run; to go on with it, add --resume"):
        settle([str(tmp_path / "run")], [], [], None, False)
