"""Files, command-line values and defaults to one checked configuration that knows its sources.

Layers, each over the one before: the schema's defaults, values chosen for the text, the file,
the command line's own options, ``--set``. Sections merge key by key and lists are replaced as a
whole; a part chosen under a new name drops the settings of the old one, since they were its own.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bptool.config import report, yaml_reader
from bptool.config.choice import READABLE
from bptool.config.dump import inline, to_yaml
from bptool.config.report import Problem, choice_of, spot_at
from bptool.config.schema import RunConfig
from bptool.config.section import FILE, Section
from bptool.config.study_section import StudyConfig
from bptool.config.yaml_reader import KeyPath
from bptool.errors import ConfigError

__all__ = [
    "DATASET_PREFIX",
    "Resolved",
    "StudyFile",
    "flatten",
    "is_study",
    "read_study",
    "resolve",
    "to_yaml",
]

DATASET_PREFIX = "dataset:"
"""A text entry with this prefix names a downloaded data set and is no path."""
CHOSEN = "chosen for the text"
"""What ``provenance`` calls values that follow from the text."""
MOST_SHOWN = 40
"""Problems that an error lists."""


@dataclass(frozen=True)
class Resolved:
    """A checked configuration, and where each of its values came from."""

    config: RunConfig
    provenance: dict[str, str]
    """Dotted key -> ``default``, ``derived``, ``file:line``, ``--set ...``, ``command line``."""


@dataclass(frozen=True)
class _Origin:
    where: str
    folder: Path
    key_line: int = 0
    value_line: int = 0

    def place(self, about_key: bool = False) -> str:
        line = self.key_line if about_key else self.value_line
        return f"{self.where}:{line}" if line else self.where


class _Tree:
    """Raw values of a file whose outermost section is ``root``, with the origin of each key."""

    def __init__(self, root: type[Section]) -> None:
        self.root = root
        self.value: dict[str, Any] = {}
        self.origins: dict[KeyPath, _Origin] = {}
        self.problems: list[tuple[float, str]] = []
        """Line of the file (infinite for what no file holds), and the message."""

    def origin(self, path: KeyPath) -> _Origin | None:
        """Where a key, or else the section that it would stand in, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None

    def is_choice(self, path: KeyPath) -> bool:
        """Whether the schema has a part chosen by name here."""
        spot = spot_at(path, self.value, self.root)
        return spot is not None and choice_of(spot.annotation) is not None

    def put(self, path: KeyPath, value: Any, origins: Mapping[KeyPath, _Origin]) -> None:
        """Set a value, merging a section into a section, with origins by whole path."""
        spot = spot_at(path, self.value, self.root)
        choice = choice_of(spot.annotation) if spot is not None else None
        old = report.value_at(self.value, path)
        if choice is not None and isinstance(value, str):
            value = {"name": value}
            origins = {**origins, (*path, "name"): origins[path]}
        if choice is not None and isinstance(value, dict) and isinstance(old, dict):
            name = value.get("name", old.get("name"))
            if name != old.get("name", choice.default or name):
                self.replace(path, {}, origins)
        if isinstance(value, dict):
            if path and not isinstance(report.value_at(self.value, path), dict):
                self.replace(path, {}, origins)
            elif path in origins and path not in self.origins:
                self.origins[path] = origins[path]
            for key, item in value.items():
                self.put((*path, key), item, origins)
        elif isinstance(value, list):
            self.replace(path, [None] * len(value), origins)
            for index, item in enumerate(value):
                self.put((*path, index), item, origins)
        else:
            self.replace(path, value, origins)

    def replace(self, path: KeyPath, value: Any, origins: Mapping[KeyPath, _Origin]) -> None:
        inside = [key for key in self.origins if len(key) > len(path) and key[: len(path)] == path]
        for key in inside:
            del self.origins[key]
        parent = report.value_at(self.value, path[:-1])
        parent[path[-1]] = value
        if path in origins:
            self.origins[path] = origins[path]

    def put_all(self, raw: Mapping[str, Any], where: str) -> None:
        """Merge plain nested values that all come from ``where``."""
        value = copy.deepcopy(dict(raw))
        origin = _Origin(where, Path.cwd())
        self.put((), value, dict.fromkeys(_paths(value), origin))

    def put_file(self, path: Path) -> None:
        document = yaml_reader.read(path)
        folder = path.absolute().parent
        for key, line, first in document.duplicates:
            message = f"{_dotted(key)}: given twice, first on line {first}; keep one"
            self.problems.append((line, f"{path}:{line}: {message}"))
        origins = {
            key: _Origin(str(path), folder, lines.key, _shown_line(document, key, lines))
            for key, lines in document.lines.items()
        }
        self.put((), document.value, origins)

    def put_set(self, where: str, path: KeyPath, value: Any) -> None:
        """Set one value that comes from ``where``; a section is replaced as a whole, and sections
        on the way are made."""
        origin = _Origin(where, Path.cwd())
        for length in range(1, len(path)):
            if report.value_at(self.value, path[:length]) is None:
                is_list = isinstance(path[length], int)
                self.replace(path[:length], [] if is_list else {}, {path[:length]: origin})
            message = _cannot_hold(report.value_at(self.value, path[:length]), path, length)
            if message:
                self.problems.append((math.inf, f"{origin.where}: {message}"))
                return
        origins = {path: origin, **{(*path, *below): origin for below in _paths(value)}}
        if path[-1] == "name" and self.is_choice(path[:-1]):
            path, value = path[:-1], {"name": value}
        elif not (isinstance(value, str) and self.is_choice(path)):
            self.replace(path, None, origins)
        self.put(path, value, origins)


