"""Where a run stands, as its checkpoints keep it."""

from __future__ import annotations

import dataclasses
from typing import Any

from bptool.errors import RunError


@dataclasses.dataclass
class Progress:
    """What changes from step to step besides weights and optimizer state; in every checkpoint."""

    step: int = 0
    n_updates: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    n_losses: int = 0
    best_val_loss: float | None = None
    best_step: int = 0
    train_loss_at_best: float | None = None
    evaluations_since_best: int = 0

    @classmethod
    def from_state(cls, state: dict[str, Any], place: object) -> Progress:
        """What a checkpoint's ``state.json`` says; RunError where it is damaged."""
        values = {}
        for field in dataclasses.fields(cls):
            value = state.get(field.name, "missing")
            whole = isinstance(field.default, int)
            optional = field.default is None
            fits = isinstance(value, int) or (isinstance(value, float) and not whole)
            if not (fits or (optional and value is None)):
                raise RunError(f"{place} is damaged: '{field.name}' is {value!r}; restore it")
            values[field.name] = value
        return cls(**values)
