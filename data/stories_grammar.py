"""The language half of the story generator: phrase rules, agreement, and choosing who is "she".

A rule is a name and its alternatives, one a line. In an alternative

    (a|b|)        picks one of the parts, which nest; an empty part makes the rest optional
    $rule         stands for any alternative of that rule
    [H]           mentions a role: a person by name or pronoun, a thing, a place, or a text
    [H.his]       mentions it in a form; ``!`` after a form asks for the pronoun in any case

A part is picked with weight ``(number of phrases it can become) ** 0.3``, so that a rich part is
used more often than a poor one and neither drowns the other.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

from stories_world import Forms, Person, Place, Role, Thing

SENTENCE = re.compile(r'(?<=[.!?])\s+(?=[A-Z"])|(?<=[.!?]")\s+(?=[A-Z"])')
_TOKEN = re.compile(r"[(|)]|\$[a-z_]+|\[[A-Za-z_]+(?:\.[a-z]+!?)?\]|[^(|)$\[]+")
_BOUNDARY = re.compile(r"[.!?]\"? (?![a-z])")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou]|honest|hour)")
_CLAUSE = re.compile(
    r'(?:^|[.!?]"? |(?:,|\b(?:and|but|when|while|because|for|until|before|so|then)) )$'
)
_START = re.compile(r'(?:^|[.!?]"? )"?[a-z]|(?<= )"[a-z]')
_TAG = re.compile(
    r"(?:she |he |they )?(?:said|asked|cried|shouted|called|whispered|thought|laughed|sighed|"
    r"begged|answered|groaned|snapped|panted|yawned)\b"
)
_SPEECH_GOES_ON = re.compile(r',"[^".!?]*, $')

PRONOUNS = {
    "girl": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "boy": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
}


def sentences(text: str) -> list[str]:
    """Cut a story into sentences; speech and its ``said X`` stay one sentence."""
    return SENTENCE.split(text.strip())


def polish(text: str) -> str:
    """Set spaces, *an*, and the capitals at the start of sentences and speeches."""
    text = _ARTICLE.sub(r"\1n ", re.sub(r" +(?=[.,!?])", "", " ".join(text.split())))

    def capital(match: re.Match[str]) -> str:
        first = match.end() - 1
        after_speech = '" ' in match[0] and _TAG.match(text, first)
        if after_speech or (match[0][0] == '"' and _SPEECH_GOES_ON.search(text[: match.start()])):
            return match[0]
        return match[0][:-1] + match[0][-1].upper()

    return _START.sub(capital, text)


@dataclass(frozen=True)
class Node:
    """A piece of a parsed phrase: ``kind`` is text, rule, ref or alt."""

    kind: str
    text: str = ""
    form: str = ""
    parts: tuple[tuple[Node, ...], ...] = ()


@cache
def parse(phrase: str) -> tuple[Node, ...]:
    """Parse one alternative; raises ``ValueError`` where the brackets do not match."""
    tokens = _TOKEN.findall(phrase)
    if "".join(tokens) != phrase:
        raise ValueError(f"cannot read the phrase {phrase!r}")
    nodes, end = _sequence(tokens, 0, phrase)
    if end != len(tokens):
        raise ValueError(f"unmatched bracket in {phrase!r}")
    return nodes


def _sequence(tokens: list[str], at: int, phrase: str) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    while at < len(tokens) and tokens[at] not in "|)":
        token = tokens[at]
        at += 1
        if token == "(":
            parts = []
            while True:
                part, at = _sequence(tokens, at, phrase)
                parts.append(part)
                if at == len(tokens):
                    raise ValueError(f"unmatched bracket in {phrase!r}")
                at += 1
                if tokens[at - 1] == ")":
                    break
            nodes.append(Node("alt", parts=tuple(parts)))
        elif token[0] == "$":
            nodes.append(Node("rule", token[1:]))
        elif token[0] == "[":
            name, _, form = token[1:-1].partition(".")
            nodes.append(Node("ref", name, form))
        else:
            nodes.append(Node("text", token))
    return tuple(nodes), at


class Rules:
    """Named lists of alternatives, read from indented text; see ``add`` for the layout."""

    def __init__(self) -> None:
        self.alternatives: dict[str, tuple[tuple[Node, ...], ...]] = {}
        self._weights: dict[tuple[tuple[Node, ...], ...], list[float]] = {}
        self._counts: dict[tuple[Node, ...], float] = {}

    def add(self, text: str) -> None:
        """Read rules: ``name:`` starts one, each following line is an alternative."""
        name = ""
        lines: list[str] = []
        for line in [*text.splitlines(), "end:"]:
            line = line.strip()
            if re.fullmatch(r"[a-z_]+:", line):
                if name:
                    if name in self.alternatives or not lines:
                        raise ValueError(f"rule {name!r} is empty or stands twice")
                    self.alternatives[name] = tuple(parse(x) for x in lines)
                name, lines = line[:-1], []
            elif line:
                lines.append(line)

    def count(self, nodes: tuple[Node, ...]) -> float:
        """How many phrases ``nodes`` can become, mentions counted as one."""
        if nodes not in self._counts:
            total = 1.0
            for node in nodes:
                if node.kind == "rule":
                    total *= sum(map(self.count, self.alternatives[node.text]))
                elif node.kind == "alt":
                    total *= sum(map(self.count, node.parts))
            self._counts[nodes] = total
        return self._counts[nodes]

    def pick(self, parts: tuple[tuple[Node, ...], ...], rng: random.Random) -> tuple[Node, ...]:
        """One of ``parts``, by the weights in the module's docstring."""
        if parts not in self._weights:
            self._weights[parts] = [self.count(part) ** 0.3 for part in parts]
        return rng.choices(parts, self._weights[parts])[0]


