"""Where a run starts from: the tokenizer and weights of another run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bptool.config.schema import RunConfig
from bptool.data.chat.dataset import ChatSet
from bptool.data.preference_set import PreferenceSet
from bptool.data.tokenizers import Tokenizer
from bptool.errors import ConfigError
from bptool.models.base import Array, Model, grow_vocabulary
from bptool.registry import templates
from bptool.training.parts import build_model
from bptool.training.trained import TrainedRun, open_run


class Opened(NamedTuple):
    """What was opened and read to settle a new run, so that it need not be read again."""

    start: Start
    data: ChatSet | PreferenceSet | None = None


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        tokenizer: the other run's, with the special tokens that conversations need.
        weights: flat buffer of the layout of the new model; None where a checkpoint has them.
        origin: what a manifest says: the run, its step, the hash of its weights.
        reference: the weights that it started from, wherever it stands now; None where it is not
            asked for.
    """

    tokenizer: Tokenizer
    weights: Array | None
    origin: dict[str, Any]
    reference: Array | None = None


def open_start(config: RunConfig) -> Start:
    """Open the run that ``config`` starts from, and fit its weights to the configured model.

    Raises:
        UserError: there is no such run, it is damaged, or its model is another.
    """
    assert config.start is not None
    run = open_run(Path(config.start.run), last=config.start.checkpoint == "last")
    return start_from(run, config)


def start_from(run: TrainedRun, config: RunConfig) -> Start:
    """The same for the run of ``config``, where it is open already."""
    assert config.start is not None
    tokenizer = with_chat_tokens(run.tokenizer, config)
    same = build_model(config, run.tokenizer.vocab_size)
    _check_same(same, run.model, config)
    model = build_model(config, tokenizer.vocab_size)
    weights = grow_vocabulary(run.model, run.weights, model, config.training.seed)
    origin = {
        "run": config.start.run,
        "step": run.step,
        "weights": run.kind,
        "weights_sha256": hashlib.sha256(run.weights.tobytes()).hexdigest(),
    }
    return Start(tokenizer, weights, origin, weights)


def with_chat_tokens(tokenizer: Tokenizer, config: RunConfig) -> Tokenizer:
    """``tokenizer`` with the special tokens of the chat template that it lacks."""
    if config.chat is None:
        return tokenizer
    return tokenizer.with_special_tokens(templates.get(config.chat.template).special_tokens)


def _check_same(model: Model, other: Model, config: RunConfig) -> None:
    assert config.start is not None
    if type(model) is not type(other):
        raise ConfigError(
            f"model.name is {model.name}, but {config.start.run} is a {other.name}; name the same"
        )
    for own, its in zip(model.specs, other.specs, strict=True):
        new_head = own.may_be_new and its.size == 0
        if own.shape != its.shape and not new_head:
            raise ConfigError(
                f"the model of {config.start.run} has {its.name} of shape {its.shape}, the "
                f"configured one {own.shape}; leave the model's sizes as they are there"
            )
