"""Which settings a resumed run has otherwise than before, and what each may mean to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bptool.config.dump import inline
from bptool.config.report import spot_at
from bptool.config.schema import RunConfig
from bptool.config.section import AtResume
from bptool.config.yaml_reader import KeyPath

MEANINGS = {
    AtResume.NO_WEIGHT: "",
    AtResume.ROUNDING: "; the bits will not be those of a run with it from the start, but the "
    "result is the same up to rounding",
    AtResume.LENGTH: "; the bits will not be those of a run with it from the start",
    AtResume.CONTENT: "; the content is the same",
}


@dataclass(frozen=True)
class Change:
    """A setting that a resumed run has otherwise than before.

    Attributes:
        key: dotted; that of the whole part where another one is named.
        was, now: as YAML on one line; of a part its name.
        mark: what it means; None where it may not change.
    """

    key: str
    was: str
    now: str
    mark: AtResume | None

    def __str__(self) -> str:
        meaning = MEANINGS[self.mark] if self.mark else ""
        return f"{self.key} is {self.now} from here on, was {self.was}{meaning}"


def mark_of(path: KeyPath) -> AtResume | None:
    """What a change of a key means to a resumed run: the mark of its field, or else of a section
    that it stands in. None where it may not change."""
    for length in range(1, len(path) + 1):
        spot = spot_at(path[:length], {})
        if spot is not None and spot.field is not None:
            for mark in spot.field.metadata:
                if isinstance(mark, AtResume):
                    return mark
    return None


def changes(own: RunConfig, wanted: RunConfig) -> list[Change]:
    """What ``wanted`` has otherwise than ``own``, key by key in the order of the sections."""
    return list(_changes(own.model_dump(mode="json"), wanted.model_dump(mode="json"), ()))


def _changes(was: Any, now: Any, path: KeyPath) -> Iterator[Change]:
    if was == now:
        return
    if isinstance(was, dict) and isinstance(now, dict) and was.get("name") == now.get("name"):
        for key in {**was, **now}:
            yield from _changes(was.get(key), now.get(key), (*path, key))
    else:
        key = ".".join(map(str, path))
        yield Change(key, _shown(was), _shown(now), mark_of(path))


def _shown(value: Any) -> str:
    is_part = isinstance(value, dict) and "name" in value
    return inline(value["name"] if is_part else value)