def _cannot_hold(holder: Any, path: KeyPath, length: int) -> str | None:
    """Why ``holder``, at the first ``length`` keys of ``path``, has no place for the next one."""
    name, key = _dotted(path[:length]), path[length]
    if isinstance(holder, dict):
        return None if isinstance(key, str) else f"'{name}' is a section, not a list; found {key}"
    if not isinstance(holder, list):
        return f"'{name}' is a value and has no keys below it"
    if isinstance(key, int) and key < len(holder):
        return None
    size = f"has entries 0 to {len(holder) - 1}" if holder else "is empty"
    return f"'{name}' is a list that {size}; found '{key}'"


def _shown_line(document: yaml_reader.Document, path: KeyPath, lines: yaml_reader.Lines) -> int:
    value = report.value_at(document.value, path)
    return lines.key if isinstance(value, dict | list) or value is None else lines.value


def _paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    items: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, item in items:
        yield (*path, key)
        yield from _paths(item, (*path, key))


def _dotted(path: KeyPath) -> str:
    return ".".join(str(key) for key in path)


def _parse_set(argument: str) -> tuple[KeyPath, Any]:
    """``key.path=value`` as a path and a value read as YAML."""
    name, equals, text = argument.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {argument}: need key.path=value, as in training.steps=500")
    document = yaml_reader.parse(text, f"--set {argument}")
    if document.duplicates:
        raise ConfigError(f"--set {argument}: '{document.duplicates[0][0][-1]}' is given twice")
    return tuple(
        int(key) if key.isdecimal() and len(key) < 7 else key for key in keys
    ), document.value


def _set_order(item: tuple[str, KeyPath, Any]) -> int:
    """A section before its keys, and a name before the settings that go with it."""
    path = item[1]
    return 2 * len(path) - (1 if path[-1] == "name" else 0)


def _resolve_paths(tree: _Tree) -> None:
    """Make paths absolute: a file's from its own folder, others from here."""

    def walk(section: type[Section], raw: dict[str, Any], path: KeyPath) -> None:
        for key, field in section.model_fields.items():
            if key not in raw:
                continue
            place, value = (*path, key), raw[key]
            if FILE in field.metadata:
                raw[key] = resolved(value, place)
            elif isinstance(value, dict):
                inner = report.section_of(field.annotation, value)
                if inner is not None:
                    walk(inner, value, place)
            elif isinstance(value, list):
                kind = report.item_of(field.annotation)
                for index, item in enumerate(value):
                    inner = report.section_of(kind, item)
                    if inner is not None and isinstance(item, dict):
                        walk(inner, item, (*place, index))

    def resolved(value: Any, place: KeyPath) -> Any:
        if isinstance(value, list):
            return [resolved(item, (*place, index)) for index, item in enumerate(value)]
        return _absolute(value, tree.origin(place)) if isinstance(value, str) else value

    walk(tree.root, tree.value, ())


def _absolute(text: str, origin: _Origin | None) -> str:
    if text.startswith(DATASET_PREFIX) or not text or "\0" in text:
        return text
    folder = origin.folder if origin is not None else Path.cwd()
    return os.path.abspath(folder / os.path.expanduser(text))


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


def flatten(config: Section) -> dict[str, str]:
    """Dotted key -> value as YAML writes it on one line; the keys of ``Resolved.provenance``."""
    values = config.model_dump(mode="json")
    return {_dotted(path): inline(report.value_at(values, path)) for path in _leaves(values)}


