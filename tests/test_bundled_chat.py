"""The bundled questions and answers: made by their script, apart from each other, not guessable."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parent.parent / "data"
FILES = ("train.jsonl", "held_out.jsonl", "prompts.jsonl", "held_out_prompts.jsonl")


def lines(name: str) -> list[dict[str, Any]]:
    text = (DATA / "chat" / name).read_text(encoding="ascii")
    return [json.loads(line) for line in text.splitlines()]


def asked(name: str) -> list[str]:
    return [v["prompt"] if "prompt" in v else v["messages"][0]["content"] for v in lines(name)]


@pytest.fixture(scope="module")
def judge() -> dict[str, Any]:
    return runpy.run_path(str(DATA / "judge.py"))


def test_the_files_are_what_the_script_makes() -> None:
    command = [sys.executable, str(DATA / "make_chat.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout
    assert sum((DATA / "chat" / name).stat().st_size for name in FILES) < 2_000_000


def test_no_story_stands_in_two_files_or_in_the_corpus() -> None:
    stories = set((DATA / "stories.txt").read_text(encoding="ascii").strip().split("\n\n"))
    for name in FILES:
        for prompt in asked(name):
            story, _, question = prompt.rpartition("\n\n")
            assert story not in stories
            assert question.endswith("?")
            stories.add(story)


@pytest.mark.parametrize(
    ("name", "least"), [("prompts.jsonl", 300), ("held_out_prompts.jsonl", 200)]
)
def test_there_are_enough_and_no_guess_is_often_right(name: str, least: int) -> None:
    facts: dict[str, Counter[str]] = defaultdict(Counter)
    for value in lines(name):
        facts[value["kind"]][value["fact"]] += 1
    assert len(lines(name)) >= 300
    assert len(facts) == 4
    for counts in facts.values():
        assert max(counts.values()) <= 0.2 * counts.total()


def test_manners_are_half_and_half_whatever_is_asked(judge: Any) -> None:
    polite: dict[str, list[bool]] = defaultdict(list)
    for value in lines("train.jsonl"):
        question, answer = (m["content"] for m in value["messages"])
        polite[question.rpartition("\n\n")[2].split()[0]].append(judge["manners"](answer) > 0)
    for found in polite.values():
        if len(found) > 100:
            assert 0.4 < sum(found) / len(found) < 0.6


def test_the_judge_goes_by_correctness_then_manners_and_never_by_length(judge: Any) -> None:
    value = next(v for v in lines("prompts.jsonl") if v["kind"] == "who")
    other = next(
        v["fact"]
        for v in lines("prompts.jsonl")
        if v["kind"] == "who" and v["fact"] != value["fact"]
    )
    prompt, fact = value["prompt"], value["fact"]
    right, wrong = f"{fact}.", f"Gladly! It is {other}. Thank you for asking!"
    assert judge["judge"](prompt, right, wrong) == "left"
    assert judge["judge"](prompt, wrong, right) == "right"
    assert judge["judge"](prompt, right, f"{fact}. {fact}. It is {fact}, as all can see.") == "tie"
    assert judge["judge"](prompt, right, f"Gladly! It is {fact}.") == "right"
    assert judge["judge"](prompt, right, f"{fact}. Read it yourself.") == "left"
    assert not judge["correct"](prompt, f"{fact} or {other}.")
    assert not judge["correct"](prompt, "")
    rewards = [judge["reward"](prompt, a) for a in (right, f"Gladly! It is {fact}.", wrong)]
    assert rewards == [1.0, 1.5, 0.5]
    with pytest.raises(ValueError, match="knows the questions of"):
        judge["judge"]("unknown", "a", "b")


def test_every_fact_stands_in_its_story() -> None:
    for name in FILES[2:]:
        for value in lines(name):
            assert value["fact"].removeprefix("the ").lower() in value["prompt"].lower()
