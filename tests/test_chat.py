"""Talking with a model: history within the context, commands, and what a terminal shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.errors import DataError
from bptool.inference.answers import Answerer
from bptool.inference.conversation import LEAST_ROOM, Conversation
from bptool.inference.sampling import Sampling
from bptool.models.presets import GPT2, GPT2Config
from bptool.registry import templates
from bptool.training.workers import WorkerTeam

SAMPLING = Sampling(1.0, None, None, 3)


@pytest.fixture(scope="module")
def answerer() -> Any:
    tokenizer = ByteTokenizer().with_special_tokens(templates.get("roles").special_tokens)
    model = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, context=64), tokenizer.vocab_size)
    weights = model.layout.allocate(np.float32)
    model.initialise(weights, 1)
    with WorkerTeam(1) as team:
        yield Answerer(model, model.params(weights), team, tokenizer, templates.get("roles")())


def said(conversation: Conversation, text: str, max_tokens: int = 4) -> tuple[int, str]:
    fitted, pieces = conversation.say(text, max_tokens, SAMPLING)
    return fitted.n_dropped, "".join(pieces)


def test_the_oldest_turns_are_dropped_and_the_system_stays(answerer: Any) -> None:
    conversation = Conversation(answerer, "Hi")
    dropped = [said(conversation, f"number {i}")[0] for i in range(6)]
    assert dropped[0] == 0
    assert dropped[-1] > 0
    assert all(n % 2 == 0 for n in dropped)
    assert len(conversation.messages) == 12
    fitted = conversation.fitted(4)
    text = answerer.tokenizer.decode(fitted.ids)
    assert text.startswith("<|system|>Hi<|end|><|user|>")
    assert text.endswith("<|assistant|>")
    assert len(fitted.ids) + 4 <= 64
    long = Conversation(answerer)
    with pytest.raises(DataError, match=r"that is \d+ tokens; the model's context is 64"):
        long.say("x" * 60, 100, SAMPLING)
    assert long.messages == []
    assert len(answerer.template.prompt([], answerer.tokenizer)) + LEAST_ROOM < 64


def test_answers_follow_the_conversation_and_can_be_taken_back(answerer: Any) -> None:
    conversation = Conversation(answerer)
    _, first = said(conversation, "one", 8)
    assert conversation.messages[-1].content == first.strip()
    said(conversation, "two", 8)
    assert conversation.undo() == "two"
    assert conversation.undo() == "one"
    assert conversation.undo() is None
    assert said(conversation, "one", 8)[1] == first


def test_an_answer_that_is_broken_off_stays_as_far_as_it_was_read(answerer: Any) -> None:
    conversation = Conversation(answerer)
    _, pieces = conversation.say("one", 30, SAMPLING)
    read = next(pieces) + next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert [m.role for m in conversation.messages] == ["user", "assistant"]
    assert conversation.messages[1].content == read.strip()


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    """A run that was fine-tuned to answer, a little."""
    folder = tmp_path_factory.mktemp("chat")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        base = runs.settings(runs.write_text(folder), runs.GPT2 | {"context": 48}, steps=2)
        runs.train(runs.config_of(base), folder / "base")
        records = folder / "chat.jsonl"
        pair = {"prompt": "the cat", "completion": "sees a dog"}
        records.write_text(4 * (json.dumps(pair) + "\n"), encoding="utf-8")
        values = base | {"start": {"run": str(folder / "base")}, "chat": {"template": "roles"}}
        values["data"] = {"text": [str(records)], "records": {}, "split": {"by": "document"}}
        values["training"] = base["training"] | {"batch_size": 1}
        values["schedule"] = "constant"
        runs.train(runs.config_of(values), folder / "sft")
    return folder / "sft"


def talk(run: Path, text: str, *more: str, **options: Any) -> tuple[int, str, str]:
    process = runs.process("chat", str(run), *more, stdin=subprocess.PIPE, **options)
    shown, errors = process.communicate(text, timeout=300)
    return process.returncode, shown, errors


def test_a_conversation_from_lines(run: Path, tmp_path: Path) -> None:
    lines = [
        "the cat", "/retry", "/seed 5", "/retry", "/seed 5", "/temperature 0", "/temperature x",
        "/system a dog", "/system", "/undo", "/undo", "the dog", "/save talk.jsonl",
        "/save talk.jsonl", "/nothing", "/help", "/reset", "/save no.jsonl", "/seed -1", "",
    ]  # fmt: skip
    code, shown, errors = talk(
        run, "\n".join(lines), "--max-tokens", "8", "--temperature", "1", cwd=tmp_path
    )
    assert code == 0, errors
    for words in (
        "seed: 5", "temperature: 0", "/temperature needs a number, not 'x'", "system: a dog",
        "taken back: the cat", "there is nothing to undo", "saved to talk.jsonl",
        "no command /nothing", "forget the conversation", "the conversation is forgotten",
        "there is nothing to save", "seed is -",
    ):  # fmt: skip
        assert words in " ".join(shown.split()), words
    saved = (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(saved) == 2
    roles = [m["role"] for m in json.loads(saved[0])["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert not (tmp_path / "no.jsonl").exists()


def test_the_same_seed_gives_the_same_conversation(run: Path) -> None:
    text = "the cat\nthe dog\n"
    found = {talk(run, text, "--seed", seed, "--temperature", "1")[1] for seed in ("1", "1", "2")}
    assert len(found) == 2


def test_what_cannot_be_talked_with_is_refused(run: Path) -> None:
    code, _, errors = talk(run.parent / "base", "")
    assert (code, "was not trained to answer; teach it with" in errors) == (2, True)
    code, _, errors = talk(run, "", "--template", "plain")
    assert (code, "has no <|endoftext|>, which the template 'plain' needs" in errors) == (2, True)
    code, _, errors = talk(run, "", "--temperature", "-1")
    assert (code, "temperature is -1" in errors) == (2, True)
    code, shown, _ = talk(run, "a cat with a character: @\n")
    assert code == 0
    assert "no token for" in shown
