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

from bptool.config.load import flatten, resolve
from bptool.config.schema import RunConfig
from bptool.errors import ConfigError

INTERVALS = ("training.eval_interval", "averaging.interval")


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

    The schedule's numbers of steps (``warmup_steps`` and the like) and the intervals of
    evaluations and of an average are scaled in proportion where the file gives them; those of
    ``--set`` stay as they are said.

    Raises:
        ConfigError: as :func:`bptool.config.load.resolve`; or the steps are given twice.
    """
    resolved = resolve(path, sets, overrides)
    if steps is None:
        return Budgeted(resolved.config, {})
    if resolved.provenance["training.steps"].startswith("--set"):
        raise ConfigError("--steps and --set training.steps are the same; keep one")
    factor = steps / resolved.config.training.steps
    scaled: dict[str, tuple[int, int]] = {}
    for key, text in flatten(resolved.config).items():
        counts_steps = key in INTERVALS or (key.startswith("schedule.") and key.endswith("_steps"))
        said = not resolved.provenance[key].startswith(("--set", "default", "derived"))
        if counts_steps and said and text.isdecimal() and int(text) > 0:
            value = max(1, round(int(text) * factor))
            if value != int(text):
                scaled[key] = int(text), value
    changes = [f"{key}={new}" for key, (_, new) in scaled.items()]
    final = resolve(path, [*sets, f"training.steps={steps}", *changes], overrides)
    return Budgeted(final.config, scaled)
