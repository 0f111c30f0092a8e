"""Settings of a run that starts from another one, before the user's own changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptool.training.trained import TrainedRun

RATE = 0.5
"""Learning rate of fine-tuning, as a share of the parent's."""


def started_from(
    parent: TrainedRun, run: Path, checkpoint: str, rate: float = RATE
) -> dict[str, Any]:
    """Settings of a run that starts from ``parent``: its model and data, and milder training."""
    from bptool.config.choice import Unloaded

    was: dict[str, Any] = parent.config.model_dump(mode="json")
    training = was["training"]
    kept = ("batch_size", "micro_batch_size", "seed", "workers", "split", "engine")
    clipping = ("clip_norm", "clip_value", "clip_adaptive")
    optimizer = dict(was["optimizer"])
    if isinstance(parent.config.optimizer.config, Unloaded):
        optimizer = {"name": optimizer["name"]}  # which is refused, unless another is chosen
    else:
        optimizer["learning_rate"] = float(f"{rate * optimizer['learning_rate']:.3g}")
    return {
        "model": was["model"],
        "data": {"tokenizer": was["data"]["tokenizer"]},
        "training": {key: training[key] for key in (*kept, *clipping)},
        "optimizer": optimizer,
        "schedule": {"name": "cosine", "final_fraction": 0.1},
        "regularizers": was["regularizers"],
        "start": {"run": str(run.absolute()), "checkpoint": checkpoint},
        "chat": was["chat"],
        "sample": {"prompt": "", "max_tokens": 64, "temperature": 0.0},
    }


def nothing_dropped(model: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model without dropout and stochastic depth, beside a reference: what they drop
    is no step away from it, and yet counts in every ratio of probabilities."""
    return {**model, **{key: 0.0 for key in ("dropout", "stochastic_depth") if key in model}}


def records_in(
    data: list[str], validation: list[str], skip_bad: bool, form: str | None = None
) -> dict[str, Any]:
    """Keys of the data section for files of records; ``-`` is standard input."""
    from bptool.cli.piped import without_stdin

    data, validation = without_stdin(data, validation)
    return {
        "text": [_absolute(name) for name in data],
        "records": {
            "validation": [_absolute(name) for name in validation],
            "skip_bad": skip_bad,
            "form": form,
        },
        "split": {"by": "document", "validation_fraction": 0.05},
    }


def _absolute(name: str) -> str:
    """A path that holds from anywhere; ``dataset:NAME`` does already."""
    from bptool.data.text import DATASET_PREFIX

    return name if name.startswith(DATASET_PREFIX) else str(Path(name).absolute())
