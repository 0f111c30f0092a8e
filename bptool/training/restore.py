"""What a run saves in a checkpoint, and taking it back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bptool.errors import DamagedError
from bptool.training.checkpoint import (
    AVERAGE,
    SLACK_BYTES,
    STATE,
    CheckpointStore,
    load_lesson,
    load_optimizer,
    load_state,
    load_weights,
)
from bptool.training.progress import Progress
from bptool.training.setup import Pieces


def save_checkpoint(store: CheckpointStore, pieces: Pieces, progress: Progress) -> str:
    """Write a checkpoint of the pieces as they are; its name, or the errors of the store."""
    step, named = pieces.step, pieces.model.layout.named
    state = {**dataclasses.asdict(progress), "lesson": pieces.lesson.state()}
    step.average_params()
    average = named(step.averaging.weights) if step.averaging else None
    weights = named(step.evaluation_weights)
    return store.save(weights, step.state(), state, average, pieces.lesson.arrays())


def load_checkpoint(checkpoint: Path, pieces: Pieces) -> Progress:
    """Put a checkpoint into ``pieces``, and return where it stood.

    Raises:
        RunError: a file of it is missing, damaged or of another model.
    """
    layout, step = pieces.model.layout, pieces.step
    load_weights(checkpoint, layout, step.evaluation_weights)
    if step.averaging:
        load_weights(checkpoint, layout, step.averaging.weights, AVERAGE)
    load_optimizer(checkpoint, step.state())
    load_lesson(checkpoint, pieces.lesson.arrays())
    state = load_state(checkpoint)
    pieces.lesson.load(_lesson_state(state, checkpoint / STATE))
    standing = Progress.from_state(state, checkpoint / STATE)
    step.n_updates = standing.n_updates
    return standing


def checkpoint_bytes(pieces: Pieces) -> int:
    """What a checkpoint of these pieces takes on the disk."""
    step = pieces.step
    arrays = [step.evaluation_weights, *step.state().values(), *pieces.lesson.arrays().values()]
    arrays += [step.averaging.weights] if step.averaging else []
    return sum(array.nbytes for array in arrays) + SLACK_BYTES


def _lesson_state(state: dict[str, Any], place: object) -> dict[str, Any]:
    found = state.get("lesson", {})
    if not isinstance(found, dict):
        raise DamagedError(f"{place} is damaged: 'lesson' is {found!r}; restore it")
    return found
