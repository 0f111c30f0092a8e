"""Settings of a run that starts from another one, before the user's own changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.errors import ConfigError

if TYPE_CHECKING:
    from bptool.training.trained import TrainedRun

RATE = 0.5
"""Learning rate of fine-tuning, as a share of the parent's."""
TEMPLATE = "roles"
"""How turns are written where neither the user nor the parent says."""


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
    data: list[str],
    validation: list[str],
    skip_bad: bool,
    form: str | None = None,
    judged_fraction: float = 0.0,
) -> dict[str, Any]:
    """Keys of the data section for files of records; ``-`` is standard input."""
    from bptool.data.standard_input import without_stdin

    data, validation = without_stdin(data, validation)
    return {
        "text": [_absolute(name) for name in data],
        "records": {
            "validation": [_absolute(name) for name in validation],
            "skip_bad": skip_bad,
            "form": form,
            "judged_fraction": judged_fraction,
        },
        "split": {"by": "document", "validation_fraction": 0.05},
    }


def _absolute(name: str) -> str:
    """A path that holds from anywhere; ``dataset:NAME`` does already."""
    from bptool.config.load import DATASET_PREFIX

    return name if name.startswith(DATASET_PREFIX) else str(Path(name).absolute())


def adapters(given: str) -> dict[str, Any]:
    """Settings of ``lora`` from ``rank=8,alpha=16,targets=attention+mlp``.

    Raises:
        ConfigError: a part is no key with a value.
    """
    found: dict[str, Any] = {}
    for part in given.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(
                f"--lora: found '{part}', need key=value, as in "
                "rank=8,alpha=16,targets=attention+mlp"
            )
        found[key] = value.split("+") if key == "targets" else _number(value)
    return found


def _number(value: str) -> Any:
    """What ``value`` spells, as in YAML: a number, true or false; else itself."""
    import json

    try:
        return json.loads(value)
    except ValueError:
        return value


def choose_template(values: dict[str, Any], template: str | None, plain: bool) -> list[str]:
    """Set the template that was asked for; or, for a parent that has none, the default one unless
    all records are plain texts. What the user should know of that, a line each."""
    values["chat"] = {"template": template or TEMPLATE}
    if template:
        return []
    if not plain:
        return [
            f"the records say who speaks, and the run that this one starts from has no chat "
            f"template: turns are written as {TEMPLATE} has them (--template for another)"
        ]
    values["chat"] = None
    return [
        "the records are plain texts, and the run that this one starts from has no chat template: "
        f"each answer continues its prompt (--template {TEMPLATE} makes turns of them, for "
        "`bptool chat`)"
    ]
