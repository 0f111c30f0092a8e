"""Opening a trained run: its configuration, tokenizer, model and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bptool.config.load import resolve
from bptool.config.schema import RunConfig
from bptool.data.tokenizers import Tokenizer, load_tokenizer
from bptool.models.base import Array, Model
from bptool.training.checkpoint import STATE, CheckpointStore, load_state, load_weights
from bptool.training.machine import Engine, choose_engine, engine_of_run
from bptool.training.progress import Progress
from bptool.training.run_folder import RunFolder, read_json
from bptool.training.setup import build_model


@dataclass(frozen=True)
class TrainedRun:
    """A model with the weights of one checkpoint of its run."""

    folder: RunFolder
    config: RunConfig
    tokenizer: Tokenizer
    model: Model
    engine: Engine
    weights: Array
    params: Any
    step: int


def open_run(path: Path, last: bool = False) -> TrainedRun:
    """Open a run's best checkpoint by validation, or its last.

    Raises:
        UserError: no run is there, or one of its files is damaged or of another model.
    """
    folder = RunFolder(path)
    folder.require_run()
    manifest = read_json(folder.manifest, "manifest")
    config = resolve(folder.config).config
    tokenizer = load_tokenizer(folder.tokenizer)
    model = build_model(config, tokenizer.vocab_size)
    checkpoint = CheckpointStore(folder.checkpoints).resolve("last" if last else "best")
    weights = model.layout.allocate(np.float32)
    load_weights(checkpoint, model.layout, weights)
    step = Progress.from_state(load_state(checkpoint), checkpoint / STATE).step
    engine = choose_engine(engine_of_run(config.training.engine, manifest.get("engine")))
    return TrainedRun(
        folder, config, tokenizer, model, engine, weights, model.params(weights), step
    )
