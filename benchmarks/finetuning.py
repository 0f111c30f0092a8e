"""``python -m benchmarks finetuning``: steps of fine-tuning beside steps of pretraining.

All are whole steps, update included, of one model in one process, in turn: on full windows of
random tokens; on packed records of different lengths, of which the answer is trained on; and on the
same records with low-rank adapters on frozen weights. Seconds are those of a token of a text, so
that what padding costs is part of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.results import Result, Series
from benchmarks.turns import in_turn, median_of, timed
from benchmarks.workloads import BETAS, CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, WORKLOADS, Workload

if TYPE_CHECKING:
    from bptool.data.chat.packing import Packed
    from bptool.models.base import Model
    from bptool.training.step import TrainingStep
    from bptool.training.workers import WorkerTeam

RECORD_TOKENS = (12, 64)
"""Of a record, and no more than the context; the last third is its answer."""
RANK = 8
SECONDS_A_TURN = 1.0


def measure(workload: str, n_turns: int, threads: int) -> Result:
    """Seconds of a token in each kind of step."""
    from bptool.config.lora_section import LoraConfig
    from bptool.models.adapters import adapt
    from bptool.training.workers import WorkerTeam

    sizes = WORKLOADS[workload]
    rows = packed_records(sizes)
    n_used, n_records = int(rows.used.sum()), sum(map(len, rows.documents))
    plain = sizes.model()
    base = plain.layout.allocate(np.float32)
    plain.initialise(base, 0)
    adapted = adapt(plain, LoraConfig(rank=RANK), base)
    windows, following = (x.astype(np.int32) for x in sizes.batch())
    whole = windows, following, windows.size
    records = rows.tokens, rows.targets, int((rows.targets >= 0).sum())
    with WorkerTeam(threads) as team:
        steps: dict[str, tuple[Callable[[], Any], int]] = {
            "pretraining": (one(training(plain, sizes, team), *whole), windows.size),
            "sft": (one(training(plain, sizes, team, True), *records, rows.starts), n_used),
            "sft, LoRA": (one(training(adapted, sizes, team, True), *records, rows.starts), n_used),
        }
        turns = {}
        for name, (step, _) in steps.items():
            step()
            turns[name] = median_of(timed(step), SECONDS_A_TURN)
        found = in_turn(turns, n_turns)
    about = {
        "pretraining": f"rows of {sizes.context} tokens",
        "sft": f"records of {n_used / n_records:.0f} tokens each, rows {rows.filled:.0%} full",
        "sft, LoRA": f"{adapted.n_trained:,} of {adapted.n_parameters:,} parameters trained",
    }
    return Result(
        *("finetuning", workload, f"a token of a text; {sizes.about}", "seconds"),
        series=[
            Series(name, [seconds / steps[name][1] for seconds in samples], about[name])
            for name, samples in found.items()
        ],
        facts={"tokens": 1},
    )


def packed_records(sizes: Workload) -> Packed:
    """A batch of rows of random records."""
    from bptool.data.chat.packing import pack
    from bptool.data.chat.templates import Encoded

    rng = np.random.default_rng(5)
    shortest, longest = RECORD_TOKENS
    records = []
    for _ in range(2 * sizes.tokens // shortest):
        n = int(rng.integers(shortest, min(longest, sizes.context) + 1))
        ids = rng.integers(0, sizes.vocab_size, n).astype(np.int32)
        records.append(Encoded(ids, np.arange(n) >= 2 * n // 3))
    return pack(records, sizes.context).first(sizes.batch_size)


def training(
    model: Model, sizes: Workload, team: WorkerTeam, documents: bool = False
) -> TrainingStep:
    """AdamW on ``model``, from its initial weights, as `bptool train` lays it out by default."""
    from bptool.optim.adamw import AdamW
    from bptool.training.machine import choose_engine
    from bptool.training.regularization import Clipping
    from bptool.training.split import choose_split
    from bptool.training.step import Shards, TrainingStep

    split = choose_split("auto", team.n, sizes.batch_size, 4 * model.layout.size)
    shards = Shards(
        *(model, team, choose_engine("auto"), sizes.batch_size, sizes.context),
        split=split,
        documents=documents,
    )
    settings = {"beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": WEIGHT_DECAY}
    step = TrainingStep(shards, AdamW(AdamW.Config(**settings)), (), Clipping(norm=CLIP_NORM))
    model.initialise(step.weights, 0)
    return step


def one(step: TrainingStep, tokens: Any, targets: Any, n: int, *starts: Any) -> Callable[[], Any]:
    """A step at each call."""
    numbers = itertools.count(1)
    return lambda: step(tokens, targets, n, LEARNING_RATE, 0, next(numbers), *starts)
