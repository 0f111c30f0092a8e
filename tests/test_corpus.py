"""The bundled corpus: reproducible to the byte, varied, and true to its simulated world."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
sys.path.insert(0, str(DATA))

import make_stories  # noqa: E402
import stories_grammar  # noqa: E402
import stories_world  # noqa: E402
from stories_world import Person, Story, Thing, World, WorldError  # noqa: E402

PEOPLE = {*stories_world.GIRLS, *stories_world.BOYS, *(name for name, _ in stories_world.FAMILY)}
STRANGERS = ("old man", "small girl", "tall woman", "a neighbour", "a man")


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return list(make_stories.make())


@pytest.fixture(scope="module")
def text() -> str:
    return (DATA / "stories.txt").read_bytes().decode("ascii")


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


def test_the_committed_file_is_what_the_script_makes(stories: list[Story], text: str) -> None:
    assert make_stories.corpus_text(stories) == text


def test_check_tells_a_changed_file(
    stories: list[Story], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_stories, "make", lambda: stories[:3])
    target = tmp_path / "stories.txt"
    command = ["make_stories.py", "--out", str(target)]
    monkeypatch.setattr(sys, "argv", [*command, "--check"])
    assert make_stories.main() == 1
    monkeypatch.setattr(sys, "argv", command)
    assert make_stories.main() == 0
    monkeypatch.setattr(sys, "argv", [*command, "--check"])
    assert make_stories.main() == 0
    target.write_bytes(target.read_bytes() + b" ")
    assert make_stories.main() == 1


def test_statistics(text: str) -> None:
    figures = make_stories.statistics(text)
    assert 1_000_000 <= figures["bytes"] <= 2_000_000
    assert 60 <= figures["words a story"] <= 150
    assert 5 <= figures["words a sentence"] <= 16
    assert figures["distinct words"] < 1500
    assert figures["share of sentences that occur once"] > 0.4
    assert figures["share of the commonest sentence"] < 0.003


def test_form(text: str) -> None:
    stories = text.rstrip("\n").split("\n\n")
    assert len(set(stories)) == len(stories)
    assert re.fullmatch(r"[A-Za-z .,!?'\"\n]+", text)
    assert not re.search(r" [ .,!?]| $|\ba [aeiou]|\b[Aa]n [^aeiouh]|[.!?,]{2}", text, re.MULTILINE)
    for story in stories:
        assert "\n" not in story
        assert story.count('"') % 2 == 0
        assert 60 <= len(story.split()) <= make_stories.MOST_WORDS
        told = stories_grammar.sentences(story)
        assert len(set(told)) == len(told)
        for sentence in told:
            assert re.match(r'"?[A-Z]', sentence), sentence
            assert re.search(r'[.!?]"?$', sentence), sentence


def test_every_plot_and_trait_is_used(stories: list[Story]) -> None:
    plots = Counter(story.plot for story in stories)
    assert set(plots) == set(make_stories.PLOTS)
    assert len(plots) >= 10
    assert max(plots.values()) - min(plots.values()) <= 1
    for plot, traits in make_stories.TRAITS.items():
        assert {s.hero.trait for s in stories if s.plot == plot} == set(traits)


def test_names_belong_to_the_cast(stories: list[Story]) -> None:
    for story in stories:
        cast = {person.name for person in story.world.cast}
        assert len(cast) == len(story.world.cast)
        elders = {name for name in PEOPLE if re.search(rf"\b{name}\b", story.text)}
        assert elders <= cast, story.text


def test_pronouns_agree(stories: list[Story]) -> None:
    checked = 0
    for story in stories:
        genders = {person.gender for person in story.world.cast}
        if len(genders) == 2 or any(stranger in story.text for stranger in STRANGERS):
            continue
        wrong = {"he", "him", "his", "himself"} if "girl" in genders else {"she", "her", "herself"}
        assert not wrong & words(story.text.lower()), story.text
        checked += 1
    assert checked > 50


def test_facts_are_told(stories: list[Story]) -> None:
    for story in stories:
        told = story.text
        for fact in (story.hero.name, story.place, story.thing, story.helper):
            assert fact.lower() in told.lower(), (fact, told)
        assert all((story.want, story.obstacle, story.outcome)), story.plot
        told_words = words(told.lower())
        names = {part for person in story.world.cast for part in person.name.lower().split()}
        for fact in (story.outcome, story.reason):
            missing = words(fact.lower()) - told_words - names
            assert len(missing) <= max(2, len(fact.split()) // 2), (fact, told)


def test_the_outcome_names_what_was_wanted(stories: list[Story]) -> None:
    for story in stories:
        if story.plot in ("lost", "gift", "borrowed", "trade", "contest", "quarrel", "errand"):
            assert story.thing in story.outcome


def test_things_end_where_the_story_says(stories: list[Story]) -> None:
    for story in stories:
        things = {thing.noun: thing for thing in story.world.things}
        thing = things.get(story.thing)
        if story.plot == "lost":
            assert thing is not None
            assert thing.holder is thing.owner is story.hero
        elif story.plot == "trade":
            assert thing is not None
            assert thing.holder is thing.owner is story.hero
            assert len({t.holder for t in things.values()}) == 3
        elif story.plot == "gift":
            assert thing is not None
            assert thing.holder is thing.owner is not story.hero
        elif story.plot in ("borrowed", "quarrel"):
            assert thing is not None
            assert not thing.broken
            assert thing.holder is thing.owner is not story.hero


def test_the_world_refuses_what_cannot_happen() -> None:
    world = World(random.Random(0), "lost")
    hero, friend = world.child(), world.child()
    thing = world.thing(hero)
    here, there = world.place("park"), world.place("beach")
    world.go(hero, here)
    with pytest.raises(WorldError):
        world.give(friend, hero, thing)
    with pytest.raises(WorldError):
        world.lose(thing, there.spots[0])
    world.lose(thing, here.spots[0])
    world.go(friend, there)
    with pytest.raises(WorldError):
        world.find(friend, thing)
    world.go(friend, here)
    world.find(friend, thing)
    with pytest.raises(WorldError):
        world.give(friend, world.child(), thing)
    with pytest.raises(WorldError):
        world.mend(hero, thing)
    world.give(friend, hero, thing)
    assert thing.holder is thing.owner is hero


def teller(phrase: str, hero: Person) -> stories_grammar.Teller:
    rules = stories_grammar.Rules()
    rules.add(f"x:\n    {phrase}")
    return stories_grammar.Teller(rules, random.Random(0), hero)


def test_agreement_of_a_phrase() -> None:
    mia, eva, tom = Person("Mia", "girl"), Person("Eva", "girl", "friend"), Person("Tom", "boy")
    kite = Thing("kite", "old", mia, mia)
    phrase = "[H] gave [F] [T.a]. [F.he] took [T.his], and [F.his] cat saw an owl."
    told = teller(phrase, mia).tell("x", {"H": mia, "F": tom, "T": kite})
    assert re.fullmatch(
        r"Mia gave Tom an old kite\. (He|Tom) took her (old )?kite, and his cat saw an owl\.", told
    )
    told = teller(phrase, mia).tell("x", {"H": mia, "F": eva, "T": kite})
    assert told.startswith("Mia gave her friend Eva an old kite. Eva took Mia's")


def test_capitals_around_speech() -> None:
    polish = stories_grammar.polish
    assert polish('"is it a honest man?" asked Tom.') == '"Is it an honest man?" asked Tom.'
    assert polish('"no," he said, "but come."') == '"No," he said, "but come."'
    assert polish('"stop!" she sat. he said, "no."') == '"Stop!" She sat. He said, "No."'


@pytest.mark.parametrize("phrase", ["(a|b", "a)", "(a|(b)", "[H", "$"])
def test_broken_phrases_are_refused(phrase: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        stories_grammar.parse(phrase)