def _provenance(config: Section, tree: _Tree) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in _leaves(config.model_dump(mode="json")):
        spot = spot_at(path, tree.value, tree.root)
        origin = tree.origins.get(path)
        if origin is None and report.value_at(tree.value, path[:-1]) is not None:
            above = report.value_at(tree.value, path[:-1])
            if not isinstance(above, dict | list):
                origin = tree.origin(path[:-1])
        derived = spot is not None and spot.field is not None and _is_derived(spot.field)
        default = "derived" if derived else "default"
        found[_dotted(path)] = origin.place() if origin is not None else default
    return found


def _is_derived(field: Any) -> bool:
    return bool(field.default_factory_takes_validated_data)


def _located(problem: Problem, tree: _Tree, source: str) -> tuple[float, str]:
    """A problem's line, to sort by, and its message with the place in front."""
    origin = tree.origin(problem.path)
    name = _dotted(problem.path)
    place = origin.place(problem.about_key) if origin is not None else source
    line = origin.key_line if origin is not None else 0
    said = origin is not None and origin.where.startswith(f"--set {name}=")
    message = problem.message if said or not name else f"{name}: {problem.message}"
    return line or math.inf, f"{place}: {message}"


def resolve(
    path: Path | str | None,
    sets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    defaults_label: str = CHOSEN,
    options: Mapping[str, tuple[str, Any]] | None = None,
    readable: bool = False,
) -> Resolved:
    """Read, merge and check a configuration.

    Args:
        path: a YAML file, or None to go without.
        sets: ``key.path=value`` texts of ``--set``, the value as YAML. A number in the path is
            the index of a list's entry.
        overrides: nested values that win over the file: ``{"data": {"text": ["book.txt"]}}``.
        defaults: nested values that the file wins over, as ``for_text`` returns.
        defaults_label: what ``provenance`` calls the origin of ``defaults``.
        options: what options of the command set, by which errors name them, over all but ``sets``:
            ``{"--beta": ("objective.beta", 0.1)}``.
        readable: take parts that only training needs though nobody registered them, to read a run
            without the plug-ins that it was trained with.

    Raises:
        ConfigError: anything is wrong; its message has one line for each problem.
    """
    tree = _Tree(RunConfig)
    if defaults:
        tree.put_all(defaults, defaults_label)
    config = _read(tree, path, sets, overrides, options, readable)
    return Resolved(config, _provenance(config, tree))


@dataclass(frozen=True)
class StudyFile:
    """A checked study, and where its keys stand."""

    config: StudyConfig
    places: Callable[[KeyPath], str]
    """Key path -> ``file:line``, or what else gave the value."""
    provenance: dict[str, str]
    """As :attr:`Resolved.provenance`."""


def read_study(
    path: Path | str | None,
    sets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> StudyFile:
    """Read and check a ``STUDY.yaml``; arguments and errors as for :func:`resolve`."""
    tree = _Tree(StudyConfig)
    config = _read(tree, path, sets, overrides)

    def place(key: KeyPath) -> str:
        origin = tree.origin(key)
        return origin.place() if origin is not None else str(path or "study")

    return StudyFile(config, place, _provenance(config, tree))


def is_study(path: Path | str) -> bool:
    """Whether a file's outermost keys are those of a study: it lists ``workloads``."""
    return "workloads" in yaml_reader.read(Path(path)).value


def _read(
    tree: _Tree,
    path: Path | str | None,
    sets: Sequence[str],
    overrides: Mapping[str, Any] | None,
    options: Mapping[str, tuple[str, Any]] | None = None,
    readable: bool = False,
) -> Any:
    """Merge a file, ``overrides``, ``options`` and ``sets`` into ``tree`` and check it: its root
    section."""
    if path is not None:
        tree.put_file(Path(path))
    if overrides:
        tree.put_all(overrides, "command line")
    for option, (name, value) in (options or {}).items():
        tree.put_set(f"{option} {value}", tuple(name.split(".")), value)
    parsed: list[tuple[str, KeyPath, Any]] = []
    for argument in sets:
        try:
            parsed.append((argument, *_parse_set(argument)))
        except ConfigError as error:
            tree.problems.append((math.inf, str(error)))
    for argument, key, value in sorted(parsed, key=_set_order):
        tree.put_set(f"--set {argument}", key, value)
    _resolve_paths(tree)
    try:
        config = tree.root.model_validate(tree.value, context={READABLE: readable})
    except ValidationError as error:
        found = report.problems_of(error, tree.value, tree.root)
        source = str(path) if path is not None else "configuration"
        tree.problems += [_located(problem, tree, source) for problem in found]
    if tree.problems:
        in_order = sorted(tree.problems, key=lambda problem: problem[0])
        shown = [message for _, message in in_order[:MOST_SHOWN]]
        if len(in_order) > MOST_SHOWN:
            shown.append(f"and {len(in_order) - MOST_SHOWN:,} more; mend these first")
        raise ConfigError("\n".join(shown))
    return config
