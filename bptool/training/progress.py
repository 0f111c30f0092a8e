"""Where a run stands, as its checkpoints keep it."""

from __future__ import annotations

import dataclasses
from typing import Any

from bptool.errors import DamagedError
from bptool.training.early_stopping import Waiting
from bptool.training.spikes import Watch

OVERFITTING_AFTER = 3
"""Evaluations without a better validation loss, while the training loss falls."""


@dataclasses.dataclass
class Counters:
    """What the loop itself has counted."""

    step: int = 0
    n_updates: int = 0
    skipped_in_a_row: int = 0
    """Steps without a finite loss and gradient."""


@dataclasses.dataclass
class Evaluations:
    """What evaluations have shown so far."""

    loss_sum: float = 0.0
    """Training losses since the last evaluation."""
    n_losses: int = 0
    best_val_loss: float | None = None
    best_step: int = 0
    train_loss_at_best: float | None = None
    evaluations_since_best: int = 0

    def overfits(self, train_loss: float | None) -> bool:
        """Whether the validation loss has long been better than it is, while that of training has
        fallen to ``train_loss``; not where the model before training was best."""
        since, before = self.evaluations_since_best, self.train_loss_at_best
        falls = train_loss is not None and (before is None or train_loss < before)
        return since >= OVERFITTING_AFTER and self.best_step > 0 and falls


@dataclasses.dataclass
class Progress(Evaluations, Counters):
    """What changes from step to step besides weights and optimizer state; in every checkpoint.

    Each callback keeps its own part and gives it by these names; see ``Callback.entries``.
    """

    waiting: Waiting = dataclasses.field(default_factory=Waiting)
    """Of early stopping."""
    n_skipped: int = 0
    """Steps left out so far, whatever for."""
    watch: Watch = dataclasses.field(default_factory=Watch)
    """For spikes of the loss."""

    @classmethod
    def from_state(cls, state: dict[str, Any], place: object) -> Progress:
        """What a checkpoint's ``state.json`` says; DamagedError where it is damaged."""
        if state.get("format_version") == 1:
            state = {**_ADDED_IN_2, **state}
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = state.get(field.name, "missing")
            if field.name == "waiting":
                values[field.name] = _waiting(value, place)
                continue
            if field.name == "watch":
                values[field.name] = _watch(value, place)
                continue
            whole = isinstance(field.default, int)
            optional = field.default is None
            if not (_is_number(value, whole) or (optional and value is None)):
                raise DamagedError(f"{place} is damaged: '{field.name}' is {value!r}; restore it")
            values[field.name] = value
        return cls(**values)


_ADDED_IN_2 = {"n_skipped": 0, "watch": dataclasses.asdict(Watch())}


def _is_number(value: object, whole: bool) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and not whole)


def _waiting(value: Any, place: object) -> Waiting:
    """What a checkpoint says of early stopping."""
    wanted = {field.name for field in dataclasses.fields(Waiting)}
    if isinstance(value, dict) and value.keys() == wanted:
        losses, tokens = value["losses"], value["tokens"]
        if (
            isinstance(losses, list)
            and isinstance(tokens, list)
            and len(losses) == len(tokens)
            and all(_is_number(loss, False) for loss in losses)
            and all(_is_number(n, True) for n in (*tokens, value["step"], value["evaluations"]))
        ):
            return Waiting(**value)
    raise DamagedError(f"{place} is damaged: 'waiting' is {value!r}; restore it")


def _watch(value: Any, place: object) -> Watch:
    """What a checkpoint says of spikes."""
    wanted = {field.name for field in dataclasses.fields(Watch)}
    if (
        isinstance(value, dict)
        and value.keys() == wanted
        and isinstance(value["losses"], list)
        and all(_is_number(x, False) for x in (*value["losses"], value["rate_factor"]))
        and all(_is_number(value[key], True) for key in ("in_a_row", "rollbacks", "back_from"))
    ):
        return Watch(**value)
    raise DamagedError(f"{place} is damaged: 'watch' is {str(value)[:80]}; restore it")
