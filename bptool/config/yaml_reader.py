"""YAML to plain values, with the line of every key and value.

The scalars are those of YAML 1.2: ``3e-4`` and ``1e5`` are numbers, ``yes`` and ``on`` are text,
``010`` is ten. Underscores may group digits (``10_000``). Keys are text. Anchors, aliases, tags
and several documents in one file are refused: a configuration needs none of them, and so a
hostile file costs no more time or memory than its size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml import events

from bptool.errors import ConfigError, did_you_mean
from bptool.files import open_regular

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_DIGITS = 300

KeyPath = tuple[str | int, ...]

NULL = re.compile(r"(?:~|null|Null|NULL)?\Z")
BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
INT = re.compile(r"[-+]?(?:[0-9](?:_?[0-9])*|0x[0-9a-fA-F]+)\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")


@dataclass(frozen=True)
class Lines:
    """Lines, counting from 1, on which a key and its value begin."""

    key: int
    value: int


@dataclass
class Document:
    """The values of a YAML text, where each stands, and the keys that are given twice."""

    value: Any = None
    lines: dict[KeyPath, Lines] = field(default_factory=dict)
    duplicates: list[tuple[KeyPath, int, int]] = field(default_factory=list)
    """Key, line of the second, line of the first; the first one's value is kept."""


def scalar(text: str) -> Any:
    """The value of an unquoted scalar, by the rules above. Raises ValueError if it is too long."""
    if NULL.match(text):
        return None
    if BOOL.match(text):
        return text.lower() == "true"
    if INT.match(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        return int(text.replace("_", ""), 16 if "x" in text else 10)
    if FLOAT.match(text):
        return float(text)
    if INFINITY.match(text):
        return float("-inf" if text[0] == "-" else "inf")
    return float("nan") if NAN.match(text) else text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


class _Builder:
    """Builds values from PyYAML's parse events; stops at the first thing that is refused."""

    def __init__(self, text: str, source: str) -> None:
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        self.source = source
        self.document = Document()
        self.n_nodes = 0

    def refuse(self, event: yaml.Event, message: str) -> NoReturn:
        raise ConfigError(f"{self.source}:{_line(event)}: {message}")

    def build(self) -> Document:
        next(self.events)
        if isinstance(next(self.events), events.StreamEndEvent):
            return self.document
        self.document.value = self.node(next(self.events), ())
        next(self.events)
        event = next(self.events)
        if not isinstance(event, events.StreamEndEvent):
            self.refuse(event, "a second document begins; keep one to a file")
        return self.document

    def check(self, event: Any, path: KeyPath) -> None:
        self.n_nodes += 1
        if isinstance(event, events.AliasEvent) or event.anchor is not None:
            self.refuse(event, "anchors and aliases (& and *) are not read; write the value out")
        plain = isinstance(event, events.ScalarEvent) and event.tag is None
        if not plain and event.tag is not None:
            self.refuse(event, f"tags such as '{event.tag}' are not read; write the plain value")
        if len(path) > MAX_DEPTH:
            self.refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if self.n_nodes > MAX_NODES:
            self.refuse(event, f"more than {MAX_NODES} values")

    def node(self, event: Any, path: KeyPath) -> Any:
        self.check(event, path)
        if isinstance(event, events.MappingStartEvent):
            return self.mapping(path)
        if isinstance(event, events.SequenceStartEvent):
            return self.sequence(path)
        if not event.implicit[0]:
            return self.text(event)
        try:
            return scalar(self.text(event))
        except ValueError as error:
            self.refuse(event, f"{error}")

    def text(self, event: events.ScalarEvent) -> str:
        value = str(event.value)
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.refuse(event, "half a surrogate pair; write the character itself")
        return value

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(key := next(self.events), events.MappingEndEvent):
            self.check(key, path)
            if not isinstance(key, events.ScalarEvent):
                self.refuse(key, "a key must be a word, not a list or a section")
            name = self.text(key)
            line = _line(key)
            here = (*path, name)
            if name in found:
                self.document.duplicates.append((here, line, self.document.lines[here].key))
                kept, self.document.lines = self.document.lines, {}
                self.node(next(self.events), here)
                self.document.lines = kept
                continue
            value = next(self.events)
            self.document.lines[here] = Lines(line, _line(value))
            found[name] = self.node(value, here)
        return found

    def sequence(self, path: KeyPath) -> list[Any]:
        found: list[Any] = []
        while not isinstance(item := next(self.events), events.SequenceEndEvent):
            line = _line(item)
            here = (*path, len(found))
            self.document.lines[here] = Lines(line, line)
            found.append(self.node(item, here))
        return found


def _syntax_message(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    lines = text.splitlines()
    written = lines[line] if line < len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())] or "'\\t'" in str(error.problem):
        return line + 1, "a tab; indent with spaces"
    problem = str(error.problem)
    if "mapping values are not allowed" in problem:
        return line + 1, "a ':' that does not fit here; check the indentation, or quote the text"
    if "unexpected end of stream" in problem and error.context_mark is not None:
        return error.context_mark.line + 1, f"{error.context}, but it never ends"
    context = f" ({error.context})" if error.context else ""
    return line + 1, f"not valid YAML: {problem}{context}"


def parse(text: str, source: str) -> Document:
    """Read one YAML document.

    Args:
        text: the document.
        source: what error messages call it.

    Raises:
        ConfigError: the text is not YAML, or uses a part of YAML that is refused.
    """
    try:
        return _Builder(text, source).build()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character U+{int(error.character):04X}"
        raise ConfigError(f"{source}:{line}: {found} may not stand in YAML") from None
    except yaml.MarkedYAMLError as error:
        line, message = _syntax_message(error, text)
        raise ConfigError(f"{source}:{line}: {message}") from None


def read(path: Path) -> Document:
    """Read a YAML file, which must hold a mapping.

    Raises:
        ConfigError: there is no such file, it is too large, not UTF-8, or not as :func:`parse`
            wants it.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
        near = did_you_mean(path.name, [item.name for item in siblings])
        raise ConfigError(f"{path}: no such file{near}") from None
    except OSError as error:
        what = (
            "a folder; need a YAML file" if path.is_dir() else f"cannot be read: {error.strerror}"
        )
        raise ConfigError(f"{path}: {what}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1024} kB; not a configuration")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise ConfigError(f"{path}:{line}: byte 0x{byte:02X} is not UTF-8; save as UTF-8") from None
    document = parse(text, str(path))
    if document.value is None:
        document.value = {}
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:1: need 'key: value' lines; see `bptool config schema`")
    return document
