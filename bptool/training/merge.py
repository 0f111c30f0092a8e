"""Folding a run's adapters into its weights: a run folder of its own, without adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bptool.config.dump import to_yaml
from bptool.config.load import resolve
from bptool.errors import RunError
from bptool.files import write_text
from bptool.training.checkpoint import CheckpointStore, load_state
from bptool.training.run_folder import RunFolder, writing
from bptool.training.run_seal import OF_THE_FILES, read_manifest, write_manifest
from bptool.training.trained import TrainedRun, open_run

CONFIG_KEYS_LEFT_OUT = {"lora": None}


@dataclass(frozen=True)
class Merged:
    """A run that was made of another and its adapters."""

    run: TrainedRun
    folder: RunFolder
    n_parameters: int


def merge_run(path: Path, out: Path, last: bool = False) -> Merged:
    """Write the run in ``path`` to ``out`` with W + s B A for each adapted weight W.

    Raises:
        UserError: ``path`` holds no run with adapters, or ``out`` is not free.
    """
    folder = RunFolder(out)
    folder.check_free()
    source = RunFolder(path)
    source.require_run()
    read_manifest(source)
    if resolve(source.config, readable=True).config.lora is None:
        raise RunError(f"{path} has no adapters to merge: it was trained without --lora")
    run = open_run(path, last)
    checkpoint = CheckpointStore(source.checkpoints).resolve("last" if last else "best")
    state = {k: v for k, v in load_state(checkpoint).items() if k not in ("sha256", "lesson")}
    manifest = read_manifest(source)
    for key in (*OF_THE_FILES, "accepted", "programs"):
        manifest.pop(key, None)
    manifest.pop("n_trained", None)
    manifest["n_parameters"] = run.model.n_parameters
    manifest["merged"] = {"run": str(path.absolute()), "step": run.step, "weights": run.kind}
    config = run.config.model_copy(update=CONFIG_KEYS_LEFT_OUT)
    named = run.model.layout.named(run.weights)
    made = folder.begin()
    try:
        with writing(folder.path):
            write_text(made.config, to_yaml(config))
            run.tokenizer.save(made.tokenizer)
            store = CheckpointStore(made.checkpoints)
            store.mark_best(store.save(named, {}, state, named if run.kind == "average" else None))
            write_manifest(made, manifest, config)
        folder.finish(made)
    except BaseException:
        made.discard()
        raise
    return Merged(run, folder, run.model.n_parameters)
