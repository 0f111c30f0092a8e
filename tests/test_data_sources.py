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

from bptool.config.data_section import DataConfig, SplitConfig
from bptool.data import streams
from bptool.data.corpus import prepare
from bptool.data.decoding import Reading
from bptool.data.inspection import inspect
from bptool.data.sources import Texts, read_sources
from bptool.data.survey import survey
from bptool.data.tokenizers import END_OF_TEXT
from bptool.data.tokenizers.char import CharTokenizer
from bptool.data.whole import encode_all
from bptool.errors import DataError, UserError
from bptool.recipes.training import settle

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
    with pytest.raises(DataError, match="the folder holds nothing to read"):
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
        with pytest.raises(DataError, match="not a whole parquet file"):
            texts(path)
        parquet.write_table(pyarrow.table({"text": [*TALES, None]}), path)
        assert texts(path) == TALES
        with pytest.raises(DataError, match=r"row 1: no field 'body' \('text'\)"):
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
        ("a.csv", "id,body\n1,x\n", r"a.csv:2: no field 'text' \('id', 'body'\)"),
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
    with pytest.raises(
        DataError, match=r"byte 0xE4 at offset 5 is not UTF-8.*data.encoding=cp1252"
    ):
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


SAID = {
    "ascii": "The cat sat on the mat.\nThe dog ran.\n" * 9,
    "german": "Für Müßiggänger war es völlig unmöglich, übrigens auch später nicht.\n" * 9,
    "russian": "Мама мыла раму, а папа читал газету и пил чай.\n" * 9,
    "japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 9,
    "chinese": "天下大势,分久必合,合久必分。周末七国分争,并入于秦。\n" * 9,
}


@pytest.mark.parametrize(
    ("said", "encoding"),
    [
        *((said, wide) for said in SAID for wide in ("utf-16-le", "utf-16-be", "utf-32-le")),
        *(("german", "cp1252"), ("russian", "cp1251"), ("russian", "koi8-r")),
        *(("japanese", "shift-jis"), ("japanese", "euc-jp"), ("chinese", "gbk")),
    ],
)
def test_what_a_text_looks_like_is_named_and_reads_it(
    tmp_path: Path, said: str, encoding: str
) -> None:
    path = write(tmp_path / "a.txt", SAID[said].encode(encoding))
    with pytest.raises(DataError, match=r"a.txt, line \d: .*data.encoding=") as caught:
        texts(path)
    assert "errors=replace" not in str(caught.value)
    named = str(caught.value).partition("data.encoding=")[2]
    assert texts(path, encoding=named) == texts(path, encoding="detect") == [SAID[said]]


def test_a_damaged_byte_of_utf8_is_no_other_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", SAID["german"].encode() + b"\xff\n")
    with pytest.raises(DataError, match=r"data.errors=replace or skip"):
        texts(path)


def test_marks_of_utf16_and_utf32_are_heeded_by_default(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        path = write(tmp_path / "a.txt", SAID["japanese"].encode(encoding))
        assert texts(path) == [SAID["japanese"]]


def test_empty_files_of_a_folder_are_left_out_and_empty_texts_counted(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    write(folder / "a.txt", "one")
    write(folder / "b.txt", "")
    write(folder / "c.txt", b"\xef\xbb\xbf")
    write(folder / "d.txt.gz", gzip.compress(b""))
    write(folder / "e.jsonl", lines_of([{"text": "two", "n": 1}, {"text": None}, {"text": " "}]))
    found = Texts([folder])
    assert [source.text for source in found] == ["one", "two"]
    assert [Path(name).name for name in found.report.empty_files] == ["b.txt", "c.txt", "d.txt.gz"]
    notes = list(found.report.notes())
    assert notes[0] == "2 records were left out: 2 without text"
    assert "the key 'n' of 1 record is not used" in notes
    for name in ("a.txt", "e.jsonl"):
        (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match="all files are empty"):
        list(Texts([folder]))


def test_everything_wrong_with_records_is_said_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "x"}\n{\n{"body": 1}\n{"text": "\\ud83d"}\n')
    other = write(tmp_path / "b.csv", "text\nx,y\n")
    with pytest.raises(DataError) as caught:
        list(Texts([path, other]))
    for part in ("4 records are broken", "a.jsonl:2: ", "a.jsonl:3: ", "a.jsonl:4: ", "b.csv:2: "):
        assert part in str(caught.value)


def test_marks_of_the_end_of_a_text_are_noticed(tmp_path: Path) -> None:
    said = "<|endoftext|>".join(f"The cat sat on mat {i}.\n" for i in range(80))
    path = write(tmp_path / "a.txt", said)
    config = DataConfig(text=[str(path)], tokenizer="char")
    (note,) = prepare(config, 4, cache=tmp_path / "cache").notes
    assert "<|endoftext|> stands in the text 79 times" in note
    assert "--set 'data.split.separator=<|endoftext|>'" in note
    cut = config.model_copy(update={"split": SplitConfig(by="document", separator="<|endoftext|>")})
    assert inspect(cut, cache=tmp_path / "cache")["documents"] == 80
    assert inspect(cut, cache=tmp_path / "cache")["notes"] == []


@pytest.mark.parametrize("cut", range(1, 13))
def test_marks_are_counted_wherever_a_text_is_sliced(
    tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHUNK_BYTES", cut)
    path = write(tmp_path / "a.txt", "ab<|endoftext|>c</s><|endoftext|><|endoftext|>d</s>")
    found = survey(Texts([path]), SplitConfig())
    assert "<|endoftext|> stands in the text 3 times" in found.notes
    assert "</s> stands in the text 2 times" in found.notes


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_documents_are_counted_whole(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "a.txt", "\n\n".join(f"Story {i} is short." for i in range(18)) + end)
    config = DataConfig(text=[str(path)], tokenizer="char")
    assert inspect(config, cache=tmp_path / "cache")["documents"] == 18


def test_a_vocabulary_of_characters_has_what_joins_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines_of([{"text": f"tale {i}"} for i in range(40)]))
    config = DataConfig(text=[str(path)], tokenizer="char")
    corpus = prepare(config, 4, cache=tmp_path / "cache")
    assert corpus.tokenizer.decode(corpus.train).startswith("tale 0\n\ntale 1\n\n")
    one = write(tmp_path / "one.jsonl", lines_of([{"text": "tale of one record " * 9}]))
    alone = prepare(config.model_copy(update={"text": [str(one)]}), 4, cache=tmp_path / "cache")
    assert "\n" not in alone.tokenizer.to_json()["characters"]
    # a model of that text is measured on records with nothing between them
    ids = encode_all(
        config.model_copy(update={"text": [str(path)]}), CharTokenizer("tale 0123456789")
    )
    assert CharTokenizer("tale 0123456789").decode(ids).startswith("tale 0tale 1")


def test_every_unknown_character_of_a_text_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "the cat\nthe é cat é\n\nx\n" + "the é\n" * 9)
    with pytest.raises(DataError) as caught:
        encode_all(DataConfig(text=[str(path)]), CharTokenizer("the ca\n"), tmp_path / "cache")
    first, *lines = str(caught.value).split("\n")
    assert first.startswith(f"{path}: the tokenizer has no token for 'é' (U+00E9) at character 13 ")
    places = ", ".join(f"{path}:{n}" for n in (2, 5, 6, 7, 8))
    assert lines == [f"  'é' (U+00E9) 11 times: {places}, ...", f"  'x' (U+0078) once: {path}:4"]
