"""The one reader of records: every kind of file, every form, and everything wrong said at once."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.data import json_values
from bptool.data.chat.records import FORMS, Message, Record, read_records
from bptool.data.decoding import Reading
from bptool.data.record_report import BadRecord, RecordReport
from bptool.data.records import RawRecord, encoded, parse_records
from bptool.data.tokenizers.char import CharTokenizer
from bptool.errors import DataError

TALK = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
ASKED = (Message("user", "Who?"), Message("assistant", "Ada."))
PAIRS = [{"prompt": f"ask {i}", "completion": f"say {i}, é"} for i in range(5)]


def lines_of(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def table_of(values: list[dict[str, str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(values[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(values)
    return out.getvalue()


def read(path: Path, **options: Any) -> list[Record]:
    report = RecordReport()
    found = read_records([path], report, **options)
    report.refuse()
    return found


LAYOUTS: dict[str, Callable[[], str | bytes]] = {
    "a.jsonl": lambda: lines_of(PAIRS),
    "blank.jsonl": lambda: "\n\n" + lines_of(PAIRS).replace("\n", "\r\n\r\n"),
    "mark.jsonl": lambda: b"\xef\xbb\xbf" + lines_of(PAIRS).encode(),
    "list.json": lambda: json.dumps(PAIRS),
    "pretty.json": lambda: json.dumps(PAIRS, indent=2),
    "pretty.jsonl": lambda: "\n".join(json.dumps(value, indent=2) for value in PAIRS),
    "flat.jsonl": lambda: "\n".join(json.dumps(value, indent=0) for value in PAIRS),
    "joined.jsonl": lambda: "".join(json.dumps(value) for value in PAIRS),
    "joined_pretty.jsonl": lambda: "".join(json.dumps(value, indent=1) for value in PAIRS),
    "wrapped.json": lambda: json.dumps({"data": PAIRS}),
    "wrapped_pretty.json": lambda: json.dumps({"version": "", "rows": PAIRS}, indent=1),
    "a.csv": lambda: table_of(PAIRS),
    "semicolons.csv": lambda: table_of(PAIRS, ";"),
    "a.tsv": lambda: table_of(PAIRS, "\t"),
    "a.jsonl.gz": lambda: gzip.compress(lines_of(PAIRS).encode()),
    "no_suffix_of_gzip.jsonl": lambda: gzip.compress(lines_of(PAIRS).encode()),
    "json_by_content": lambda: json.dumps(PAIRS),
    "table.txt": lambda: table_of(PAIRS, "\t"),
    "really_lines.csv": lambda: lines_of(PAIRS),
    "really_a_table.json": lambda: table_of(PAIRS),
    "wide.jsonl": lambda: lines_of(PAIRS).encode("utf-16"),
    "wide.csv": lambda: table_of(PAIRS).encode("utf-16"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_records(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, LAYOUTS[name]()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read(path)
    texts = [[message.content for message in record.messages] for record in found]
    assert texts == [[pair["prompt"], pair["completion"]] for pair in PAIRS]
    assert all(record.place.startswith(str(path)) for record in found)
    assert len({record.place for record in found}) == (1 if "joined" in name else len(PAIRS))


def test_parquet_and_zstandard_give_the_same_records(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    zstandard = pytest.importorskip("zstandard", reason="needs the extra zstd")
    rows = [{"messages": TALK, "prompt": None}, {"messages": None, "prompt": "x"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    (tmp_path / "by_content").write_bytes((tmp_path / "a.parquet").read_bytes())
    packed = zstandard.compress((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "a.parquet.zst").write_bytes(packed)
    for name in ("a.parquet", "by_content", "a.parquet.zst"):
        assert [record.messages for record in read(tmp_path / name)] == [ASKED]
    lines = zstandard.compress(lines_of(PAIRS).encode())
    (tmp_path / "a.jsonl.zst").write_bytes(lines)
    assert len(read(tmp_path / "a.jsonl.zst")) == len(PAIRS)
    (tmp_path / "cut.jsonl.zst").write_bytes(lines[:-9])
    with pytest.raises(DataError, match=r"cut\.jsonl\.zst: not a whole zstd file"):
        read(tmp_path / "cut.jsonl.zst")


def test_lists_in_cells_are_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [{"messages": json.dumps(TALK)}, {"messages": str(TALK)}]
    path.write_text(table_of(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"a.csv:3: the cell of messages is not a list in JSON"):
        read(path)
    path.write_text(table_of(rows[:1]), encoding="utf-8")
    assert [record.messages for record in read(path)] == [ASKED]
    path.write_text(table_of([{"prompt": json.dumps(TALK[:1]), "completion": "[1]"}]))
    assert [m.content for m in read(path)[0].messages] == ["Who?", "[1]"]


SYSTEM = Message("system", "Be brief.")
SAID = {
    "system": "Be brief.",
    "messages": TALK,
    "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada."}],
}
SAME = {
    "messages": {"messages": TALK},
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "W"}, {"type": "text", "text": "ho?"}],
            },
            TALK[1],
        ]
    },
    "ShareGPT": {"conversations": SAID["conversations"]},
    "names": {
        "conversations": [{"from": "user", "value": "Who?"}, {"from": "chatgpt", "value": "Ada."}]
    },
    "texts": {"prompt": "Who?", "completion": "Ada."},
    "lists": {"prompt": TALK[:1], "completion": TALK[1:]},
    "Alpaca": {"instruction": "Who?", "output": "Ada.", "input": ""},
    "nulls": {
        "prompt": "Who?",
        "completion": "Ada.",
        "messages": None,
        "system": None,
        "text": None,
    },
}


@pytest.mark.parametrize("name", SAME)
def test_every_form_of_a_conversation_is_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines_of([SAME[name], {**SAME[name], "system": "Be brief."}]))
    plain, with_system = read(path)
    assert plain.messages == ASKED
    assert with_system.messages == (SYSTEM, *ASKED)


def test_input_history_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    alpaca = {"instruction": "Say it.", "input": "it", "output": "it"}
    history = {**alpaca, "history": [["Hello", "Good day"]]}
    developer = {"messages": [{"role": "developer", "content": "Be brief."}, *TALK]}
    path.write_text(lines_of([alpaca, history, {"text": "once"}, developer]))
    first, second, text, third = read(path)
    asked = (Message("user", "Say it.\n\nit"), Message("assistant", "it"))
    assert first.messages == asked
    assert second.messages == (Message("user", "Hello"), Message("assistant", "Good day"), *asked)
    assert (text.messages, text.text) == ((), "once")
    assert third.messages == (SYSTEM, *ASKED)


def test_what_weighs_nothing_or_belongs_to_the_prompt_is_only_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    wrong = {"role": "assistant", "content": "Eve.", "weight": 0}
    right = {"role": "assistant", "content": "Ada.", "weight": 1}
    values = [
        {"messages": [TALK[0], wrong, TALK[0], right]},
        {"prompt": [*TALK, TALK[0]], "completion": "Ada."},
    ]
    path.write_text(lines_of(values))
    for record in read(path):
        answers = [m.trained for m in record.messages if m.role == "assistant"]
        assert answers == [False, True]
        assert len(record.opening) == 3


BROKEN = {
    "[1]": "is a list, not an object",
    "3": "is a number, not an object",
    "{": "not JSON",
    '{"text": "x"} x': "not JSON",
    '{"a": 1}': "has the keys 'a'; need messages; conversations; chosen and rejected",
    '{"prompt": "x"}': "completion is missing",
    '{"prompt": "x", "completion": null}': "completion is null",
    '{"prompt": "x", "completion": ""}': "completion is empty",
    '{"text": 3}': "text is not a text",
    '{"text": null}': "text is null",
    '{"messages": []}': "messages is not a list of messages",
    '{"messages": [{"role": "user", "content": "x"}]}': "nothing that the assistant says",
    '{"messages": [{"role": "bot", "content": "x"}]}': "the role 'bot'; known: system, user",
    '{"messages": [{"role": "tool", "content": "x"}]}': "the role 'tool'",
    '{"messages": [{"role": "user"}]}': "message 1 of messages has no content",
    '{"messages": [{"role": "assistant", "content": null, "tool_calls": [{}]}]}': "(tool_calls)",
    '{"messages": [{"role": "assistant", "function_call": {"a": 1}}]}': "(function_call)",
    '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}': "type 'image_url'",
    '{"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}': "the weight 0.5",
    '{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}': "with a weight of 1",
    '{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}': "first",
    '{"conversations": [{"from": "observation", "value": "x"}]}': "the role 'observation'",
    '{"instruction": "x", "output": "y", "history": ["a", "b"]}': "pair 1 of history",
    '{"chosen": "x", "rejected": "y"}': "finetune dpo",
    '{"system": "x", "messages": [{"role": "system", "content": "y"}]}': "the system too",
    '{"prompt": "x", "completion": "y", "text": "z"}': "has both prompt and completion and text; "
    "say which is meant with --form prompt or --form text (data.records.form)",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:60])
def test_a_broken_record_is_named_by_its_line_and_may_be_left_out(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n" + '{"text": "too"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(path)
    assert f"{path}:2: " in str(caught.value)
    assert BROKEN[line] in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    report = RecordReport()
    assert [record.text for record in read_records([path], report)] == ["fine", "too"]
    report.refuse(skip_bad=True)
    assert (report.n_records, report.n_bad) == (3, 1)
    assert report.left_out().startswith("1 record was left out: 1 ")


def test_the_form_decides_where_keys_fit_two(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines_of([{"messages": TALK, "text": "once"}]))
    assert read(path, form="messages")[0].messages == ASKED
    assert read(path, form="text")[0].text == "once"
    with pytest.raises(DataError, match="has the keys 'messages', 'text'; need instruction and"):
        read(path, form="instruction")
    assert list(FORMS) == ["messages", "conversations", "chosen", "instruction", "prompt", "text"]


def test_a_record_that_was_cut_short_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    pretty = json.dumps(PAIRS[2], indent=2)
    broken = pretty.replace("ask 2", 'ask "2')
    path.write_text(
        f'{lines_of(PAIRS[:1])}{{"prompt": "x",\n{lines_of(PAIRS[1:2])}{broken}\n{pretty}\n'
    )
    report = RecordReport()
    found = read_records([path], report)
    assert [record.messages[0].content for record in found] == ["ask 0", "ask 1", "ask 2"]
    with pytest.raises(DataError) as caught:
        report.refuse()
    assert report.bad == {"not JSON": 2}
    assert f"{path}:2: not JSON" in str(caught.value)
    assert f"{path}:4: not JSON" in str(caught.value)
    assert "line 2 of it" in str(caught.value)


def test_an_object_with_two_lists_is_no_guess(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": PAIRS, "test": PAIRS, "n": 2}))
    with pytest.raises(DataError, match="several lists of records, 'train' and 'test'"):
        read(path)


def test_every_fault_is_counted_by_kind_and_its_first_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = ["{}"] * 25 + ["not JSON"] * 2 + lines_of(PAIRS).split("\n")
    path.write_text("\n".join(rows))
    report = RecordReport()
    read_records([path], report)
    with pytest.raises(DataError) as caught:
        report.refuse()
    first, *lines = str(caught.value).split("\n")
    assert first.startswith("27 records are broken (25 of no known form, 2 not JSON); mend them")
    assert [line.split(": ")[0] for line in lines[:5]] == [f"  {path}:{n}" for n in range(1, 6)]
    assert lines[5] == "  and 20 more of no known form"
    assert [line.split(": ")[0] for line in lines[6:]] == [f"  {path}:26", f"  {path}:27"]
    assert report.left_out() == "27 records were left out: 25 of no known form, 2 not JSON"


def test_bytes_of_another_encoding_are_named_with_the_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "\xffa"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: byte 0xFF at character 11 is not UTF-8"):
        read(path)
    assert [r.text for r in read(path, reading=Reading(errors="skip"))] == ["fine", "a"]
    assert [r.text for r in read(path, reading=Reading(errors="replace"))] == ["fine", "\ufffda"]
    german = [{"text": f"Für Müßiggänger übrigens völlig unmöglich {i}."} for i in range(9)]
    lines = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in german)
    path.write_bytes(lines.encode("cp1252"))
    with pytest.raises(DataError, match=r"9 in another encoding[\s\S]*data.encoding=cp1252"):
        read(path)
    assert read(path, reading=Reading(encoding="cp1252"))[0].text == german[0]["text"]
    path.write_bytes(lines.encode("utf-16-le"))
    with pytest.raises(
        DataError, match=r"a.jsonl: looks like utf-16-le; .*data.encoding=utf-16-le"
    ):
        read(path)
    assert len(read(path, reading=Reading(encoding="utf-16-le"))) == 9


def test_keys_that_nothing_uses_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    named = [{**TALK[0], "name": "Bob", "weight": 1}, {**TALK[1], "refusal": None}]
    values = [{**PAIRS[0], "category": "x", "tags": [], "n": None}, {"messages": named, "id": 0}]
    path.write_text(lines_of([*values, {"text": "x", "category": "y"}]))
    report = RecordReport()
    read_records([path], report)
    report.refuse()
    assert report.unused == {"category": 2, "messages.name": 1, "messages.weight": 1, "id": 1}
    assert "the key 'category' of 2 records is not used" in list(report.notes())


def test_other_columns_may_be_taken_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines_of([{"prompt": "x", "answer": 3, "source": "y", "none": None}]))
    report = RecordReport()

    def parse(record: RawRecord) -> tuple[str, dict[str, Any]]:
        if "answer" not in record:
            raise BadRecord("has no answer")
        return record["prompt"], record.rest()

    assert list(parse_records([path], parse, report)) == [("x", {"answer": 3, "source": "y"})]
    assert report.unused == {}


def test_unknown_characters_are_counted_and_named_together() -> None:
    report, tokenizer = RecordReport(), CharTokenizer("ab")
    for number, text in enumerate(["ab", "xab", "yx", "\ud83d"], 1):
        ids = encoded(f"a.jsonl:{number}", lambda text=text: tokenizer.encode(text), report)
        assert (ids is None) == (number > 1)
    with pytest.raises(DataError) as caught:
        report.refuse()
    assert report.bad == {
        "with characters that the tokenizer does not know": 2,
        "with half of a surrogate pair": 1,
    }
    for part in (
        "a.jsonl:2: ",
        "a.jsonl:3: ",
        "a.jsonl:4: ",
        "'x' (U+0078) in 2 records",
        "U+0079",
    ):
        assert part in str(caught.value)


def test_folders_patterns_and_empty_files(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.jsonl").write_text(lines_of(PAIRS[:2]))
    (folder / "b.csv").write_text(table_of(PAIRS[2:]))
    (folder / "c.jsonl").write_text("")
    (folder / "README.md").write_text("# not a record")
    for name in (folder, folder / "*.[jc]s*"):
        report = RecordReport()
        assert len(read_records([name], report)) == len(PAIRS)
        assert [Path(name).name for name in report.empty_files] == ["c.jsonl"]
        assert "1 file is empty and was left out" in " ".join(report.notes())
    with pytest.raises(DataError, match="the file is empty; name one with records in it"):
        read(folder / "c.jsonl")
    (folder / "a.jsonl").write_text("\n")
    (folder / "b.csv").unlink()
    with pytest.raises(DataError, match="all files are empty"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x1f\x8b\x08\x00broken", "not a whole gzip file"),
        (b"[1, 2", "not JSON"),
        (b"Once upon a time.\nThere was", "holds no records; give JSON Lines"),
        (b"prompt,completion\n1,2,3\n", "a.txt:2: has 3 columns, and the first line 2"),
        (b"prompt,prompt\n1,2\n", "does not name every column once"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read(path)


def test_long_lines_and_records_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "MOST_CHARACTERS", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + 2_000_000 * "a" + '"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1: a line of over 1,000 characters"):
        read(path)
    path.write_text('\n{"text":\n' + 300 * "[\n" + 2000 * "1,\n")
    with pytest.raises(DataError, match=r"a.jsonl:2: a record of over 1,000 characters"):
        read(path)


@given(st.binary(max_size=200), st.sampled_from(["fuzzed.jsonl", "fuzzed.csv", "fuzzed"]))
def test_no_bytes_make_the_reader_fail_otherwise(
    tmp_path_factory: Any, data: bytes, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    said = str(path)
    try:
        read_records([path], RecordReport())
        read_records([path], RecordReport(), reading=Reading(errors="replace"))
    except DataError as error:
        said = str(error)
    assert str(path) in said


@given(st.text(st.sampled_from('[]{}:,"x1 \n'), max_size=40))
def test_objects_over_several_lines_are_those_of_json(text: str) -> None:
    """Whatever is one object after the other for a decoder is so for the reader."""
    expected, at, decoder = [], 0, json.JSONDecoder()
    try:
        while (at := len(text) - len(text[at:].lstrip())) < len(text):
            value, at = decoder.raw_decode(text, at)
            assert isinstance(value, dict)
            expected.append(value)
    except (ValueError, AssertionError):
        return
    for size in (1, 1000):
        slices = [text[i : i + size] for i in range(0, len(text), size)]
        found = [placed.value for placed in json_values.json_values(slices, Path("a.jsonl"))]
        assert found == expected
