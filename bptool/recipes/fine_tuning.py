"""What ``bptool finetune`` is asked to do: the configuration of the new run, from its parent's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.errors import ConfigError
from bptool.recipes.inherited import (
    RATE,
    TEMPLATE,
    adapters,
    choose_template,
    nothing_dropped,
    records_in,
    started_from,
)
from bptool.recipes.request import RUNS, Request

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig

PREFERENCE_RATE = 0.05
ROLLOUT_RATE = 0.3
LORA_RATE = 2.0
"""Adapters start at nothing and need larger steps."""
WARMUP = 0.05
EVALUATIONS = 8
JUDGED_FRACTION = 0.7
"""Of the pairs that are held out: those on which only the trained model is judged."""
MOST_EPOCHS = 1e6


def settle_sft(
    run: Path,
    *,
    data: list[str],
    validation: list[str],
    template: str | None,
    epochs: float,
    skip_bad: bool,
    checkpoint: str,
    sets: list[str],
    out: Path | None,
    lora: str | None = None,
    form: str | None = None,
) -> Request:
    """A run that trains on records; its steps follow from ``epochs`` and how the records pack.

    Raises:
        UserError: the parent, the records or a setting is unfit.
    """
    from bptool.training.setup import read_records
    from bptool.training.start import Opened, start_from
    from bptool.training.trained import open_run

    _check_epochs(epochs)
    parent = open_run(run, last=checkpoint == "last")
    values = started_from(parent, run, checkpoint, RATE if lora is None else LORA_RATE)
    values["data"] |= records_in(data, validation, skip_bad, form)
    values["chat"] = {"template": template or parent.chat_template or TEMPLATE}
    if lora is not None:
        values["lora"] = adapters(lora)
    config = resolved(values, sets, steps=1)
    start = start_from(parent, config)
    if lora is not None:  # frozen rows of new tokens would stay as they are drawn
        grows = start.tokenizer.vocab_size > parent.tokenizer.vocab_size
        values["lora"] = {"embeddings": grows, **values["lora"]}
    records = read_records(config, start)
    batch = config.training.batch_size
    n_rows = len(records.train)
    steps = math.ceil(epochs * n_rows / (n_rows if batch == "full" else batch))
    asked = request(resolved(values, sets, steps), run, "sft", out)
    return replace(asked, opened=Opened(start, records))


def _check_epochs(epochs: float) -> None:
    if not 0 < epochs <= MOST_EPOCHS:
        raise ConfigError(
            f"--epochs {epochs:g} is not a number above 0 and at most {MOST_EPOCHS:,.0f}"
        )


def options_of(section: str, given: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Settings of a section as the options that set them: ``--kl-weight`` for ``kl_weight``."""
    named = {("rollouts", "prompts"): "--prompts-per-step"}
    return {
        named.get((section, key), f"--{key.replace('_', '-')}"): (f"{section}.{key}", value)
        for key, value in given.items()
    }


def settle_preferences(
    run: Path,
    objective: dict[str, Any],
    *,
    data: list[str],
    validation: list[str],
    epochs: float,
    skip_bad: bool,
    checkpoint: str,
    sets: list[str],
    out: Path | None,
    template: str | None = None,
) -> Request:
    """A run that learns from preferences by ``objective``; its steps follow from ``epochs`` and how
    the pairs pack.

    Raises:
        UserError: the parent, the preferences or a setting is unfit.
    """
    from bptool.data.decoding import reading_of
    from bptool.data.preference_set import UnitBatches
    from bptool.data.preferences import read_preferences
    from bptool.data.record_report import RecordReport
    from bptool.training.fine_tuning import read_units
    from bptool.training.start import Opened, start_from
    from bptool.training.trained import open_run

    _check_epochs(epochs)
    parent = open_run(run, last=checkpoint == "last")
    name = objective["name"]
    rate = RATE if name == "reward" else PREFERENCE_RATE
    values = started_from(parent, run, checkpoint, rate)
    values["objective"] = {"name": name}
    options = options_of("objective", {k: v for k, v in objective.items() if k != "name"})
    judged_fraction = 0.0 if name == "kto" else JUDGED_FRACTION
    values["data"] |= records_in(data, validation, skip_bad, judged_fraction=judged_fraction)
    values["data"]["split"]["validation_fraction"] = 0.1
    if name == "reward":
        values["model"] = {**values["model"], "score_head": True}
        values["sample"]["max_tokens"] = 0
    else:
        values["model"] = nothing_dropped(values["model"])
    config, notes = resolved(values, sets, 1, options), []
    if template or config.chat is None:
        names = [*config.data.text, *config.data.records.validation] if config.data.records else []
        found = read_preferences(names, RecordReport(), reading_of(config.data))
        notes = choose_template(values, template, found.plain)
        config = resolved(values, sets, 1, options)
    context = parent.model.context
    start = start_from(parent, config)
    units = read_units(config, start.tokenizer, context)
    batch = config.training.batch_size
    rows = len(units.train) * 2 if batch == "full" else batch
    batches = UnitBatches(units.train, context, rows, config.training.data_seed, name == "reward")
    config = resolved(values, sets, batches.steps(epochs), options)
    return replace(request(config, run, name, out, notes), opened=Opened(start, units))


