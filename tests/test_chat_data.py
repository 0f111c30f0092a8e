"""Records, chat templates and packing: from what the field writes to rows of tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import DataConfig, RecordsConfig
from bptool.data.chat import dataset, packing, records, templates
from bptool.data.chat.records import Message, Record
from bptool.data.record_report import RecordReport
from bptool.data.records import RawRecord
from bptool.data.tokenizers import END_OF_TEXT, tokenizer_from_json
from bptool.data.tokenizers.bpe import BpeTokenizer
from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.data.tokenizers.char import CharTokenizer
from bptool.errors import ConfigError, DataError
from bptool.registry import templates as registry

TALK = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]


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
    with pytest.raises(DataError, match=r"no token for 'X'.* nor for 'Y'"):
        template.encode(record("aXbY", "c"), tokenizer)


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
    assert found.n_records + found.n_validation == 12
    assert found.n_validation == 3
    assert [*found.report.notes()] == [
        "2 records were left out: 1 of no known form, "
        "1 longer than the model's context of 40 tokens"
    ]
    n_answers = 12 + sum(len(value["completion"]) for value in values)
    assert found.train.n_targets + found.validation.n_targets == n_answers
    assert str(found).startswith(f"9 records, {found.train.n_targets} tokens trained on; 3 records")
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
    value = {"messages": [*TALK, *TALK]}
    parsed = records.parse_record(RawRecord("x:1", value, RecordReport()))
    assert parsed.opening == (Message("user", "Who?"),)
