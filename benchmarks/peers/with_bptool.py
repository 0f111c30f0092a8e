"""bptool's own training step, and its decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.peers.decoding import script, steps_of
from benchmarks.protocol import Served
from benchmarks.workloads import (
    BETAS,
    CLIP_NORM,
    EPSILON,
    LEARNING_RATE,
    SEED,
    WEIGHT_DECAY,
    WORKLOADS,
)
from bptool.optim.adamw import AdamW
from bptool.training.machine import choose_engine
from bptool.training.regularization import Clipping
from bptool.training.split import choose_split
from bptool.training.step import Shards, TrainingStep
from bptool.training.workers import WorkerTeam


def train(workload: str, threads: int, weights: str) -> Served:
    """The step of ``bptool train``; writes its initial weights for the others."""
    import safetensors.numpy

    sizes = WORKLOADS[workload]
    model, rows = sizes.model(), sizes.batch_size
    engine = choose_engine("auto")
    split = choose_split("auto", threads, rows, model.layout.size * 4)
    team = WorkerTeam(threads if split == "inside" else min(threads, rows))
    shards = Shards(model, team, engine, rows, sizes.context, split=split)
    config = AdamW.Config(
        learning_rate=LEARNING_RATE,
        beta1=BETAS[0],
        beta2=BETAS[1],
        eps=EPSILON,
        weight_decay=WEIGHT_DECAY,
    )
    step = TrainingStep(shards, AdamW(config), clipping=Clipping(CLIP_NORM))
    model.initialise(step.weights, SEED)
    safetensors.numpy.save_file(model.layout.named(step.weights), weights)
    step.compile()
    tokens, targets = (array.astype(np.int32) for array in sizes.batch())
    count = 0

    def run() -> float:
        nonlocal count
        count += 1
        return step(tokens, targets, tokens.size, LEARNING_RATE, 0, count).loss

    about = f"{engine.version}, engine {engine.name}, split {split}"
    return Served(about, {"train": run})


def decode(workload: str, threads: int, weights: str, context: int, samples: int) -> Served:
    """Token after token with the cache of ``bptool generate``; writes its weights."""
    import safetensors.numpy

    sizes = replace(WORKLOADS[workload], context=context)
    model = sizes.model()
    flat = model.layout.allocate(np.float32)
    model.initialise(flat, SEED)
    safetensors.numpy.save_file(model.layout.named(flat), weights)
    team = WorkerTeam(threads)
    decoder = model.decoder(model.params(flat), samples, team)

    def prompt(ids: Any) -> Any:
        decoder.select([])
        decoder.add(1)
        first = decoder.append([ids])
        decoder.select([0] * samples)
        return np.repeat(first, samples, axis=0)

    def append(ids: Any) -> Any:
        return decoder.append(list(ids))

    about = f"bptool, {team.n} threads"
    return Served(about, steps_of(script(sizes, samples), prompt, append, weights, "bptool"))
