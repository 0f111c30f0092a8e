"""Starting a run in a new folder, and going on with one from its last checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from bptool import consent
from bptool.config.dump import to_yaml
from bptool.config.load import resolve
from bptool.config.resume import Change, changes
from bptool.config.schema import RunConfig
from bptool.data.tokenizers import load_tokenizer
from bptool.errors import RunError
from bptool.files import write_text
from bptool.plugins import named_rules
from bptool.training import machine, metrics, samples
from bptool.training.checkpoint import WEIGHTS, CheckpointStore, require_space, write_folder
from bptool.training.events import Listener, Notice
from bptool.training.lessons.rollouts import Rollouts
from bptool.training.lock import RUN_LOCK, FolderLock
from bptool.training.manifest import changed_keys, describe, differences
from bptool.training.moved import find_again
from bptool.training.parts import build_model
from bptool.training.progress import Progress
from bptool.training.restore import checkpoint_bytes, load_checkpoint
from bptool.training.run import Training
from bptool.training.run_folder import RunFolder, writing
from bptool.training.run_seal import (
    check_programs,
    is_sealed,
    reseal,
    rewrite_config,
    write_manifest,
)
from bptool.training.setup import Pieces, build
from bptool.training.split import Split
from bptool.training.start import Opened, Start, open_start
from bptool.training.trained import load_base

RATE_JUMP = 0.1
"""Share by which a longer run may move the learning rate off its course without a word."""
NO_REFERENCE = ("next-token", "reward")
"""Objectives that never look back at the weights a run started from."""


def start_run(
    config: RunConfig,
    folder: RunFolder,
    listeners: Sequence[Listener] = (),
    progress: Callable[[str, int, int], None] | None = None,
    detect_anomaly: bool = False,
    opened: Opened | None = None,
) -> Training:
    """Begin a run: check everything, then make its folder.

    ``opened`` is what was read to settle ``config``; without it, it is read here.

    Raises:
        UserError: a setting, a text or the folder is unfit. Nothing is left behind then.
    """
    folder.check_free()
    _require_named(config)
    start, data = opened or (None, None)
    pieces = build(config, progress=progress, start=start, data=data)
    try:
        pieces.lesson.check()
        of_text = map(Notice, pieces.corpus.notes)
        for notice in (*of_text, *pieces.lesson.notices()):
            for listener in listeners:
                listener(notice)
        training = Training(pieces, folder, listeners, detect_anomaly=detect_anomaly)
        made = folder.begin()
        try:
            require_space(made.checkpoints, checkpoint_bytes(pieces))
            with writing(folder.path):
                write_text(made.config, to_yaml(config))
                pieces.corpus.tokenizer.save(made.tokenizer)
                if held_out := pieces.lesson.held_out():
                    lines = [{"format_version": 1, "kind": "bptool held-out"}, *held_out]
                    write_text(made.held_out, "".join(json.dumps(x) + "\n" for x in lines))
                if frozen := pieces.model.frozen_tensors():  # written once, as a checkpoint is
                    write_folder(made.base, {WEIGHTS: frozen}, {"step": 0})
                write_manifest(made, describe(pieces), config)
            folder.finish(made)
        except BaseException:
            made.discard()
            raise
        lock = FolderLock(folder.path, RUN_LOCK)
        lock.acquire()
        _keep(lock, pieces, listeners)
    except BaseException:
        pieces.close()
        raise
    return training


def resume_run(
    config: RunConfig,
    folder: RunFolder,
    listeners: Sequence[Listener] = (),
    progress: Callable[[str, int, int], None] | None = None,
    checkpoint: str = "last",
    detect_anomaly: bool = False,
) -> Training:
    """Go on with a run from its last checkpoint (from its start if it has none yet), with the
    workers, their split and the matrix engine that its manifest names.

    ``checkpoint`` names another to go on from; later ones are given up.

    ``config`` is the run's own, with whatever may change on a resume changed. What is changed
    belongs to the run from its next step on: it is written into the run once all is checked, and
    a Notice says it. Where the bits will differ from an unbroken run, a Notice says why.

    Raises:
        UserError: the folder, its text or its checkpoint is missing, damaged or of another run, or
            more steps are done than ``config`` wants.
    """
    folder.require_run()
    saved = check_programs(folder, resumes=True)
    if "merged" in saved:
        raise RunError(
            f"{folder.path} was made by `bptool merge` and has no optimizer state to go on with; "
            f"start a run from it with `bptool finetune sft {folder.path}`"
        )
    own = resolve(folder.config).config
    data = saved.get("data")
    config = find_again(config, folder, data.get("text_sha256") if isinstance(data, dict) else None)
    made = changes(own, config)
    _require_named(config)
    n_workers, split = None, None
    engine = machine.engine_of_run(config.training.engine, saved.get("engine"))
    if config.training.workers == "auto":
        n_workers = saved.get("workers")
        if not isinstance(n_workers, int) or n_workers < 1:
            raise RunError(f"{folder.manifest} is damaged: workers is {n_workers!r}; restore it")
    if config.training.split == "auto" and saved.get("split") in get_args(Split):
        split = saved["split"]
    lock = FolderLock(folder.path, RUN_LOCK)
    lock.acquire()
    folder.remove_leftovers()
    try:
        start = _start_again(config, folder, saved, checkpoint) if config.start else None
        pieces = build(config, None, n_workers, engine, split, progress, start)
    except BaseException:
        lock.release()
        raise
    try:
        _keep(lock, pieces, listeners)
        now = describe(pieces)
        _check_same_data(pieces, folder, saved, now)
        pieces.lesson.check()
        if not is_sealed(saved):
            reseal(folder, {**saved, "data": now["data"], "programs": now["programs"]})
        standing = _load(pieces, folder, checkpoint)
        metrics.rewind(folder.metrics, standing.step)
        samples.rewind(folder.samples, standing.step)
        training = Training(pieces, folder, listeners, standing, detect_anomaly)
        if made:
            rewrite_config(folder, config, changed_keys(saved, now, standing.step, made))
        for notice in (*_news(own, pieces, folder, standing, made), *_notices(saved, now)):
            for listener in listeners:
                listener(notice)
    except BaseException:
        pieces.close()
        raise
    return training


def _start_again(
    config: RunConfig, folder: RunFolder, saved: dict[str, Any], checkpoint: str
) -> Start:
    """What a run started from: its own tokenizer, and weights only while it has none itself."""
    origin = saved.get("start")
    if not isinstance(origin, dict):
        raise RunError(f"{folder.manifest} is damaged: it has no 'start'; restore it from a copy")
    if config.lora is not None:
        tokenizer = load_tokenizer(folder.tokenizer)
        base = load_base(folder, build_model(config, tokenizer.vocab_size))
        return Start(tokenizer, base, origin)
    has_checkpoint = checkpoint != "last" or _last_of(folder) is not None
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
    if saved.get("data") not in (now["data"], _data_of_old(pieces, now["data"])):
        place = ", ".join(pieces.config.data.text)
        raise RunError(
            f"{place}: the text or its split is not the one that {folder.path} was trained on; "
            "restore the text, or train a new run"
        )
    if load_tokenizer(folder.tokenizer).to_json() != pieces.corpus.tokenizer.to_json():
        raise RunError(
            f"{folder.tokenizer} is not the tokenizer of this run's text; restore it from a copy"
        )


def _data_of_old(pieces: Pieces, data: dict[str, Any]) -> dict[str, Any]:
    """How a run of an earlier version, rewarded by the program of this one, knew its data."""
    for program in consent.programs(("--reward",)):
        if isinstance(pieces.lesson, Rollouts):
            return {**data, "text_sha256": pieces.lesson.digest(program.sha256)}
    return data


def _require_named(config: RunConfig) -> None:
    """Raise a ConfigError where rewards are a program's that the user did not name."""
    if config.rollouts is not None and not Path(config.rollouts.reward).is_dir():
        named_rules(Path(config.rollouts.reward))


