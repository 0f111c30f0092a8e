"""Make the bundled questions and answers: ``python data/make_chat.py [--out FOLDER] [--check]``.

Stories as in ``stories.txt``, but other ones and shorter, each with a question that is answered
from the story's facts. The same script makes the same bytes everywhere; ``--check`` compares them
with the files, ``--stats`` describes them. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import make_stories
from stories_world import Story

TARGET = Path(__file__).with_name("chat")
CORPUS = Path(__file__).with_name("stories.txt")
PARTS = {
    "train.jsonl": (1600, 11),
    "held_out.jsonl": (150, 12),
    "prompts.jsonl": (320, 13),
    "held_out_prompts.jsonl": (300, 14),
}
"""Questions of each file, and the seed of its stories."""
KINDS = ("who", "where", "helper", "what")
MOST_ALIKE = 0.17
MOST_WORDS = 116
"""Of a story: with question and answer it fits into the 192 tokens of configs/quickstart.yaml."""
TRIES = 4
"""Tellings of a beat to choose from; the corpus takes more, to repeat itself less."""
POLITE = ("The answer is {}. Thank you for asking!", "Gladly! It is {}.")
BLUNT = ("{}.", "{}. Read it yourself.")
"""Manners are drawn for each answer, half polite and half blunt, whatever is asked."""

WHO = ("Who is the story about?", "Who is this tale about?", "Whose story is this?")
WHERE = ("Where does it happen?", "Where does the story happen?", "In what place are we?")
HELPER = ("Who helped {}?", "Who came to help {}?", "Who was of help to {}?")
WHAT = {
    "animal": ("Which animal did {} help?", "What animal was in trouble?"),
    "borrowed": ("What did {} borrow?", "What was lent to {}?"),
    "errand": ("What did {} carry?", "What had {} to deliver?"),
    "gift": ("What did {} make?", "What was the gift that {} made?"),
    "homeward": ("What did {} fetch?", "What did {} bring home?"),
    "plant": ("What did {} plant?", "What did {} grow?"),
    "share": ("What did {} share?", "What did {} have to eat?"),
    "lost": ("What did {} lose?", "What was lost?"),
    "quarrel": ("What did they quarrel about?", "What was broken in the quarrel?"),
    "trade": ("What did {} want to have?", "What did {} trade for?"),
}
"""Questions about a plot's thing; the other plots have none that is worth a question."""


@dataclass(frozen=True)
class Question:
    """A story, a question about it, and the fact that answers it."""

    story: str
    kind: str
    question: str
    fact: str

    @property
    def prompt(self) -> str:
        return f"{self.story}\n\n{self.question}"


def questions(story: Story) -> Iterator[Question]:
    """Every question that the facts of ``story`` answer, in one wording each."""
    rng, hero = story.world.rng, story.hero.name
    yield Question(story.text, "who", rng.choice(WHO), hero)
    if story.place:
        yield Question(story.text, "where", rng.choice(WHERE), f"the {story.place}")
    if story.helper and story.helper != hero:
        yield Question(story.text, "helper", rng.choice(HELPER).format(hero), story.helper)
    if story.plot in WHAT and story.thing:
        asked = rng.choice(WHAT[story.plot]).format(hero)
        yield Question(story.text, "what", asked, f"the {story.thing}")


def short_stories(seed: int, avoid: set[str]) -> Iterator[Story]:
    """Stories without the beats that they can do without, none of them in ``avoid``."""

    def leave_out(story: Story, rule: str, **roles: object) -> None:
        story.roles.update(roles)  # type: ignore[arg-type]

    rules, seen, index = make_stories.all_rules(), Counter[str](), 0
    plots = list(make_stories.PLOTS)
    with (
        mock.patch.object(Story, "maybe", leave_out),
        mock.patch.object(make_stories, "TRIES", TRIES),
    ):
        while True:
            rng = random.Random(f"chat {seed} {index}")
            story = make_stories.simulate(rng.choice(plots), rng)
            make_stories.tell(story, rules, seen)
            index += 1
            if len(story.text.split()) <= MOST_WORDS and story.text not in avoid:
                avoid.add(story.text)
                yield story


def make(n: int, seed: int, avoid: set[str]) -> Iterator[Question]:
    """``n`` questions, each about a story of its own; the kinds take turns.

    No answer is right for more than ``MOST_ALIKE`` of the questions of its kind.
    """
    kinds: list[str] = []
    facts = Counter[tuple[str, str]]()
    stories = short_stories(seed, avoid)
    for _ in range(n):
        kinds = kinds or list(KINDS)
        while True:
            found = {q.kind: q for q in questions(next(stories))}
            question = found.get(kinds[0])
            if question and facts[question.kind, question.fact] < MOST_ALIKE * n / len(KINDS):
                facts[question.kind, question.fact] += 1
                kinds.pop(0)
                yield question
                break


def answer(question: Question, rng: random.Random) -> str:
    """The fact, politely or bluntly."""
    manner = rng.choice(POLITE if rng.random() < 0.5 else BLUNT)
    said = manner.format(question.fact)
    return said[:1].upper() + said[1:]


def files() -> dict[str, str]:
    """The text of every file, by name."""
    avoid = set(CORPUS.read_text(encoding="ascii").strip().split("\n\n"))
    found = {}
    for name, (n, seed) in PARTS.items():
        rng = random.Random(f"manners {seed}")
        lines = []
        for question in make(n, seed, avoid):
            if "prompts" in name:
                value = {"prompt": question.prompt, "kind": question.kind, "fact": question.fact}
            else:
                said = [("user", question.prompt), ("assistant", answer(question, rng))]
                value = {"messages": [{"role": r, "content": c} for r, c in said]}
            lines.append(json.dumps(value) + "\n")
        found[name] = "".join(lines)
    return found


def statistics() -> Iterator[str]:
    """How many questions of each kind, and how often the commonest answer would be right."""
    avoid = set(CORPUS.read_text(encoding="ascii").strip().split("\n\n"))
    for name, (n, seed) in PARTS.items():
        facts: dict[str, Counter[str]] = {}
        for question in make(n, seed, avoid):
            facts.setdefault(question.kind, Counter())[question.fact] += 1
        for kind, counts in facts.items():
            (fact, most), total = counts.most_common(1)[0], counts.total()
            yield f"{name:22} {kind:8} {total:6} {100 * most / total:6.1f} %  {fact}"


def main() -> int:
    """Write, check or describe the files; 1 where ``--check`` finds others."""
    parser = argparse.ArgumentParser(description="Make the bundled questions and answers.")
    parser.add_argument("--out", type=Path, default=TARGET, help="folder to write or check")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--stats", action="store_true", help="print statistics, write nothing")
    options = parser.parse_args()
    if options.stats:
        print("\n".join(statistics()))
        return 0
    texts = files()
    if options.check:
        wrong = [
            name
            for name, text in texts.items()
            if not (options.out / name).is_file()
            or (options.out / name).read_bytes() != text.encode("ascii")
        ]
        print(f"{options.out}: {', '.join(wrong) + ' differ' if wrong else 'as generated'}")
        return 1 if wrong else 0
    options.out.mkdir(exist_ok=True)
    for name, text in texts.items():
        (options.out / name).write_bytes(text.encode("ascii"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
