"""Texts of any size: in slices, within bounds of memory, and gone on with after an interruption."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import DataConfig, SplitConfig
from bptool.data import encoding, json_values, streams, survey, token_writer
from bptool.data.corpus import Corpus, prepare, texts_of_config
from bptool.data.decoding import Reading
from bptool.data.sources import Texts, read_sources
from bptool.data.split import documents_of, texts_of
from bptool.data.tokenizers.base import Tokenizer
from bptool.data.tokenizers.bpe import BpeConfig, BpeTokenizer
from bptool.data.tokenizers.thinning import thinning
from bptool.data.whole import encode_all, encode_each
from bptool.errors import DataError

TEXT = "".join(f"Tale {i}: the fox saw {i * 37 % 101} owls,\nand went.\n\n" for i in range(400))
TOKENIZERS: list[Any] = ["char", "byte", {"name": "bpe", "vocab_size": 300}]


class Stop(BaseException):
    """As sudden as Ctrl-C."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, pieces, batches and journals as small as the text needs them to be many; threads."""
    monkeypatch.setattr(streams, "CHUNK_BYTES", 61)
    monkeypatch.setattr("bptool.data.tokenizers.base.PIECE_CHARACTERS", 50)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 200)
    monkeypatch.setattr(encoding, "usable_cores", lambda: 3)
    monkeypatch.setattr(token_writer, "JOURNAL_CHARACTERS", 1000)
    monkeypatch.setattr("bptool.data.corpus.JOURNAL_CHARACTERS", 1000)


def config_of(folder: Path, tokenizer: Any, by: Any) -> DataConfig:
    path = folder / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return DataConfig(text=[str(path)], tokenizer=tokenizer, split=SplitConfig(by=by))


def same(a: Corpus, b: Corpus) -> bool:
    assert a.token_file is not None
    assert b.token_file is not None
    return a.token_file.read_bytes() == b.token_file.read_bytes()


