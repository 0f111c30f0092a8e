"""Starting a run in a new folder, and going on with one from its last checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from bptool.config.dump import to_yaml
from bptool.config.schema import RunConfig
from bptool.data.tokenizers import load_tokenizer
from bptool.errors import RunError
from bptool.files import write_json, write_text
from bptool.models.adapters import AdaptedGPT2
from bptool.training import machine, metrics, samples
from bptool.training.checkpoint import (
    AVERAGE,
    STATE,
    WEIGHTS,
    CheckpointStore,
    load_lesson,
    load_optimizer,
    load_state,
    load_weights,
    write_folder,
)
from bptool.training.events import Listener, Notice
from bptool.training.loop import Training
from bptool.training.manifest import describe, differences
from bptool.training.parts import build_model
from bptool.training.progress import Progress
from bptool.training.run_folder import RunFolder, read_json, writing
from bptool.training.setup import Pieces, build
from bptool.training.split import Split
from bptool.training.start import Start, open_start
from bptool.training.trained import load_base

NO_REFERENCE = ("next-token", "reward")
"""Objectives that never look back at the weights a run started from."""


def start_run(
    config: RunConfig,
    folder: RunFolder,
    listeners: Sequence[Listener] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Training:
    """Begin a run: check everything, then make its folder.

    Raises:
        UserError: a setting, a text or the folder is unfit. Nothing is left behind then.
    """
    folder.check_free()
    pieces = build(config, progress=progress)
    try:
        for notice in pieces.lesson.notices():
            for listener in listeners:
                listener(notice)
        training = Training(pieces, folder, listeners)
        folder.create()
        try:
            with writing(folder.path):
                write_text(folder.config, to_yaml(config))
                pieces.corpus.tokenizer.save(folder.tokenizer)
                if isinstance(pieces.model, AdaptedGPT2):
                    _keep_base(pieces.model, folder)
                write_json(folder.manifest, describe(pieces))
        except BaseException:
            folder.discard()
            raise
    except BaseException:
        pieces.close()
        raise
    return training


def _keep_base(model: AdaptedGPT2, folder: RunFolder) -> None:
    """Write the frozen weights once, in the form of a checkpoint."""
    write_folder(folder.base, {WEIGHTS: model.plain.layout.named(model.base)}, {"step": 0})


def resume_run(
    config: RunConfig,
    folder: RunFolder,
    listeners: Sequence[Listener] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Training:
    """Go on with a run from its last checkpoint (from its start if it has none yet), with the
    workers, their split and the matrix engine that its manifest names.

    ``config`` is the run's own, with whatever may change on a resume changed. Where the bits will
    differ from an unbroken run, a Notice says why.

    Raises:
        UserError: the folder, its text or its checkpoint is missing, damaged or of another run.
    """
    folder.require_run()
    saved = read_json(folder.manifest, "manifest")
    if "merged" in saved:
        raise RunError(
            f"{folder.path} was made by `bptool merge` and has no optimizer state to go on with; "
            f"start a run from it with `bptool finetune sft {folder.path}`"
        )
    n_workers, split = None, None
    engine = machine.engine_of_run(config.training.engine, saved.get("engine"))
    if config.training.workers == "auto":
        n_workers = saved.get("workers")
        if not isinstance(n_workers, int) or n_workers < 1:
            raise RunError(f"{folder.manifest} is damaged: workers is {n_workers!r}; restore it")
    if config.training.split == "auto" and saved.get("split") in get_args(Split):
        split = saved["split"]
    start = _start_again(config, folder, saved) if config.start else None
    pieces = build(config, None, n_workers, engine, split, progress, start)
    try:
        now = describe(pieces)
        _check_same_data(pieces, folder, saved, now)
        standing = _load_last(pieces, folder)
        metrics.rewind(folder.metrics, standing.step)
        samples.rewind(folder.samples, standing.step)
        training = Training(pieces, folder, listeners, standing)
        for notice in _notices(saved, now):
            for listener in listeners:
                listener(notice)
    except BaseException:
        pieces.close()
        raise
    return training


def _start_again(config: RunConfig, folder: RunFolder, saved: dict[str, Any]) -> Start:
    """What a run started from: its own tokenizer, and weights only while it has none itself."""
    origin = saved.get("start")
    if not isinstance(origin, dict):
        raise RunError(f"{folder.manifest} is damaged: it has no 'start'; restore it from a copy")
    if config.lora is not None:
        tokenizer = load_tokenizer(folder.tokenizer)
        base = load_base(folder, build_model(config, tokenizer.vocab_size))
        return Start(tokenizer, base, origin)
    has_checkpoint = CheckpointStore(folder.checkpoints).index().last is not None
    needs_reference = config.objective.name not in NO_REFERENCE
    if has_checkpoint and not needs_reference:
        return Start(load_tokenizer(folder.tokenizer), None, origin)
    start = open_start(config)
    if start.origin.get("weights_sha256") != origin.get("weights_sha256"):
        why = "is held to those weights" if has_checkpoint else "has no checkpoint yet"
        raise RunError(
            f"{start.origin['run']} has been trained on since {folder.path} started from it, which "
            f"{why}; start a new run"
        )
    return dataclasses.replace(start, weights=None) if has_checkpoint else start


def _check_same_data(
    pieces: Pieces, folder: RunFolder, saved: dict[str, Any], now: dict[str, Any]
) -> None:
    if now["data"] != saved.get("data"):
        raise RunError(
            f"the text or its split is not the one that {folder.path} was trained on; "
            "restore the text, or train a new run"
        )
    if load_tokenizer(folder.tokenizer).to_json() != pieces.corpus.tokenizer.to_json():
        raise RunError(
            f"{folder.tokenizer} is not the tokenizer of this run's text; restore it from a copy"
        )


def _load_last(pieces: Pieces, folder: RunFolder) -> Progress:
    """Put the last checkpoint's weights and optimizer state into ``pieces``."""
    store = CheckpointStore(folder.checkpoints)
    if store.index().last is None:
        return Progress()
    checkpoint = store.resolve("last")
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


def _lesson_state(state: dict[str, Any], place: object) -> dict[str, Any]:
    found = state.get("lesson", {})
    if not isinstance(found, dict):
        raise RunError(f"{place} is damaged: 'lesson' is {found!r}; restore it")
    return found


def _notices(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[Notice]:
    for change in differences(saved, now):
        yield Notice(f"the bits will differ from an unbroken run: {change}", "warning")
