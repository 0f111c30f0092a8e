"""The world half of the story generator: people, things, places, and what can happen to them.

Every plot has its regulars: the same hero, friends, grown-ups and things in each of its stories,
as in a book of tales about one village. A model that trains for minutes does not yet copy a name
that was drawn at random, but it learns who belongs to which tale. Where a story happens, what goes
wrong, what the hero is like, and how it ends, differs.

``World`` keeps who is where and who holds and owns what. Its actions check that they are possible
(nobody gives away what they do not hold) and leave a log of events, so a plot that contradicts
itself fails while the corpus is made instead of reaching the reader.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class WorldError(Exception):
    """A plot asked for something that cannot happen in its world."""


@dataclass(eq=False)
class Person:
    """A character. ``relation`` is to the hero (``friend``); ``words`` are fixed forms of the role."""

    name: str
    gender: str
    relation: str = ""
    trait: str = ""
    words: dict[str, str] = field(default_factory=dict)

    @property
    def his(self) -> str:
        """The possessive pronoun."""
        return "her" if self.gender == "girl" else "his"


@dataclass(eq=False)
class Thing:
    """An object. Exactly one of ``holder`` and ``spot`` says where it is, or neither: it is gone."""

    noun: str
    adjective: str
    owner: Person | None = None
    holder: Person | None = None
    spot: str = ""
    place: Place | None = None
    broken: bool = False


class Place(NamedTuple):
    """Where things happen. ``spots`` hide things; ``doing`` is what one comes here for."""

    noun: str
    at: str
    spots: tuple[str, ...]
    doing: tuple[tuple[str, str], ...]

    def phrase(self, form: str) -> str:
        return {
            "": f"the {self.noun}",
            "in": f"{self.at} the {self.noun}",
            "to": f"to the {self.noun}",
        }[form]


class Forms(NamedTuple):
    """A text role with several forms: ``[do]`` is ``pick plums``, ``[do.ing]`` ``picking plums``."""

    forms: tuple[tuple[str, str], ...]

    def get(self, form: str) -> str:
        return dict(self.forms)[form]


def forms(base: str, **other: str) -> Forms:
    """A text role: ``base`` stands for ``[x]``, the rest for ``[x.form]``."""
    return Forms((("", base), *other.items()))


Role = Person | Thing | Place | Forms | str


class Event(NamedTuple):
    """One thing that happened: ``actor`` did ``kind`` with ``thing``, to ``other``, at ``place``."""

    kind: str
    actor: str
    thing: str = ""
    other: str = ""
    place: str = ""


GIRLS = (
    "Ada Amy Anna Clara Daisy Ella Emma Eva Fay Greta Ida Ivy Jane Kate Lily Lucy Maya Mia Nell "
    "Nina Nora Poppy Rosa Ruby Sara Tess Vera Zoe"
).split()
BOYS = (
    "Adam Ben Carl Dan David Eli Felix Finn Fred George Hugo Jack Joe John Karl Leo Luke Max Ned "
    "Nick Oscar Otto Paul Peter Sam Theo Tim Tom"
).split()
FAMILY = (
    ("Grandma", "girl"), ("Grandpa", "boy"), ("Mother", "girl"), ("Father", "boy"),
    ("Aunt Rose", "girl"), ("Uncle Bill", "boy"), ("Mrs Bell", "girl"), ("Mr Stone", "boy"),
    ("Mrs Moss", "girl"), ("Mr Hill", "boy"), ("Aunt Pearl", "girl"), ("Uncle Jim", "boy"),
)  # fmt: skip
JOBS = {"the baker": "boy", "the farmer": "boy", "the gardener": "girl", "the teacher": "girl",
        "the miller": "boy", "the fisherman": "boy", "the shepherd": "boy",
        "the weaver": "girl"}  # fmt: skip

ADJECTIVES = {
    "toy": "red blue green yellow striped little new old wooden painted",
    "bright": "red blue green yellow striped new old big",
    "cloth": "red blue green yellow striped warm soft old new woolly",
    "metal": "silver golden shiny old bright little",
    "wood": "wooden old little painted smooth light new",
    "paper": "old new little thick blue green red",
    "dish": "white blue yellow painted small round clay old",
}
KINDS = {
    "toy": "ball doll drum puppet boat",
    "bright": "kite umbrella bag",
    "cloth": "hat scarf blanket coat",
    "metal": "whistle ring key bell watch lamp necklace",
    "wood": "flute basket box spoon comb brush",
    "paper": "book map",
    "dish": "cup bowl jug",
}
NOUNS = {noun: kind for kind, nouns in KINDS.items() for noun in nouns.split()}

PLACES = (
    Place("garden", "in", ("under the apple tree", "behind the shed", "beside the well", "in the long grass"),
          (("water the flowers", "watering the flowers"), ("pick beans", "picking beans"), ("dig for worms", "digging for worms"))),
    Place("orchard", "in", ("under a plum tree", "beside the ladder", "behind a full basket", "in the wet grass"),
          (("pick plums", "picking plums"), ("climb the trees", "climbing the trees"), ("gather apples", "gathering apples"))),
    Place("barn", "in", ("behind the hay", "under the old cart", "beside a bucket", "on a heap of straw"),
          (("feed the calves", "feeding the calves"), ("jump in the hay", "jumping in the hay"), ("look for eggs", "looking for eggs"))),
    Place("attic", "in", ("behind a heavy trunk", "under a torn blanket", "inside a dusty box", "beside the window"),
          (("look at old pictures", "looking at old pictures"), ("try on old clothes", "trying on old clothes"))),
    Place("market", "at", ("under a table", "behind a barrel", "near the bread cart", "beside a cart"),
          (("buy eggs", "buying eggs"), ("look at the toys", "looking at the toys"), ("sell apples", "selling apples"))),
    Place("beach", "on", ("between two stones", "under a small boat", "beside a pool", "in the wet sand"),
          (("dig in the sand", "digging in the sand"), ("look for shells", "looking for shells"), ("jump over the waves", "jumping over the waves"))),
    Place("harbour", "at", ("behind a heap of bags", "under a bench", "beside a blue boat", "between two boxes"),
          (("watch the boats", "watching the boats"), ("catch fish", "catching fish"))),
    Place("forest", "in", ("under a bush", "beside a fallen tree", "under a big tree", "behind a big stone"),
          (("pick berries", "picking berries"), ("look for mushrooms", "looking for mushrooms"), ("listen to the birds", "listening to the birds"))),
    Place("meadow", "in", ("in the tall grass", "beside the stream", "under a hedge", "behind a flat stone"),
          (("pick flowers", "picking flowers"), ("chase butterflies", "chasing butterflies"), ("count the sheep", "counting the sheep"))),
    Place("park", "in", ("under a bench", "behind the swings", "beside the pond", "in a heap of leaves"),
          (("feed the ducks", "feeding the ducks"), ("play on the swings", "playing on the swings"), ("run races", "running races"))),
    Place("school", "at", ("under a table", "behind the door", "beside the coats", "on the top shelf"),
          (("paint a picture", "painting a picture"), ("sing songs", "singing songs"), ("read stories", "reading stories"))),
    Place("library", "in", ("behind a row of books", "under the long table", "beside the window", "on a low shelf"),
          (("read stories", "reading stories"), ("look at picture books", "looking at picture books"))),
    Place("mill", "at", ("behind a sack of flour", "under the stairs", "beside the big wheel", "near the back door"),
          (("watch the wheel", "watching the wheel"), ("fetch flour", "fetching flour"))),
    Place("hill", "on", ("beside a thorn bush", "between two stones", "under a tree", "in the tall grass"),
          (("look at the clouds", "looking at the clouds"), ("lie in the grass", "lying in the grass"), ("gather wood", "gathering wood"))),
    Place("river", "by", ("in the wet grass", "under the bridge", "beside an old boat", "behind a willow"),
          (("throw stones", "throwing stones"), ("watch the fish", "watching the fish"), ("build a dam", "building a dam"))),
    Place("square", "in", ("beside the well", "under the big clock", "behind the bread cart", "near the steps"),
          (("hear the music", "hearing the music"), ("play ball", "playing ball"))),
    Place("station", "at", ("behind a cart of boxes", "under the window", "near the gate", "beside a heap of bags"),
          (("watch the trains", "watching the trains"), ("meet a visitor", "meeting a visitor"))),
)  # fmt: skip


@dataclass
class World:
    """The state of one story, and its clock. Every action logs an event or raises ``WorldError``."""

    rng: random.Random
    plot: str
    cast: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    at: dict[Person, Place] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)

    def usual(self, role: str, options: Sequence[T]) -> T:
        """The one of ``options`` that has ``role`` in every story of this plot."""
        return self._ranked(role, options)[0]

    def _ranked(self, role: str, options: Sequence[T]) -> list[T]:
        """``options`` in this plot's order of preference for ``role``."""
        return random.Random(f"{self.plot} {role}").sample(options, len(options))

    def hero(self, index: int, trait: str) -> Person:
        """The hero of plot number ``index``; no two plots have the same."""
        names = random.Random("heroes").sample(GIRLS + BOYS, len(GIRLS + BOYS))
        person = self._child(names[index])
        person.trait = person.words["trait"] = trait
        return person

    def child(self, relation: str = "") -> Person:
        """Another child, the same for one plot and relation."""
        used = {person.name for person in self.cast}
        names = self._ranked(f"{relation} child", GIRLS + BOYS)
        return self._child(next(n for n in names if n not in used), relation)

    def _child(self, name: str, relation: str = "") -> Person:
        gender = "girl" if name in GIRLS else "boy"
        person = Person(name, gender, relation, words={"kid": gender})
        self.cast.append(person)
        return person

    def friend(self) -> Person:
        """A child who knows the hero."""
        return self.child(self.usual("relation", ("friend", "friend", "friend", "cousin")))

    def adult(self, jobs: bool = True, only: tuple[str, ...] = ()) -> Person:
        """A grown-up: one of the family, or known by a job."""
        used = {person.name for person in self.cast}
        people = self._ranked("adult", (*FAMILY, *(JOBS.items() if jobs else ())))
        choice = [p for p in people if p[0] not in used and (not only or p[0] in only)]
        person = Person(*choice[0])
        self.cast.append(person)
        return person

    def thing(self, owner: Person | None, nouns: tuple[str, ...] = ()) -> Thing:
        """A thing that no other thing of the story can be mistaken for, held by its owner."""
        used = {thing.noun for thing in self.things}
        noun = next(n for n in self._ranked("thing", nouns or tuple(NOUNS)) if n not in used)
        thing = Thing(noun, self.rng.choice(ADJECTIVES[NOUNS[noun]].split()), owner, owner)
        self.things.append(thing)
        return thing

    def place(self, *nouns: str, but: tuple[str, ...] = ()) -> Place:
        """Any place, one of ``nouns``, or none of ``but``."""
        return self.rng.choice(
            [p for p in PLACES if (not nouns or p.noun in nouns) and p.noun not in but]
        )

    def go(self, person: Person, place: Place) -> None:
        self.at[person] = place
        self.log.append(Event("go", person.name, place=place.noun))

    def lose(self, thing: Thing, spot: str) -> None:
        """The holder loses ``thing`` at the place where they are."""
        if thing.holder is None or spot not in self.at[thing.holder].spots:
            raise WorldError(f"the {thing.noun} cannot be lost {spot}")
        thing.place, thing.spot = self.at[thing.holder], spot
        self.log.append(Event("lose", thing.holder.name, thing.noun, place=thing.place.noun))
        thing.holder = None

    def find(self, person: Person, thing: Thing) -> None:
        """``person`` picks up ``thing``, which lies where they are."""
        if thing.holder is not None or thing.place != self.at.get(person):
            raise WorldError(f"{person.name} cannot find the {thing.noun} here")
        thing.holder, thing.spot, thing.place = person, "", None
        self.log.append(Event("find", person.name, thing.noun, place=self.at[person].noun))

    def give(self, giver: Person, taker: Person, thing: Thing, lend: bool = False) -> None:
        """Hand over ``thing``; it changes its owner unless it is lent or given back."""
        if thing.holder is not giver:
            raise WorldError(f"{giver.name} does not hold the {thing.noun}")
        if not lend and thing.owner not in (giver, taker):
            raise WorldError(f"the {thing.noun} is not {giver.name}'s to give")
        thing.holder = taker
        if not lend:
            thing.owner = taker
        self.log.append(Event("lend" if lend else "give", giver.name, thing.noun, taker.name))

    def damage(self, person: Person, thing: Thing) -> None:
        if thing.broken:
            raise WorldError(f"the {thing.noun} is broken already")
        thing.broken = True
        self.log.append(Event("break", person.name, thing.noun))

    def mend(self, person: Person, thing: Thing) -> None:
        if not thing.broken:
            raise WorldError(f"the {thing.noun} is not broken")
        thing.broken = False
        self.log.append(Event("mend", person.name, thing.noun))

    def do(self, kind: str, person: Person, other: Person | None = None, what: str = "") -> None:
        """Log an event that moves nothing: helping, learning, refusing, promising."""
        self.log.append(Event(kind, person.name, what, other.name if other else ""))


@dataclass
class Beat:
    """One step of a story, to be told by ``rule`` with these ``roles``."""

    rule: str
    roles: dict[str, Role]


@dataclass
class Story:
    """What happened, as facts that questions can ask about, and the telling of it.

    ``want`` is an infinitive without *to*, ``reason`` a clause after *because*, ``obstacle`` and
    ``outcome`` are clauses in the past tense; ``place`` is where the want is decided.
    """

    plot: str
    world: World
    hero: Person
    want: str = ""
    reason: str = ""
    thing: str = ""
    place: str = ""
    helper: str = ""
    obstacle: str = ""
    outcome: str = ""
    roles: dict[str, Role] = field(default_factory=dict)
    beats: list[Beat] = field(default_factory=list)
    text: str = ""

    def maybe(self, rule: str, **roles: Role) -> None:
        """Add a beat three times in five: what the story can do without."""
        if self.world.rng.random() < 0.6:
            self.say(rule, **roles)

    def say(self, rule: str, **roles: Role) -> None:
        """Add a beat. Roles given once stay; things are remembered as they are at this moment."""
        self.roles.update(roles)
        now = {k: replace(v) if isinstance(v, Thing) else v for k, v in self.roles.items()}
        self.beats.append(Beat(rule, now))