@pytest.mark.parametrize("by", ["position", "document"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["char", "byte", "bpe"])
def test_how_a_text_is_sliced_changes_no_byte(
    tokenizer: Any, by: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = config_of(tmp_path, tokenizer, by)
    whole = prepare(config, 8, cache=tmp_path / "whole")
    request.getfixturevalue("small")
    assert same(prepare(config, 8, cache=tmp_path / "sliced"), whole)


@pytest.mark.parametrize("by", ["position", "document"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["char", "byte", "bpe"])
def test_interrupted_at_any_batch_it_goes_on(
    tokenizer: Any, by: Any, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, tokenizer, by)
    whole = prepare(config, 8, cache=tmp_path / "whole")
    encoded: list[int] = []
    inner = encoding._pieces

    def counted(*arguments: Any) -> Any:
        for piece in inner(*arguments):
            encoded.append(0)
            if len(encoded) == stop_at:
                raise Stop
            yield piece

    monkeypatch.setattr(encoding, "_pieces", counted)
    stop_at = 0
    prepare(config, 8, cache=tmp_path / "count")
    n = len(encoded)
    for stop_at in range(1, n, max(1, n // 7)):
        cache = tmp_path / f"at-{stop_at}"
        encoded.clear()
        with pytest.raises(Stop):
            prepare(config, 8, cache=cache)
        assert not list((cache / "tokens").glob("*.tokens"))
        encoded.clear()
        stop, stop_at = stop_at, 0
        again = prepare(config, 8, cache=cache)
        stop_at = stop
        assert not again.reused
        assert same(again, whole)
        assert [p.suffix for p in (cache / "tokens").iterdir()] == [".tokens"]


def test_what_was_made_is_not_made_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, {"name": "bpe", "vocab_size": 300}, "position")
    n = {"made": 0, "trained": 0}
    many, train = BpeTokenizer.encode_many, BpeTokenizer.train.__func__  # type: ignore[attr-defined]

    def counted(self: Tokenizer, texts: Any) -> Any:
        n["made"] += 1
        if n["made"] == stop_at:
            raise Stop
        return many(self, texts)  # type: ignore[arg-type]

    def trained(kind: Any, *arguments: Any) -> Any:
        n["trained"] += 1
        return train(kind, *arguments)

    monkeypatch.setattr(BpeTokenizer, "encode_many", counted)
    monkeypatch.setattr(BpeTokenizer, "train", classmethod(trained))
    stop_at = 0
    prepare(config, 8, cache=tmp_path / "whole")
    whole = n["made"]
    n["made"], stop_at = 0, whole - 2
    with pytest.raises(Stop):
        prepare(config, 8, cache=tmp_path / "cut")
    n["made"] = stop_at = n["trained"] = 0
    prepare(config, 8, cache=tmp_path / "cut")
    assert n["made"] < whole // 2
    assert n["trained"] == 0


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab. ,\n好。")))
def test_threads_give_the_ids_of_the_whole_text(parts: list[str]) -> None:
    tokenizer = BpeTokenizer.train([TEXT], BpeConfig(vocab_size=300))
    fragments = [(0, part) for part in parts if part]
    whole = tokenizer.encode("".join(parts)).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bptool.data.tokenizers.base.PIECE_CHARACTERS", 5)
        patch.setattr(encoding, "BATCH_CHARACTERS", 11)
        found = {}
        for n in (1, 3):
            patch.setattr(encoding, "usable_cores", lambda n=n: n)
            found[n] = list(encoding.encode_documents(iter(fragments), "", False, tokenizer))
    assert [i for batch in found[3] for i in batch.ids.tolist()] == whole
    assert [(*b.ids.tolist(), b.n_characters) for b in found[3]] == [
        (*b.ids.tolist(), b.n_characters) for b in found[1]
    ]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_threads_take_few_batches_at_once_and_return_them_in_order(n: int) -> None:
    taken, begun = [0], threading.Semaphore(0)

    def batches() -> Iterator[list[str | None]]:
        for i in range(40):
            taken[0] += 1
            yield [str(i)]

    def encoded(batch: list[str | None]) -> encoding.Batch:
        number = int(str(batch[0]))
        if number % 3 == 0 and number < 36 and n > 1:
            begun.acquire()  # a later one is done before it
        else:
            begun.release()
        return encoding.Batch(np.array([number], np.int32), 1)

    for number, batch in enumerate(encoding._in_threads(encoded, batches(), n)):
        assert batch.ids.tolist() == [number]
        assert taken[0] - number <= n + 1


def test_a_text_of_one_batch_takes_no_thread() -> None:
    def encoded(batch: list[str | None]) -> encoding.Batch:
        threads.append(threading.current_thread() is threading.main_thread())
        return encoding.Batch(np.zeros(len(batch), np.int32), 1)

    threads: list[bool] = []
    for n_batches, in_main in ((1, [True]), (2, [False, False])):
        threads.clear()
        assert len(list(encoding._in_threads(encoded, [["a"]] * n_batches, 3))) == n_batches
        assert threads == in_main


def test_threads_end_where_one_fails_or_the_taker_stops() -> None:
    done: list[str | None] = []

    def encoded(batch: list[str | None]) -> encoding.Batch:
        done.extend(batch)
        if batch == ["7"]:
            raise DataError("the seventh")
        return encoding.Batch(np.zeros(1, np.int32), 1)

    before = threading.active_count()
    found = encoding._in_threads(encoded, ([str(i)] for i in range(99)), 3)
    for _ in range(7):
        next(found)
    with pytest.raises(DataError, match="the seventh"):
        next(found)
    assert len(done) <= 7 + 1 + 3
    stopped = encoding._in_threads(encoded, ([str(i)] for i in range(20, 99)), 3)
    next(stopped)
    stopped.close()
    assert threading.active_count() == before


def test_learning_a_vocabulary_tells_how_far_it_is_and_stops_soon(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, {"name": "bpe", "vocab_size": 300}, "position")
    taken: list[str] = []
    goes_on = threading.Event()

    def train(kind: Any, texts: Any, settings: Any) -> Any:
        for piece in texts:
            taken.append(piece)
            if len(taken) > 20:
                goes_on.wait()
        raise AssertionError("it was to be stopped")

    def progress(what: str, done: int, total: int) -> None:
        if what == "tokenizer" and len(taken) > 20:
            told.append((done, total))
            threading.Timer(0.2, goes_on.set).start()
            raise token_writer.Halt

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(BpeTokenizer, "train", classmethod(train))
    with pytest.raises(token_writer.Halt):
        prepare(config, 8, progress, tmp_path / "cache")
    ((done, total),) = told
    assert done == sum(map(len, taken[:20]))
    assert total == int(len(TEXT) * 0.9)
    assert len(taken) == 21
    assert not list((tmp_path / "cache" / "tokens").iterdir())


@pytest.mark.parametrize("by", ["position", "document"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["char", "byte", "bpe"])
def test_a_whole_text_is_mapped_and_has_the_ids_of_one_read_at_once(
    tokenizer: Any, by: Any, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    config = config_of(tmp_path, tokenizer, by)
    known = prepare(config, 8, cache=tmp_path / "cache").tokenizer
    document, separator = by == "document", config.split.separator if by == "document" else ""
    texts = texts_of_config(config)
    fragments = documents_of(texts, separator) if document else texts_of(texts)
    batches = list(encoding.encode_documents(fragments, separator, document, known))
    assert len(batches) == 1
    request.getfixturevalue("small")
    found = encode_all(config, known, tmp_path / "cache")
    assert is_mapped(found)
    assert found.tolist() == batches[0].ids.tolist()
    with monkeypatch.context() as patched:  # what is there is not made again
        patched.setattr("bptool.data.whole.encode_documents", None)
        assert encode_all(config, known, tmp_path / "cache").tolist() == found.tolist()
    Path(config.text[0]).write_text(TEXT[:-2], encoding="utf-8")
    assert known.decode(encode_all(config, known, tmp_path / "cache"), True).endswith("went.")


def is_mapped(ids: Any) -> bool:
    while isinstance(ids, np.ndarray) and not isinstance(ids, np.memmap):
        ids = ids.base
    return isinstance(ids, np.memmap)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["char", "byte", "bpe"])
def test_texts_one_after_the_other_have_nothing_between_them(
    tokenizer: Any, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = prepare(config_of(tmp_path, tokenizer, "document"), 8, cache=tmp_path / "c").tokenizer
    assert known.special_tokens
    (tmp_path / "tales.jsonl").write_text(
        "".join(json.dumps({"text": f"the owl saw {n} owls"}) + "\n" for n in range(99)),
        encoding="utf-8",
    )
    names = [tmp_path / "book.txt", tmp_path / "tales.jsonl", tmp_path / "book.txt"]
    whole = np.concatenate([known.encode(source.text) for source in read_sources(names)]).tolist()
    add, n = token_writer.TokenWriter.add, 0

    def stopped(self: Any, *arguments: Any) -> None:
        nonlocal n
        n += 1
        if n == 70:
            raise Stop
        add(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(token_writer.TokenWriter, "add", stopped)
        with pytest.raises(Stop):
            encode_each(Texts(names), known, tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "tokens").glob("*.journal"))) == 1
    found = encode_each(Texts(names), known, tmp_path / "cache")
    assert is_mapped(found)
    assert found.tolist() == whole


def test_a_whole_text_takes_less_memory_than_its_size(tmp_path: Path) -> None:
    config = config_of(tmp_path, "byte", "position")
    known = prepare(config, 8, cache=tmp_path / "cache").tokenizer
    size = 24 * 2**20
    with open(config.text[0], "wb") as file:
        for _ in range(size // 2**16):
            file.write(b"the owl " * 2**13)
    tracemalloc.start()
    try:
        found = encode_all(config, known, tmp_path / "cache")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == size
    assert most < size  # held as int32, the ids alone would be four times that


@pytest.mark.parametrize("damage", ["", "{}", '{"format_version": 1}', "[" * 100_000, "other key"])
def test_a_damaged_journal_is_no_help_and_no_harm(
    damage: str, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "byte", "position")
    whole = prepare(config, 8, cache=tmp_path / "whole")
    add, n = token_writer.TokenWriter.add, [0]

    def stops(self: Any, *arguments: Any) -> None:
        n[0] += 1
        if n[0] == 40:
            raise Stop
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(token_writer.TokenWriter, "add", stops)
        with pytest.raises(Stop):
            prepare(config, 8, cache=tmp_path / "cut")
    (journal,) = (tmp_path / "cut" / "tokens").glob("*.journal")
    if damage == "other key":
        value = json.loads(journal.read_text(encoding="utf-8"))
        damage = json.dumps({**value, "key": "x"})
    journal.write_text(damage, encoding="utf-8")
    assert same(prepare(config, 8, cache=tmp_path / "cut"), whole)


def test_two_processes_may_make_the_same_file(tmp_path: Path) -> None:
    """The one that comes second writes a file of its own."""
    path = tmp_path / "a.tokens"
    with token_writer.TokenWriter(path, "k") as first, token_writer.TokenWriter(path, "k") as other:
        assert [first.is_resumable, other.is_resumable] == [True, False]
        for writer in (other, first):
            writer.begin({"a": 1}, 300)
            writer.add(token_writer.TRAIN, np.arange(5, dtype=np.int32), 5)
            writer.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["a.tokens"]


def test_a_text_that_changes_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "byte", "position")
    finish = token_writer.TokenWriter.begin

    def changes(self: Any, *arguments: Any) -> None:
        finish(self, *arguments)
        Path(config.text[0]).write_text(TEXT + "more", encoding="utf-8")

    monkeypatch.setattr(token_writer.TokenWriter, "begin", changes)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(config, 8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


def test_a_large_text_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "REMEMBERED_FROM", 1000)
    config = config_of(tmp_path, "byte", "document")
    path = Path(config.text[0])
    first = prepare(config, 8, cache=tmp_path / "cache")  # too new to be trusted
    assert not list((tmp_path / "cache" / "tokens").glob("*.survey.json"))
    monkeypatch.setattr(survey, "SETTLED_SECONDS", 0.0)
    prepare(config, 8, cache=tmp_path / "cache")
    kept = list((tmp_path / "cache" / "tokens").glob("*.survey.json"))
    assert len(kept) == 1

    def unread(path: Path) -> Iterator[bytes]:
        raise AssertionError(path)

    with monkeypatch.context() as patch:
        for module in ("sources", "decoding", "records"):
            patch.setattr(f"bptool.data.{module}.read_chunks", unread)
        again = prepare(config, 8, cache=tmp_path / "cache")
    assert again.reused
    assert again.text_sha256 == first.text_sha256
    assert again.n_characters == len(TEXT)
    kept[0].write_text("{}", encoding="utf-8")
    assert prepare(config, 8, cache=tmp_path / "cache").reused
    path.write_text(TEXT.replace("fox", "cat"), encoding="utf-8")
    assert prepare(config, 8, cache=tmp_path / "cache").text_sha256 != first.text_sha256


@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_hash_is_of_the_text_however_it_is_kept(
    name: str, line_end: str, tmp_path: Path, small: None
) -> None:
    data = TEXT.replace("\n", line_end).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    config = DataConfig(text=[str(path)])
    found = survey.survey(texts_of_config(config), config.split)
    plain = config_of(tmp_path / "..", "byte", "position")
    assert found.sha256 == survey.survey(texts_of_config(plain), plain.split).sha256
    assert (found.n_characters, found.n_bytes) == (len(TEXT), len(TEXT.encode()))
    assert found.characters == "".join(sorted(set(TEXT)))


def test_places_are_told_across_chunks(tmp_path: Path, small: None) -> None:
    path = tmp_path / "a.txt"
    good = "naïve\n".encode() * 40
    path.write_bytes(good + b"\xff" + good)
    with pytest.raises(DataError, match=rf"line 41: byte 0xFF at offset {len(good)} is not UTF-8"):
        assert read_sources([path])[0].text
    path.write_bytes(good + b"\0" + good)
    with pytest.raises(DataError, match=rf"line 41: .*NUL at byte {len(good)}"):
        assert read_sources([path])[0].text
    path.write_bytes(good + "ï".encode()[:1])
    with pytest.raises(DataError, match=rf"line 41: byte 0xC3 at offset {len(good)} is not UTF-8"):
        assert read_sources([path])[0].text
    path.write_bytes(("x\n" * 99 + "\0").encode("utf-16-le"))
    with pytest.raises(DataError, match=r"line 100: .*NUL at character 198"):
        assert read_sources([path], Reading(encoding="utf-16-le"))[0].text


@given(st.lists(st.one_of(st.text(max_size=20), st.fixed_dictionaries({"text": st.text()}))))
def test_lists_come_value_by_value_as_json_reads_them(values: list[Any]) -> None:
    text = json.dumps(values, indent=1)
    for size in (1, 3, 1000):
        slices = [text[i : i + size] for i in range(0, len(text), size)]
        found = [value for _, value, _ in json_values._list(iter(slices), Path("a.json"))]
        assert found == values


@given(st.text(st.sampled_from('[]{},"x1 \n'), max_size=30))
def test_lists_are_refused_as_json_refuses_them(rest: str) -> None:
    text = "[" + rest
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    for size in (1, 1000):
        slices = iter([text[i : i + size] for i in range(0, len(text), size)])
        try:
            found = [value for _, value, _ in json_values._list(slices, Path("a.json"))]
        except DataError:
            found = None
        assert found == expected


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.gz"])
def test_a_record_without_an_end_is_refused_soon(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "MOST_CHARACTERS", 1 << 16)
    read = [0]
    inner = streams.read_chunks

    def counted(path: Path) -> Iterator[bytes]:
        for chunk in inner(path):
            read[0] += len(chunk)
            yield chunk

    for module in ("sources", "decoding", "records"):
        monkeypatch.setattr(f"bptool.data.{module}.read_chunks", counted)
    path = tmp_path / name
    start = b'["' if name == "a.json.gz" else b'text\n"'
    path.write_bytes(gzip.compress(start + b"a" * (1 << 24)))
    with pytest.raises(DataError, match=str(path)):
        read_sources([path])
    assert read[0] <= 3 << 20


def test_a_vocabulary_is_learnt_within_a_limit_and_says_so() -> None:
    draw = np.random.default_rng(1)
    words = ["".join(map(chr, draw.integers(97, 123, 6))) for _ in range(150_000)]
    texts = [" ".join(words[i : i + 5000]) for i in range(0, len(words), 5000)]
    limited = BpeTokenizer.train(texts, BpeConfig(vocab_size=300, memory=16))
    assert "1/8 of the text" in limited.note
    assert "16 MB" in limited.note
    assert limited.merges == BpeTokenizer.train(texts, BpeConfig(vocab_size=300, memory=16)).merges
    whole = BpeTokenizer.train(texts[:2], BpeConfig(vocab_size=300))
    assert whole.note == ""


def test_what_is_counted_is_different_words() -> None:
    same_words = ["the cat sat on the mat " * 4000] * 50
    assert thinning(same_words, 1 << 20) == 1
    draw = np.random.default_rng(2)
    other = [" ".join(map(str, draw.integers(0, 10**9, 8000))) for _ in range(50)]
    needs = 400_000 * (120 + 78 * 10)
    assert thinning(other, round(needs * 1.2)) == 1
    assert thinning(other, round(needs * 0.8)) == 2
    assert thinning(other, round(needs * 0.8 / 4)) == 8


def test_the_script_of_large_texts_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource", reason="Windows does not say the peak of memory so")
    from benchmarks.reliability import large

    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(large, "STEPS", 2)
    found = large.train(tmp_path, 20_000, "byte")
    assert found["text_bytes"] >= 20_000
    assert 0 < found["peak_bytes_prepared"] <= found["peak_bytes"]
    assert (tmp_path / "run" / "manifest.json").exists()