def _keep(lock: FolderLock, pieces: Pieces, listeners: Sequence[Listener]) -> None:
    """Hold the lock as long as the pieces; say what was found in its place."""
    pieces.at_close.append(lock.release)
    if lock.notice:
        for listener in listeners:
            listener(Notice(lock.notice, "warning"))


def _last_of(folder: RunFolder) -> str | None:
    store = CheckpointStore(folder.checkpoints)
    with store.offering(None):
        return store.index().last


def _load(pieces: Pieces, folder: RunFolder, which: str) -> Progress:
    """Put a checkpoint's weights and optimizer state into ``pieces``; where it is not the last,
    make it that."""
    store = CheckpointStore(folder.checkpoints)
    if which == "last" and _last_of(folder) is None:
        return Progress()
    checkpoint = store.resolve(which)
    with store.offering(checkpoint):
        standing = load_checkpoint(checkpoint, pieces)
    wanted = pieces.config.training.steps
    if standing.step > wanted:
        raise RunError(
            f"{folder.path} has done {standing.step:,} steps, and training.steps={wanted:,} is "
            f"fewer; give more, or go back with --checkpoint to one of step {wanted:,} or before"
        )
    if which != "last":
        training = pieces.config.training
        store = CheckpointStore(folder.checkpoints, training.keep_last, training.keep_every)
        store.go_back(checkpoint.name, standing.best_step)
    return standing


def _news(
    own: RunConfig, pieces: Pieces, folder: RunFolder, standing: Progress, made: Sequence[Change]
) -> Iterator[Notice]:
    """What a resumed run does otherwise from here on."""
    for change in made:
        yield Notice(str(change))
    steps, step = pieces.config.training.steps, standing.step
    if steps == own.training.steps or not 0 < step < steps:
        return
    factor = standing.watch.rate_factor
    now = factor * pieces.learning_rate(step + 1)
    base = factor * pieces.step.optimizer.config.learning_rate
    was = base * pieces.schedule.factor(step, own.training.steps)
    for record in metrics.read_metrics(folder.metrics):  # of a run that was extended before
        if record["kind"] == "step" and record["step"] == step:
            was = record["learning_rate"]
    expected = was
    if step < own.training.steps:
        expected = base * pieces.schedule.factor(step + 1, own.training.steps)
    if abs(now - expected) > RATE_JUMP * expected:
        yield Notice(
            f"the learning rate was {was:.2e} at step {step:,} and is {now:.2e} at step "
            f"{step + 1:,}, since the {pieces.config.schedule.name} schedule now ends at step "
            f"{steps:,}"
        )


def _notices(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[Notice]:
    for change in differences(saved, now):
        yield Notice(f"the bits will differ from an unbroken run: {change}", "warning")
