"""The configured model, optimizer and average, made from their registries."""

from __future__ import annotations

from bptool.config.schema import RunConfig
from bptool.models.base import Array, Model
from bptool.optim.averages.base import WeightAverage
from bptool.optim.averages.none import NoAverage
from bptool.optim.base import Optimizer
from bptool.registry import averages, models, optimizers


def build_model(config: RunConfig, n_vocab: int) -> Model:
    """The configured model for ``n_vocab`` token ids."""
    return models.get(config.model.name)(config.model.config, n_vocab)


def build_adapted(config: RunConfig, model: Model, weights: Array) -> Model | None:
    """The configured adapters on ``model``, whose ``weights`` are frozen; None without adapters."""
    return None if config.lora is None else model.adapted(config.lora, weights)


def build_optimizer(config: RunConfig) -> Optimizer:
    """The configured optimizer."""
    return optimizers.get(config.optimizer.name)(config.optimizer.config)


def build_average(config: RunConfig) -> WeightAverage | None:
    """The configured average of the weights, if there is to be one."""
    average = averages.get(config.averaging.name)
    return None if average is NoAverage else average(config.averaging.config)
