"""Opening a trained run: its configuration, tokenizer, model and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bptool.config.load import resolve
from bptool.config.schema import RunConfig
from bptool.data.tokenizers import Tokenizer, load_tokenizer
from bptool.errors import RunError, UserError
from bptool.models.base import Array, Model
from bptool.optim.averages.none import NoAverage
from bptool.training.checkpoint import (
    AVERAGE,
    STATE,
    WEIGHTS,
    CheckpointStore,
    load_state,
    read_weights,
)
from bptool.training.machine import Engine, choose_engine, engine_of_run
from bptool.training.parts import build_adapted, build_model
from bptool.training.progress import Progress
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import read_manifest, unnamed_programs


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
    kind: Literal["raw", "average"]
    """Which weights these are: as trained, or their average."""

    @property
    def chat_template(self) -> str | None:
        """Name of the template that conversations are written by, if it has one."""
        return self.config.chat.template if self.config.chat else None


def open_run(
    path: Path, last: bool = False, which: Literal["raw", "average"] | None = None
) -> TrainedRun:
    """Open a run's best checkpoint by validation, or its last, with adapters folded in.

    Args:
        which: weights as trained, or their average; by default the average where the run makes one,
            since the best checkpoint is chosen by it.

    Raises:
        UserError: no run is there, one of its files is damaged or of another model, or it has no
            average.
    """
    folder = RunFolder(path)
    folder.require_run()
    manifest = read_manifest(folder)
    try:
        config = resolve(folder.config, readable=True).config
        tokenizer = load_tokenizer(folder.tokenizer)
    except UserError as error:
        if missing := unnamed_programs(manifest, "--plugin"):
            raise RunError(f"{error}; {missing}") from None
        raise
    model = build_model(config, tokenizer.vocab_size)
    store = CheckpointStore(folder.checkpoints)
    checkpoint = store.resolve("last" if last else "best")
    base = load_base(folder, model) if config.lora else None
    adapted = None if base is None else build_adapted(config, model, base)
    layout = (adapted or model).layout
    averaged = config.averaging.name != NoAverage.name
    if which == "average" and not averaged:
        raise RunError(
            f"{path} was trained without an average of its weights; leave --weights out, or train "
            "with averaging.name=ema"
        )
    kind: Literal["raw", "average"] = which or ("average" if averaged else "raw")
    with store.offering(checkpoint):
        weights = read_weights(checkpoint, layout, AVERAGE if kind == "average" else WEIGHTS)
        step = Progress.from_state(load_state(checkpoint), checkpoint / STATE).step
    engine = choose_engine(engine_of_run(config.training.engine, manifest.get("engine")))
    if adapted is not None:
        weights = adapted.merged(weights)
    params = model.params(weights)
    return TrainedRun(folder, config, tokenizer, model, engine, weights, params, step, kind)


def load_base(folder: RunFolder, model: Model) -> Array:
    """The frozen weights that a run's adapters belong to.

    Raises:
        RunError: they are missing, damaged, or of another model.
    """
    return read_weights(folder.base, model.layout)
