"""Search spaces: what is shipped, points drawn from them, and points at their edge.

Points are drawn quasi-randomly (a scrambled Halton sequence, Owen 2017, by scipy), which covers a
space more evenly than independent draws do (Bousquet et al. 2017, "Critical Hyper-Parameters: No
Random, No Cry"). Every optimizer and workload gets the same points of the unit cube, so that none
is luckier than another where their spaces are alike.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from bptool.config import yaml_reader
from bptool.config.study_section import RangeConfig, Space, check_space
from bptool.errors import ConfigError, did_you_mean

SHIPPED = Path(__file__).with_name("search_spaces.yaml")
POINTS_SEED = 20_240_229
EDGE = 0.1
"""Within this share of a range's end, measured along its scale, a value lies at the edge."""
WIDER = 10.0
"""How many times further a range is suggested to reach on a scale of logarithms."""
SIGNIFICANT_DIGITS = 4


@functools.cache
def shipped() -> dict[str, Space]:
    """Every space that comes with bptool, also of optimizers that are not registered."""
    return TypeAdapter(dict[str, Space]).validate_python(yaml_reader.read(SHIPPED).value)


def space_of(name: str, own: Mapping[str, Space], fixed: Mapping[str, Any]) -> Space:
    """The search space of an optimizer in a study.

    Args:
        own: the study's spaces. fixed: settings of the optimizer that are not searched.

    Raises:
        ConfigError: neither the study nor bptool has one, or all of it is fixed.
    """
    space = own.get(name, shipped().get(name))
    if space is None:
        known = did_you_mean(name, shipped())
        raise ConfigError(f"no search space for '{name}'; add spaces: {{{name}: ...}}{known}")
    left = {key: where for key, where in space.items() if key not in fixed}
    if not left:
        raise ConfigError(f"'{name}': settings fix all that its space searches; remove one")
    return left


def draw(space: Space, n: int) -> list[dict[str, Any]]:
    """``n`` points of a space. A longer draw begins with the points of a shorter one."""
    from scipy.stats import qmc

    sequence = qmc.Halton(d=len(space), scramble=True, seed=np.random.default_rng(POINTS_SEED))
    points = []
    for row in sequence.random(n).tolist():
        values: dict[str, Any] = {}
        for u, (key, where) in zip(row, space.items(), strict=True):
            if isinstance(where, RangeConfig):
                values[key] = float(f"{where.value(u):.{SIGNIFICANT_DIGITS}g}")
            else:
                values[key] = where[min(int(u * len(where)), len(where) - 1)]
        points.append(values)
    return points


def at_edge(name: str, space: Space, settings: Mapping[str, Any]) -> dict[str, RangeConfig]:
    """Settings of the optimizer ``name`` that lie at the edge of their range, each with a range
    that reaches further; not where the optimizer takes nothing beyond."""
    found = {}
    for key, where in space.items():
        if not isinstance(where, RangeConfig):
            continue
        u = where.position(settings[key])
        if EDGE <= u <= 1 - EDGE:
            continue
        wider = _wider(where, upward=u > 0.5)
        with contextlib.suppress(ValidationError):
            check_space(name, {key: wider}, name)
            found[key] = wider
    return found


def joined(one: RangeConfig, other: RangeConfig) -> RangeConfig:
    """The range that holds both, which have the same scale."""
    low, high = min(one.low, other.low), max(one.high, other.high)
    return RangeConfig(low=low, high=high, scale=one.scale)


def _wider(where: RangeConfig, upward: bool) -> RangeConfig:
    low, high = where.low, where.high
    if where.scale == "log":
        low, high = (low, high * WIDER) if upward else (low / WIDER, high)
    elif where.scale == "linear":
        span = high - low
        low, high = (low, high + span) if upward else (low - span, high)
    elif upward:
        high = 1.0 - (1.0 - high) / WIDER
    else:
        low = max(0.0, 1.0 - (1.0 - low) * WIDER)
    return RangeConfig(low=float(f"{low:.6g}"), high=float(f"{high:.6g}"), scale=where.scale)
