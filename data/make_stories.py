"""Make the bundled corpus of short stories: ``python data/make_stories.py [--out FILE] [--check]``.

Every story is simulated first (``stories_plots_*.py`` over ``stories_world.py``) and told
afterwards (``stories_grammar.py``). The same script makes the same bytes everywhere; ``--check``
compares them with the file, ``--stats`` describes them. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import stories_phrases
import stories_plots_people
import stories_plots_things
import stories_plots_world
from stories_grammar import Rules, Teller, runs, sentences
from stories_world import Story, World

SEED = 1
N_STORIES = 1600
TRIES = 40
MOST_WORDS = 150
TARGET = Path(__file__).with_name("stories.txt")
MODULES = (stories_plots_things, stories_plots_people, stories_plots_world)
PLOTS = {name: plot for module in MODULES for name, plot in module.PLOTS.items()}
TRAITS = {name: traits for module in MODULES for name, traits in module.TRAITS.items()}


def all_rules() -> Rules:
    """Every phrase rule of the corpus."""
    rules = Rules()
    rules.add(stories_phrases.SHARED)
    for module in MODULES:
        rules.add(module.RULES)
    return rules


def simulate(plot: str, rng: random.Random) -> Story:
    """Let one story happen: its facts and its beats, not yet its words."""
    world = World(rng, plot)
    hero = world.hero(list(PLOTS).index(plot), rng.choice(TRAITS[plot]))
    story = Story(plot, world, hero)
    story.roles = {
        "H": hero,
        "when": stories_phrases.opening(rng),
        "home": rng.choice(("mill", "river", "school", "market", "station", "bridge", "park")),
        "who": rng.choice(stories_phrases.TRAITS[hero.trait].split("|")),
    }
    PLOTS[plot](story)
    return story


def tell(story: Story, rules: Rules, seen: Counter[str]) -> None:
    """Put ``story`` into words, preferring sentences that no story has used yet.

    Of ``TRIES`` tellings of a beat, the first that repeats nothing is taken, else the least
    repetitive; a sentence counts as often as ``seen`` has it, a run of four words that stands in
    this story already counts three.
    """
    teller = Teller(rules, story.world.rng, story.hero)
    told: set[tuple[str, ...]] = set()
    for beat in story.beats:
        start, best, least = teller.discourse, "", sys.maxsize
        for _ in range(TRIES):
            teller.discourse = start.copy()
            text = teller.tell(beat.rule, beat.roles)
            new = runs(text)
            cost = sum(seen[s] for s in sentences(text))
            cost += 3 * (sum(run in told for run in new) + new.total() - len(new))
            if cost < least:
                best, least, after = text, cost, teller.discourse
            if cost == 0:
                break
        teller.discourse = after
        told.update(runs(best))
        story.text = f"{story.text} {best}".strip()


def make(n_stories: int = N_STORIES, seed: int = SEED) -> Iterator[Story]:
    """Yield ``n_stories`` different stories; the plots take turns in a shuffled order."""
    rules, seen = all_rules(), Counter[str]()
    plots: list[str] = []
    for index in range(n_stories):
        if not plots:
            plots = list(PLOTS)
            random.Random(f"{seed} plots {index}").shuffle(plots)
        plot, attempt, story = plots.pop(), 0, None
        while story is None or len(story.text.split()) > MOST_WORDS:
            story = simulate(plot, random.Random(f"{seed} story {index} {attempt}"))
            tell(story, rules, seen)
            attempt += 1
        seen.update(sentences(story.text))
        yield story


def corpus_text(stories: list[Story]) -> str:
    """The stories, one a line, with a blank line between."""
    return "\n\n".join(story.text for story in stories) + "\n"


def statistics(text: str) -> dict[str, float]:
    """What ``--stats`` prints: how much there is, and how often sentences repeat."""
    stories = text.strip().split("\n\n")
    words = re.findall(r"[a-z']+", text.lower())
    every = Counter(s for story in stories for s in sentences(story))
    total = sum(every.values())
    return {
        "bytes": len(text.encode("ascii")),
        "stories": len(stories),
        "words": len(words),
        "distinct words": len(set(words)),
        "words a story": len(words) / len(stories),
        "sentences": total,
        "words a sentence": len(words) / total,
        "share of sentences that occur once": sum(n == 1 for n in every.values()) / total,
        "share of the commonest sentence": max(every.values()) / total,
    }


def main() -> int:
    """Write, check or describe the corpus; 1 where ``--check`` finds another text."""
    parser = argparse.ArgumentParser(description="Make the bundled corpus of short stories.")
    parser.add_argument("--out", type=Path, default=TARGET, help="file to write or check")
    parser.add_argument("--check", action="store_true", help="compare with the file, write nothing")
    parser.add_argument("--stats", action="store_true", help="print statistics")
    options = parser.parse_args()
    text = corpus_text(list(make()))
    if options.stats:
        for name, value in statistics(text).items():
            print(f"{name:36} {value:12,.4f}" if value % 1 else f"{name:36} {value:12,.0f}")
    if options.check:
        same = options.out.is_file() and options.out.read_bytes() == text.encode("ascii")
        print(f"{options.out}: {'as generated' if same else 'differs from what is generated'}")
        return 0 if same else 1
    options.out.write_bytes(text.encode("ascii"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
