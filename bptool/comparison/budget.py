"""A configuration fitted to the number of steps it is judged at.

A warm-up of 100 steps is a tenth of a run of 1000 and all of a run of 100: an optimizer judged
in the middle of a longer run's schedule is not judged at all. So whatever the file counts in
steps shrinks or grows with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptool.config.load import resolve
from bptool.config.report import value_at
from bptool.config.schema import RunConfig
from bptool.errors import ConfigError

COUNTS = ("training.eval_interval", "averaging.interval", "optimizer.warmup_steps")


@dataclass(frozen=True)
class Budgeted:
    """A configuration of the wanted length, and what had to change for it."""

    config: RunConfig
    scaled: dict[str, tuple[int, int]]
    """Dotted key -> value in the file, value now."""


def resolve_at(
    path: Path | str,
    sets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    steps: int | None = None,
) -> Budgeted:
    """Read a configuration for runs of ``steps`` steps; None leaves its own number.

    What counts steps (:func:`counts_steps`) is scaled in proportion where the file gives it, and
    rounded down so that what fitted still fits, to 1 at least; numbers of ``--set`` stay as said.

    Raises:
        ConfigError: as :func:`bptool.config.load.resolve`; or the steps are given twice.
    """
    resolved = resolve(path, sets, overrides)
    if steps is None:
        return Budgeted(resolved.config, {})
    if resolved.provenance["training.steps"].startswith("--set"):
        raise ConfigError("--steps and --set training.steps are the same; keep one")
    length = resolved.config.training.steps
    values = resolved.config.model_dump(mode="json")
    scaled: dict[str, tuple[int, int]] = {}
    for key, place in resolved.provenance.items():
        if not counts_steps(key) or place.startswith(("--set", "default", "derived")):
            continue
        found = value_at(values, tuple(key.split(".")))
        entries = enumerate(found) if isinstance(found, list) else [(None, found)]
        for index, value in entries:
            if value:
                name = key if index is None else f"{key}.{index}"
                scaled[name] = value, max(1, value * steps // length)
    scaled = {key: (old, new) for key, (old, new) in scaled.items() if new != old}
    changes = [f"{key}={new}" for key, (_, new) in scaled.items()]
    final = resolve(path, [*sets, f"training.steps={steps}", *changes], overrides)
    return Budgeted(final.config, scaled)


def counts_steps(key: str) -> bool:
    """Whether a dotted key counts the run's steps: one of ``COUNTS``, and whatever of a schedule
    ends in ``_steps``."""
    return key in COUNTS or (key.startswith("schedule.") and key.endswith("_steps"))
