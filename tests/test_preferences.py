"""Preferences: the shapes that are read, what is refused, units, and the steps they fill."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.data_section import RecordsConfig, SplitConfig
from bptool.config.schema import DataConfig
from bptool.data.best_fit import best_fit_decreasing
from bptool.data.chat.records import Message
from bptool.data.chat.rendering import Rendering
from bptool.data.preference_set import (
    Document,
    Unit,
    UnitBatches,
    pack_documents,
    prepare_preferences,
)
from bptool.data.preferences import Judgement, Preference, Preferences, read_preferences
from bptool.data.record_report import RecordReport
from bptool.data.tokenizers.byte import ByteConfig, ByteTokenizer
from bptool.errors import DataError

ASKED = (Message("user", "who?"),)
ONE = {"role": "assistant", "content": "ann"}
OTHER = {"role": "assistant", "content": "bob"}
USER = {"role": "user", "content": "who?"}
EARLIER = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def written(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


SYSTEM = {"role": "system", "content": "Be kind."}
KIND = Message("system", "Be kind.")


def read(path: Path) -> Preferences:
    """What a file holds, none of it broken."""
    report = RecordReport()
    found = read_preferences([path], report)
    report.refuse()
    return found


@pytest.mark.parametrize(
    ("value", "prompt", "plain"),
    [
        ({"prompt": "who?", "chosen": "ann", "rejected": "bob"}, ASKED, True),
        ({"prompt": [USER], "chosen": [ONE], "rejected": [OTHER]}, ASKED, False),
        ({"prompt": [USER], "chosen": [USER, ONE], "rejected": [USER, OTHER]}, ASKED, False),
        ({"chosen": [USER, ONE], "rejected": [USER, OTHER]}, ASKED, False),
        ({"prompt": "who?\n", "chosen": [USER, ONE], "rejected": [USER, OTHER]}, ASKED, False),
        ({"prompt": "who?", "chosen": [ONE], "rejected": "bob"}, ASKED, False),
        ({"prompt": "who?", "chosen": ONE, "rejected": OTHER}, ASKED, False),
        (
            {"chosen": [USER, ONE | {"content": [{"type": "text", "text": "ann"}]}]}
            | {"rejected": [USER, OTHER]},
            ASKED,
            False,
        ),
        (
            {"prompt": "who?", "chosen": [SYSTEM, USER, ONE], "rejected": [SYSTEM, USER, OTHER]},
            (KIND, *ASKED),
            False,
        ),
        (
            {"system": "Be kind.", "prompt": "who?", "chosen": "ann", "rejected": "bob"},
            (KIND, *ASKED),
            False,
        ),
        (
            {"system": "Be kind.", "chosen": [USER, ONE], "rejected": [USER, OTHER]}
            | {"prompt": [USER]},
            (KIND, *ASKED),
            False,
        ),
        (
            {"conversations": [{"from": "human", "value": "who?"}]}
            | {"chosen": {"from": "gpt", "value": "ann"}}
            | {"rejected": {"from": "gpt", "value": "bob"}},
            ASKED,
            False,
        ),
        ({"instruction": "who?", "input": "", "chosen": "ann", "rejected": "bob"}, ASKED, False),
        (
            {
                "chosen": "\n\nHuman: who?\n\nAssistant: ann",
                "rejected": "\n\nHuman: who?\n\nAssistant: bob",
            },
            ASKED,
            False,
        ),
        (
            {"prompt": "\n\nHuman: who?\n\nAssistant:", "chosen": "ann", "rejected": "bob"},
            ASKED,
            False,
        ),
        (
            {"chosen": "who? ann", "rejected": "who? bob"},
            (Message("user", "who? "),),
            True,
        ),
    ],
)
def test_every_shape_of_a_pair_is_one_preference(
    tmp_path: Path, value: Any, prompt: Any, plain: bool
) -> None:
    path = written(tmp_path / "p.jsonl", value)
    assert read(path).pairs == (Preference(prompt, "ann", "bob", f"{path}:1", plain),)


TALK = [*EARLIER, USER]


@pytest.mark.parametrize(
    "value",
    [
        {"chosen": [*TALK, ONE], "rejected": [*TALK, OTHER]},
        {"prompt": "hi", "chosen": [*TALK, ONE], "rejected": [*TALK, OTHER]},
        {"prompt": "who? ", "chosen": [*TALK, ONE], "rejected": [*TALK, OTHER]},
        {"prompt": TALK, "chosen": "ann", "rejected": [*TALK, OTHER]},
        {"prompt": TALK, "chosen": [ONE], "rejected": [OTHER]},
        {
            "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: who?\n\nAssistant:",
            "chosen": " ann".strip(),
            "rejected": "bob",
        },
    ],
)
def test_the_beginning_that_whole_conversations_share_is_the_prompt(
    tmp_path: Path, value: Any
) -> None:
    (pair,) = read(written(tmp_path / "p.jsonl", value)).pairs
    assert [(m.role, m.content) for m in pair.prompt] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "who?"),
    ]
    assert (pair.chosen, pair.rejected) == ("ann", "bob")


def test_texts_that_all_repeat_their_prompt_are_read_without_it(tmp_path: Path) -> None:
    values = [
        {"prompt": f"Q: {i}\nA:", "chosen": f"Q: {i}\nA: yes", "rejected": f"Q: {i}\nA: no"}
        for i in range(3)
    ]
    path = written(tmp_path / "p.jsonl", *values)
    assert [(p.chosen, p.rejected) for p in read(path).pairs] == [(" yes", " no")] * 3
    other = {"prompt": "hello", "chosen": "hello there", "rejected": "what?"}
    pairs = read(written(path, *values, other)).pairs
    assert (pairs[0].chosen, pairs[-1].chosen) == ("Q: 0\nA: yes", "hello there")


def test_single_judgements_ties_and_skips(tmp_path: Path) -> None:
    path = tmp_path / "p.json.gz"
    values = [
        {"prompt": "who?", "completion": "ann", "label": True},
        {"prompt": "who?", "chosen": None, "rejected": None, "choice": "tie"},
        {"prompt": "who?", "chosen": None, "rejected": None, "choice": "skip"},
        {"prompt": "who?", "chosen": "ann", "rejected": "bob", "choice": "left", "seed": 3},
    ]
    path.write_bytes(gzip.compress(json.dumps(values).encode()))
    report = RecordReport()
    found = read_preferences([path], report)
    assert found.judgements == (Judgement(ASKED, "ann", True, f"{path}, record 1", True),)
    assert len(found.pairs) == 1
    assert list(report.notes()) == ["2 records were left out: 2 ties and skips"]


@pytest.mark.parametrize(
    ("label", "good"),
    [(True, True), (False, False), (1, True), (0, False), ("true", True), ("False", False)],
)
def test_labels_of_a_single_answer(tmp_path: Path, label: Any, good: bool) -> None:
    value = {"prompt": [SYSTEM, USER], "completion": [ONE], "label": label}
    whole = {"messages": [SYSTEM, USER, ONE], "label": label}
    found = read(written(tmp_path / "p.jsonl", value, whole)).judgements
    assert [(j.prompt, j.answer, j.good) for j in found] == [((KIND, *ASKED), "ann", good)] * 2


def test_columns_that_nothing_uses_are_named_with_their_number(tmp_path: Path) -> None:
    values = [
        {
            "prompt": "who?",
            "chosen": "ann",
            "rejected": "bob",
            "score_chosen": i,
            "messages": [USER],
        }
        for i in range(3)
    ]
    report = RecordReport()
    read_preferences([written(tmp_path / "p.jsonl", *values)], report)
    assert report.unused == {"score_chosen": 3, "messages": 3}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"prompt": "x", "chosen": "a"}, "rejected is missing or empty"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "are the same answer"),
        ({"prompt": "x", "completion": "a", "label": 2}, "label is 2, not true or false"),
        ({"prompt": "x", "completion": "a", "label": "good"}, "label is 'good', not true"),
        ({"prompt": "x", "completion": "a"}, "label is missing, not true or false"),
        ({"chosen": "a", "rejected": "b"}, "share no beginning"),
        ({"chosen": [USER, ONE], "rejected": [USER, ONE]}, "are the same answer"),
        ({"chosen": [ONE], "rejected": [OTHER]}, "share no beginning"),
        ({"prompt": [USER, ONE], "chosen": "a", "rejected": "b"}, "not the user"),
        ({"prompt": "x", "chosen": [ONE, USER, ONE], "rejected": "b"}, "more than one message"),
        ({"prompt": "x", "chosen": [{"role": "bot", "content": "a"}], "rejected": "b"}, "'bot'"),
        ({"prompt": "x", "chosen": [USER, ONE], "rejected": "b"}, "prompt does not stand"),
        (
            {"system": "Be rude.", "prompt": "who?", "chosen": [SYSTEM, USER, ONE]}
            | {"rejected": [SYSTEM, USER, OTHER]},
            "another system",
        ),
        ({"question": "x"}, "has the keys 'question'; need prompt, chosen and rejected"),
    ],
)
def test_what_is_broken_is_named_by_line_and_left_out_on_demand(
    tmp_path: Path, value: Any, reason: str
) -> None:
    good = {"prompt": "who?", "chosen": "ann", "rejected": "bob"}
    path = written(tmp_path / "p.jsonl", good, value)
    with pytest.raises(DataError, match=r"--skip-bad") as caught:
        read(path)
    assert f"{path}:2: " in str(caught.value)
    assert reason in str(caught.value)
    report = RecordReport()
    assert len(read_preferences([path], report).pairs) == 1
    assert report.n_bad == 1


def test_all_that_is_wrong_is_said_at_once_with_counts(tmp_path: Path) -> None:
    good = [{"prompt": f"who {i}?", "chosen": "ann", "rejected": "bob"} for i in range(4)]
    bad = [{"prompt": "x", "chosen": "a"}] * 2 + [
        {"prompt": "\ud800", "chosen": "a", "rejected": "b"}
    ]
    path = written(tmp_path / "p.jsonl", *good, *bad)
    with pytest.raises(DataError) as caught:
        prepare_preferences(data_config(path), rendering(), 48)
    first = str(caught.value).split("\n")[0]
    assert "3 records are broken (2 without rejected, 1 with half of a surrogate pair)" in first
    found = prepare_preferences(data_config(path, skip_bad=True), rendering(), 48)
    assert found.report.left_out() == (
        "3 records were left out: 2 without rejected, 1 with half of a surrogate pair"
    )


def test_turns_are_refused_by_line_where_nothing_would_say_who_speaks(tmp_path: Path) -> None:
    talk = {"prompt": TALK, "chosen": "ann", "rejected": "bob"}
    path = written(tmp_path / "p.jsonl", *[talk | {"chosen": str(i)} for i in range(3)])
    with pytest.raises(DataError, match=r"p.jsonl:3: has 3 turns, .* --template roles"):
        prepare_preferences(data_config(path), rendering(None), 64)


def test_the_held_out_pairs_are_parted_by_prompt(tmp_path: Path) -> None:
    values = [
        {"prompt": f"who {i // 2}?", "chosen": f"ann {i}", "rejected": "bob"} for i in range(400)
    ]
    path = written(tmp_path / "p.jsonl", *values)
    whole = prepare_preferences(data_config(path), rendering(), 48)
    config = data_config(path, judged_fraction=0.5).model_copy(
        update={"split": SplitConfig(validation_fraction=0.5)}
    )
    parted = prepare_preferences(config, rendering(), 48)
    assert whole.test == ()
    assert len(parted.validation) == len(parted.test) == 100
    parts = [{unit.prompt for unit in part} for part in (parted.validation, parted.test)]
    assert not parts[0] & parts[1]
    few = prepare_preferences(data_config(path, judged_fraction=0.7), rendering(), 48)
    assert (len(few.validation), few.test) == (40, ())  # too few would be left to choose by


def rendering(template: str | None = "roles") -> Rendering:
    tokenizer = ByteTokenizer.train([], ByteConfig())
    names = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return Rendering(template, tokenizer.with_special_tokens(names))


def data_config(path: Path, **records: Any) -> DataConfig:
    return DataConfig(text=[str(path)], records=RecordsConfig(**records))


def test_units_are_divided_by_prompt_and_long_ones_counted(tmp_path: Path) -> None:
    values = [
        {"prompt": f"who {i // 2}?", "chosen": f"ann {i}", "rejected": "bob"} for i in range(40)
    ]
    values += [{"prompt": "who?", "chosen": "ann", "rejected": 90 * "x"}]
    path = written(tmp_path / "p.jsonl", *values)
    found = prepare_preferences(data_config(path), rendering(), context=48)
    assert len(found.train) + len(found.validation) == 40
    prompts = [{unit.prompt for unit in part} for part in (found.train, found.validation)]
    assert not prompts[0] & prompts[1]
    assert prompts[1]
    assert list(found.report.notes()) == [
        "1 record was left out: 1 longer than the model's context of 48 tokens"
    ]
    again = prepare_preferences(data_config(path), rendering(), context=48)
    assert again.sha256 == found.sha256
    first = found.train[0].first
    text = found.rendering.text(first.ids[first.n_prompt :])
    assert text.startswith("ann")
    assert first.ids[-1] == found.rendering.end_id


def test_kto_takes_pairs_and_judgements_and_mixes_answers_of_others(tmp_path: Path) -> None:
    values: list[Any] = [
        {"prompt": f"who {i}?", "completion": f"ann {i}", "label": i % 2 == 0} for i in range(4)
    ]
    values.append({"prompt": "and?", "chosen": "yes", "rejected": "no"})
    path = written(tmp_path / "p.jsonl", *values)
    found = prepare_preferences(data_config(path), rendering(), 48, single_sided=True)
    units = [*found.train, *found.validation]
    assert sorted(unit.label for unit in units) == [-1, -1, -1, 1, 1, 1]
    for unit in units:
        assert np.array_equal(
            unit.first.ids[: unit.first.n_prompt], unit.second.ids[: unit.second.n_prompt]
        )
        assert not np.array_equal(unit.first.ids, unit.second.ids)
    with pytest.raises(DataError, match="finetune dpo RUN --loss kto"):
        prepare_preferences(data_config(written(path, *values[:4])), rendering(), 48)


def test_a_run_without_a_template_goes_on_from_the_text(tmp_path: Path) -> None:
    path = written(
        tmp_path / "p.jsonl",
        *({"prompt": f"once {i} ", "chosen": "up", "rejected": "down"} for i in range(3)),
    )
    found = prepare_preferences(data_config(path), rendering(None), 48)
    unit = found.train[0]
    assert bytes(unit.first.ids[: unit.first.n_prompt].tolist()).startswith(b"once")


def test_the_owner_of_each_target_and_the_last_token() -> None:
    a, b = (Document(np.arange(n, n + 5, dtype=np.int32), 2) for n in (10, 20))
    packed = pack_documents([a, b], 9, scored=False)
    assert packed.owner.tolist() == [-1, 0, 0, 0, -1, 1, 1, 1, -1]
    assert packed.rows.targets.reshape(-1).tolist() == [-1, 12, 13, 14, -1, 22, 23, 24, -1]
    scored = pack_documents([a, b], 12, scored=True)
    assert scored.rows.tokens.reshape(-1)[scored.last].tolist() == [14, 24]
    assert (scored.rows.targets == -1).all()
    assert scored.rows.starts.reshape(-1).tolist() == [0] * 5 + [5] * 5 + [10] * 2


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(1, 6))
def test_rows_hold_every_document_and_no_more_than_their_room(
    lengths: list[int], most: int
) -> None:
    rows = best_fit_decreasing(lengths, 20)
    assert rows is not None
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    assert all(sum(lengths[n] for n in row) <= 20 for row in rows)
    # a row was opened only for what no other had room for: no two have room for each other
    assert sum(1 for row in rows if sum(lengths[n] for n in row) <= 10) <= 1
    expected = rows if len(rows) <= most else None
    assert best_fit_decreasing(lengths, 20, most) == expected
    assert best_fit_decreasing([*lengths, 21], 20) is None


def test_the_longest_documents_are_placed_first() -> None:
    # in their own order they take three rows
    assert best_fit_decreasing([4, 5, 6, 5], 10) == [[2, 0], [1, 3]]


def test_steps_are_filled_with_what_fits_of_the_units_to_come() -> None:
    rng = np.random.default_rng(4)
    documents = [Document(np.zeros(n, np.int32), 1) for n in rng.integers(14, 43, 800)]
    units = [Unit(a, b, 0, ASKED, "") for a, b in zip(documents[::2], documents[1::2], strict=True)]
    steps = UnitBatches(units, 64, 12, 0, scored=False).epoch(0)[:-4]
    used = [sum(len(d.ids) - 1 for i in step for d in units[i][:2]) for step in steps]
    assert np.mean(used) > 0.92 * 64 * 12


LENGTHS = st.lists(st.tuples(st.integers(2, 20), st.integers(2, 20)), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 6), st.integers(0, 5))
def test_every_unit_is_drawn_once_an_epoch_in_rows_that_hold_it(
    lengths: list[tuple[int, int]], n_rows: int, seed: int
) -> None:
    units = [
        Unit(*(Document(np.zeros(n, np.int32), 1) for n in both), 0, ASKED, "") for both in lengths
    ]
    batches = UnitBatches(units, 20, n_rows, seed, scored=False)
    for epoch in range(2):
        steps = batches.epoch(epoch)
        assert sorted(i for step in steps for i in step) == list(range(len(units)))
        for step in steps:
            documents = [d for i in step for d in units[i][:2]]
            n = len(pack_documents(documents, 20, scored=False).rows)
            assert n <= n_rows or len(step) == 1
    first = len(batches.epoch(0))
    assert batches.batch(first + 1) == batches.epoch(1)[0]
    assert batches.steps(2.0) == first + len(batches.epoch(1))