@dataclass
class Discourse:
    """What the reader knows so far: who was introduced, and who the last sentences were about."""

    known: set[str] = field(default_factory=set)
    now: list[Person] = field(default_factory=list)
    before: list[Person] = field(default_factory=list)

    def copy(self) -> Discourse:
        return Discourse(set(self.known), list(self.now), list(self.before))

    def close_sentence(self) -> None:
        self.before, self.now = self.now, []

    def clear_pronoun(self, person: Person, possessive: bool) -> bool:
        """Whether a pronoun for ``person`` can only be read one way here."""
        if possessive and self.now and self.now[0] is person:
            return True
        recent = self.now + self.before
        rivals = [p for p in recent if p is not person and p.gender == person.gender]
        return person in recent and not rivals


class Teller:
    """Turns the beats of one story into sentences."""

    def __init__(self, rules: Rules, rng: random.Random, hero: Person) -> None:
        self.rules, self.rng, self.hero = rules, rng, hero
        self.discourse = Discourse()

    def tell(self, rule: str, roles: dict[str, Role]) -> str:
        """Expand ``rule`` once, with capital letters and articles set right."""
        self.said = ""
        self._expand(self.rules.pick(self.rules.alternatives[rule], self.rng), roles)
        self.discourse.close_sentence()
        return polish(self.said)

    def _expand(self, nodes: tuple[Node, ...], roles: dict[str, Role]) -> None:
        for node in nodes:
            if node.kind == "text":
                if _BOUNDARY.search(node.text):
                    self.discourse.close_sentence()
                self.said += node.text
            elif node.kind == "rule":
                parts = self.rules.alternatives[node.text]
                self._expand(self.rules.pick(parts, self.rng), roles)
            elif node.kind == "alt":
                self._expand(self.rules.pick(node.parts, self.rng), roles)
            else:
                self._mention(roles[node.text], node.form, roles)

    def _mention(self, role: Role, form: str, roles: dict[str, Role]) -> None:
        if isinstance(role, Person):
            self.said += self._person(role, form)
        elif isinstance(role, Thing):
            self.said += self._thing(role, form)
        elif isinstance(role, Place):
            self.said += role.phrase(form)
        else:
            self._expand(parse(role.get(form) if isinstance(role, Forms) else role), roles)

    def _person(self, person: Person, form: str) -> str:
        if form in person.words:
            return person.words[form]
        forced = form.endswith("!")
        form = form.rstrip("!")
        here = person in self.discourse.now
        clear = self.discourse.clear_pronoun(person, form in ("his", "himself"))
        if not form and not _CLAUSE.search(self.said):
            clear = False  # a bare mention is a subject's pronoun only where a subject stands
        if person is not self.hero and not self.said:
            clear = False  # a beat does not begin with "he" for anyone but the hero
        chance = 1.0 if here or form in ("his", "himself") else 0.8
        self.discourse.now.append(person)
        if forced or (form != "name" and clear and self.rng.random() < chance):
            return PRONOUNS[person.gender][form or "he"]
        if person.name in self.discourse.known or form == "name":
            text = person.name
        else:
            text = self._introduce(person)
        self.discourse.known.add(person.name)
        return text + "'s" if form == "his" else text

    def _introduce(self, person: Person) -> str:
        """The first mention: a relation says whose friend this is."""
        if not person.relation:
            return person.name
        alone = self.discourse.clear_pronoun(self.hero, True) and person.gender != self.hero.gender
        subject = self.discourse.now[0] is self.hero
        whose = PRONOUNS[self.hero.gender]["his"] if alone or subject else f"{self.hero.name}'s"
        return f"{whose} {person.relation} {person.name}"

    def _thing(self, thing: Thing, form: str) -> str:
        full = f"{thing.adjective} {thing.noun}"
        seen = thing.noun in self.discourse.known
        self.discourse.known.add(thing.noun)
        short = thing.noun if seen and self.rng.random() < 0.6 else full
        if form == "a":
            return f"a {full}"
        if form in ("noun", "full"):
            return thing.noun if form == "noun" else full
        if form in ("my", "your", "our", "this", "that", "their"):
            return f"{form} {short}"
        if form == "his" and thing.owner is not None:
            return f"{self._person(thing.owner, 'his')} {short}"
        return f"the {short}"


def runs(text: str) -> Counter[tuple[str, ...]]:
    """How often each run of four words stands in ``text``."""
    words = re.findall(r"[a-z']+", text.lower())
    return Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