def settle_rollouts(
    run: Path,
    objective: str,
    *,
    reward: str,
    prompts: list[str],
    validation: list[str],
    steps: int,
    skip_bad: bool,
    checkpoint: str,
    rollouts: dict[str, Any],
    sets: list[str],
    out: Path | None,
    template: str | None = None,
) -> Request:
    """A run that learns from rewards of the answers it samples.

    Raises:
        UserError: the parent, the prompts, what rewards or a setting is unfit.
    """
    from bptool.data.record_report import RecordReport
    from bptool.feedback.prompts import read_prompt_records
    from bptool.plugins import name_rules
    from bptool.training.scorer import check_rewards
    from bptool.training.start import Opened, start_from
    from bptool.training.trained import open_run

    if not Path(reward).is_dir():
        name_rules("--reward", Path(reward))
    parent = open_run(run, last=checkpoint == "last")
    values = started_from(parent, run, checkpoint, ROLLOUT_RATE)
    values["objective"] = {"name": objective}
    values["data"] |= records_in(prompts, validation, skip_bad)
    values["data"]["split"]["validation_fraction"] = 0.1
    values["model"] = nothing_dropped(values["model"])
    values["rollouts"] = {"reward": str(Path(reward).absolute())}
    if objective == "ppo":
        values["model"] = {**values["model"], "score_head": True}
    config, notes = resolved(values, sets, steps, options_of("rollouts", rollouts)), []
    if template or config.chat is None:
        names = [*config.data.text, *config.data.records.validation] if config.data.records else []
        found = read_prompt_records(names, RecordReport())
        notes = choose_template(values, template, all(isinstance(x.prompt, str) for x in found))
        config = resolved(values, sets, steps, options_of("rollouts", rollouts))
    assert config.rollouts is not None
    check_rewards(config.rollouts.reward)
    opened = Opened(start_from(parent, config))
    return replace(request(config, run, objective, out, notes), opened=opened)


def resolved(
    values: Mapping[str, Any],
    sets: list[str],
    steps: int,
    options: Mapping[str, tuple[str, Any]] | None = None,
) -> RunConfig:
    """The configuration of so many ``steps``, with the user's changes."""
    from bptool.config.load import resolve

    training = {
        **values["training"],
        "steps": steps,
        "eval_interval": max(1, steps // EVALUATIONS),
        "log_interval": max(1, steps // 20),
    }
    schedule = values["schedule"]
    if schedule["name"] == "cosine":
        schedule = {**schedule, "warmup_steps": 0}
    first = {**values, "training": training, "schedule": schedule}
    label = "of the run that it starts from"
    given: dict[str, Any] = {"defaults_label": label, "options": options}
    n = resolve(None, sets, defaults=first, **given).config.training.steps
    if n == steps and schedule["name"] == "cosine":
        first["schedule"] = {**schedule, "warmup_steps": int(WARMUP * steps)}
    return resolve(None, sets, defaults=first, **given).config


def request(
    config: RunConfig, run: Path, method: str, out: Path | None, notes: Sequence[str] = ()
) -> Request:
    """The new run in ``out``, or beside its parent's name in ``runs/``; ``notes`` are said at its
    start."""
    from bptool.training.run_folder import RunFolder, free_name

    folder = RunFolder(out or free_name(RUNS / f"{run.name}-{method}"))
    return Request(config, folder, False, notes=tuple(notes))
