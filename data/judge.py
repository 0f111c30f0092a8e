"""A rule-based stand-in for a reviewer of the bundled questions, for ``--judge`` and ``--reward``.

It is a stand-in and says so: what it prefers was written down in advance, so that an experiment
can be repeated. An answer is **correct** if it names the fact that ``chat/*prompts.jsonl`` keeps
for the question, and nothing else of the same kind. Of two answers the correct one is better; of
two that are alike in that, the one with better **manners**: polite words count for it, rude ones
against it. Length never counts, and what is equal in both is a tie.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("chat")
FILES = ("prompts.jsonl", "held_out_prompts.jsonl")
POLITE = ("thank you", "gladly", "please", "you are welcome")
RUDE = ("read it yourself", "what else", "who cares")


@cache
def _facts() -> tuple[dict[str, tuple[str, str]], dict[str, set[str]]]:
    """Kind and fact of each prompt, and every fact of each kind."""
    prompts, kinds = {}, {}
    for name in FILES:
        for line in (FOLDER / name).read_text(encoding="ascii").splitlines():
            value = json.loads(line)
            prompts[value["prompt"]] = value["kind"], value["fact"]
            kinds.setdefault(value["kind"], set()).add(value["fact"])
    return prompts, kinds


def _says(answer: str, fact: str) -> bool:
    bare = fact.removeprefix("the ")
    return re.search(rf"\b{re.escape(bare)}\b", answer, re.IGNORECASE) is not None


def correct(prompt: str, answer: str) -> bool:
    """Whether ``answer`` names the fact that ``prompt`` asks for, and no other of its kind."""
    prompts, kinds = _facts()
    if prompt not in prompts:
        raise ValueError("the judge knows the questions of data/chat/*prompts.jsonl only")
    kind, fact = prompts[prompt]
    others = {f for f in kinds[kind] if not _says(fact, f)}
    return _says(answer, fact) and not any(_says(answer, other) for other in others)


def manners(answer: str) -> int:
    """1 polite, 0 plain, -1 rude."""
    said = answer.lower()
    if any(words in said for words in RUDE):
        return -1
    return 1 if any(words in said for words in POLITE) else 0


def judge(prompt: str, left: str, right: str) -> str:
    """``left``, ``right`` or ``tie``."""
    scores = [(correct(prompt, answer), manners(answer)) for answer in (left, right)]
    if scores[0] == scores[1]:
        return "tie"
    return "left" if scores[0] > scores[1] else "right"


def reward(prompt: str, answer: str) -> float:
    """1 for a correct answer, and half a point for or against its manners."""
    return float(correct(prompt, answer)) + 0.5 * manners(answer)
