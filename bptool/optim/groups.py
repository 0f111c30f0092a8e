"""Parameter groups: other settings for the tensors whose names match a pattern.

    optimizer:
      name: adamw
      groups:
        - {match: "wte.*", learning_rate_factor: 0.1, weight_decay: 0}

The first group that matches a tensor's name decides; layers have names of their own (``h.3.*``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from bptool.config.section import Section
from bptool.errors import ConfigError, did_you_mean


class ParameterGroup(Section):
    """Settings of the tensors whose names match."""

    match: str = Field(
        min_length=1,
        description="names of tensors, with ``*`` for any text and ``?`` for one character, as in "
        "``h.3.*``; the first group that matches a tensor decides",
    )
    learning_rate_factor: float = Field(
        1.0, ge=0, le=1e6, description="multiplies the learning rate; 0: left as they are"
    )
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] | None = Field(
        None,
        description="in place of the optimizer's, for biases and norms too; null: as without a "
        "group",
    )


@dataclass(frozen=True)
class TensorSettings:
    """What the update of one tensor multiplies its learning rate by, and its weight decay."""

    learning_rate_factor: float
    weight_decay: float


def settle(groups: Sequence[ParameterGroup], decays: dict[str, float]) -> dict[str, TensorSettings]:
    """The settings of each tensor, from its weight decay without groups, by name.

    Raises:
        ConfigError: a pattern matches no tensor; the nearest name is offered.
    """
    for index, group in enumerate(groups):
        if not any(fnmatchcase(name, group.match) for name in decays):
            raise ConfigError(
                f"optimizer.groups.{index}.match: '{group.match}' matches no tensor"
                f"{did_you_mean(group.match, decays)}"
            )
    return {name: _settings(name, decay, groups) for name, decay in decays.items()}


def _settings(name: str, decay: float, groups: Sequence[ParameterGroup]) -> TensorSettings:
    for group in groups:
        if fnmatchcase(name, group.match):
            own = decay if group.weight_decay is None else group.weight_decay
            return TensorSettings(group.learning_rate_factor, own)
    return TensorSettings(1.0, decay)
