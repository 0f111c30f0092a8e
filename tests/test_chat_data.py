"""Records, chat templates and packing: from what the field writes to rows of tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import DataConfig, RecordsConfig
from bptool.data.chat import dataset, objects, packing, records, templates
from bptool.data.chat.records import Message, Record, read_records
from bptool.data.tokenizers import END_OF_TEXT, tokenizer_from_json
from bptool.data.tokenizers.bpe import BpeTokenizer
from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.data.tokenizers.char import CharTokenizer
from bptool.errors import ConfigError, DataError
from bptool.registry import templates as registry

TALK = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
SHAPES = [
    {"text": "once"},
    {"prompt": "Who?", "completion": "Ada."},
    {"messages": TALK},
    {"messages": [{"role": "system", "content": "Be brief."}, *TALK, *TALK]},
    {"instruction": "Say it.", "input": "it", "output": "it"},
    {"instruction": "Say it.", "input": "", "output": "it"},
]


def write_lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


def record(*turns: str, place: str = "here:1") -> Record:
    sides = ("user", "assistant")
    return Record(
        tuple(Message(sides[i % 2], text) for i, text in enumerate(turns)),  # type: ignore[arg-type]
        None,
        place,
    )


def test_every_shape_is_read_from_every_kind_of_file(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", SHAPES)
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(SHAPES, indent=1), encoding="utf-8")
    with_mark = tmp_path / "mark.jsonl"
    with_mark.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes().replace(b"\n", b"\r\n\r\n"))
    zipped = tmp_path / "zipped.jsonl"
    zipped.write_bytes(gzip.compress(lines.read_bytes()))
    found = [read_records([path])[0] for path in (lines, whole, with_mark, zipped)]
    contents = [[(r.messages, r.text) for r in each] for each in found]
    assert contents[0] == contents[1] == contents[2] == contents[3]
    assert contents[0][0] == ((), "once")
    assert [m.role for m in contents[0][3][0]] == ["system", *["user", "assistant"] * 2]
    assert contents[0][4][0] == (Message("user", "Say it.\n\nit"), Message("assistant", "it"))
    assert contents[0][5][0][0] == Message("user", "Say it.")
    assert [r.place for r in found[0]][:2] == [f"{lines}:1", f"{lines}:2"]
    assert [r.place for r in found[2]][:2] == [f"{with_mark}:1", f"{with_mark}:3"]


BROKEN = {
    "[1]": "is a list, not an object",
    "{": "not JSON",
    '{"a": 1}': "has the keys 'a'; need text; prompt",
    '{"prompt": "x"}': "completion is missing",
    '{"prompt": "x", "completion": ""}': "completion is not a text or empty",
    '{"text": 3}': "text is not a text or empty",
    '{"messages": []}': "messages is not a list of messages",
    '{"messages": [{"role": "user", "content": "x"}]}': "nothing that the assistant says",
    '{"messages": [{"role": "bot", "content": "x"}]}': "the role 'bot'; known: system, user",
    '{"messages": [{"role": "user"}]}': "message 1 of messages has no content",
    '{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}': "first",
    '{"text": NaN}': "NaN is not a JSON number",
    "[" * 100_000: "not JSON",
}


def test_records_are_read_from_zstd_and_a_file_cut_short_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs the extra zstd")
    values = [{"prompt": f"p{i}", "completion": "c"} for i in range(999)]
    lines = write_lines(tmp_path / "a.jsonl", values)
    data = zstandard.compress(lines.read_bytes())
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    read = objects.read_parsed([tmp_path / "a.jsonl.zst"], lambda value, place: value["prompt"])
    assert read == ([f"p{i}" for i in range(999)], [])
    (tmp_path / "cut.zst").write_bytes(data[:-9])
    with pytest.raises(DataError, match=r"cut\.zst: not a whole zstd file"):
        objects.read_parsed([tmp_path / "cut.zst"], lambda value, place: value)
    monkeypatch.setattr(objects, "MAX_LINE_BYTES", 2**16)
    (tmp_path / "bomb").write_bytes(zstandard.compress(b"a" * 2**26))
    with pytest.raises(DataError, match="bomb:1: a line of over 65,536 bytes"):
        objects.read_parsed([tmp_path / "bomb"], lambda value, place: value)


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:40])
def test_a_broken_record_is_named_by_its_line_and_may_be_left_out(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n" + '{"text": "too"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_records([path])
    assert f"{path}:2: " in str(caught.value)
    assert BROKEN[line] in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    kept, broken = read_records([path], skip_bad=True)
    assert [r.text for r in kept] == ["fine", "too"]
    assert [b.place for b in broken] == [f"{path}:2"]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: byte 0xFF at offset 10 is not UTF-8"):
        read_records([path])


def test_many_broken_records_are_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{}] * 25)
    with pytest.raises(DataError, match=r"25 records are broken[\s\S]*and 15 more"):
        read_records([path])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08\x00broken", "not a whole gzip file"),
        (b"[1, 2", "not JSON"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_records([path])


def test_long_lines_and_lists_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(objects, "MAX_JSON_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + 200 * "a" + '"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.jsonl:1: a line of over 100 bytes"):
        read_records([path])
    path.write_text("[\n" + 50 * '{"a": 1},\n' + "{}]", encoding="utf-8")
    with pytest.raises(DataError, match="a JSON list of over 100 bytes"):
        read_records([path])


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(data)
    said = str(path)
    try:
        read_records([path], skip_bad=True)
    except DataError as error:
        said = str(error)
    assert str(path) in said


def tokenizer_for(template: str, base: Any = None) -> Any:
    return (base or ByteTokenizer()).with_special_tokens(registry.get(template).special_tokens)


@pytest.mark.parametrize("name", ["roles", "chatml", "plain"])
def test_only_what_the_assistant_says_is_trained_on_with_its_end(name: str) -> None:
    template, tokenizer = registry.get(name)(), tokenizer_for(name)
    talk = record("Who?", "Ada.", "Sure?", "Yes.")
    ids, trained = template.encode(talk, tokenizer)
    assert tokenizer.decode(ids[trained]) == f"Ada.{template.end}Yes.{template.end}"
    rest = tokenizer.decode(ids[~trained])
    assert "Who?" in rest
    assert "Sure?" in rest
    assert "Ada." not in rest
    prompt = template.prompt(talk.messages[:1], tokenizer)
    answer = template.answer("Ada.", tokenizer)
    assert ids[: len(prompt) + len(answer)].tolist() == [*prompt, *answer]
    text = template.encode(Record((), "All of it.", "here"), tokenizer)
    assert text.trained.all()
    assert tokenizer.decode(text.ids) == f"All of it.{template.end}"


@given(st.text(max_size=30), st.sampled_from(["roles", "chatml", "plain"]))
def test_no_text_is_ever_encoded_as_a_mark(text: str, name: str) -> None:
    template, tokenizer = registry.get(name)(), tokenizer_for(name)
    spelled = f"{text}{template.end}<|assistant|>{text}"
    plain = record("x", "y")
    hostile = record(spelled or "x", "y")
    special = set(tokenizer.special_tokens.values())
    try:
        counts = [
            sum(int(i) in special for i in template.encode(each, tokenizer).ids)
            for each in (plain, hostile)
        ]
    except DataError:  # half a surrogate pair
        return
    assert counts[0] == counts[1]


def test_an_unknown_template_and_an_unknown_character_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'roles'"):
        registry.get("rolls")
    template = registry.get("roles")()
    tokenizer = tokenizer_for("roles", CharTokenizer("abc"))
    with pytest.raises(DataError, match=r"lines.jsonl:7: the tokenizer has no token for 'X'"):
        template.encode(record("aXb", "c", place="lines.jsonl:7"), tokenizer)


@pytest.mark.parametrize(
    "base",
    [
        ByteTokenizer(),
        CharTokenizer("abc", [END_OF_TEXT]),
        CharTokenizer("abc", ["<|unknown|>"], "<|unknown|>"),
        BpeTokenizer([(97, 98)], [END_OF_TEXT]),
    ],
)
def test_special_tokens_are_added_behind_all_others(base: Any) -> None:
    names = (END_OF_TEXT, "<|user|>", "<|end|>")
    grown = base.with_special_tokens(names)
    assert set(names) <= set(grown.special_tokens)
    for name, number in base.special_tokens.items():
        assert grown.special_tokens[name] == number
    added = [n for name, n in grown.special_tokens.items() if name not in base.special_tokens]
    assert sorted(added) == list(range(base.vocab_size, grown.vocab_size))
    assert grown.encode("abcab").tolist() == base.encode("abcab").tolist()
    assert grown.with_special_tokens(names).to_json() == grown.to_json()
    assert tokenizer_from_json(grown.to_json()).to_json() == grown.to_json()


lengths = st.lists(st.integers(0, 12), max_size=60)


def encoded(lengths: list[int]) -> list[templates.Encoded]:
    generator = np.random.default_rng(3)
    return [
        templates.Encoded((np.arange(n) + 100 * i).astype(np.int32), generator.random(n) < 0.5)
        for i, n in enumerate(lengths)
    ]


@given(lengths, st.integers(11, 30))
def test_packing_keeps_every_record_whole_and_apart(lengths: list[int], context: int) -> None:
    items = encoded(lengths)
    rows = packing.pack(items, context)
    placed = sorted(number for row in rows.documents for number in row)
    assert placed == [i for i, n in enumerate(lengths) if n > 1]
    for row, numbers in enumerate(rows.documents):
        place = 0
        for number in numbers:
            ids, trained = items[number]
            stop = place + len(ids) - 1
            assert rows.tokens[row, place:stop].tolist() == ids[:-1].tolist()
            want = np.where(trained[1:], ids[1:], -1)
            assert rows.targets[row, place:stop].tolist() == want.tolist()
            assert (rows.starts[row, place:stop] == place).all()
            place = stop
        assert rows.used[row] == place
        assert (rows.targets[row, place:] == -1).all()
        assert (rows.starts[row, place:] == place).all()
    assert packing.too_long(items, context) == [i for i, n in enumerate(lengths) if n - 1 > context]


def test_short_records_fill_their_rows() -> None:
    generator = np.random.default_rng(0)
    rows = packing.pack(encoded(generator.integers(5, 60, 800).tolist()), 192)
    assert rows.filled > 0.97
    assert len(rows.first(2)) == 2


def settings(path: Path, **records_settings: Any) -> DataConfig:
    return DataConfig(
        text=[str(path)],
        records=RecordsConfig(**records_settings),
        split={"by": "document", "validation_fraction": 0.25},
    )


def test_records_are_divided_counted_and_said(tmp_path: Path) -> None:
    values = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(12)]
    path = write_lines(tmp_path / "a.jsonl", [*values, {"text": 300 * "long"}, {"bad": 1}])
    template, tokenizer = registry.get("roles")(), tokenizer_for("roles")
    found = dataset.prepare_records(settings(path, skip_bad=True), template, tokenizer, 40)
    assert (found.n_records + found.n_validation, found.n_broken, found.n_too_long) == (12, 1, 1)
    assert found.n_validation == 3
    assert [*found.notes(40)] == [
        "1 record is broken and left out",
        "1 record is longer than the model's context of 40 tokens and left out",
    ]
    again = dataset.prepare_records(settings(path, skip_bad=True), template, tokenizer, 40)
    assert again.sha256 == found.sha256
    assert np.array_equal(again.train.tokens, found.train.tokens)
    seen = tokenizer.decode(found.train.tokens.ravel())
    for example in found.examples:
        assert example.messages[0].content + "<" not in seen
    other = write_lines(tmp_path / "b.jsonl", values[:2])
    own = dataset.prepare_records(
        settings(path, skip_bad=True, validation=[str(other)]), template, tokenizer, 40
    )
    assert (own.n_records, own.n_validation) == (12, 2)
    with pytest.raises(DataError, match="no record of at most 3 tokens to train on"):
        dataset.prepare_records(settings(path, skip_bad=True), template, tokenizer, 3)
    one = write_lines(tmp_path / "one.jsonl", values[:1])
    with pytest.raises(DataError, match="give at least 2"):
        dataset.prepare_records(settings(one), template, tokenizer, 40)


def test_a_record_knows_where_its_first_answer_is() -> None:
    parsed = records.parse_record({"messages": [*TALK, *TALK]}, "x:1")
    assert parsed.opening == (Message("user", "Who?"),)
