"""``python -m benchmarks finetuning``: steps of fine-tuning beside steps of pretraining.

All are whole steps, update included, of one model in one process, in turn: on full windows of
random tokens; on packed records of different lengths, of which the answer is trained on; on the
same records with low-rank adapters on frozen weights; and of DPO on pairs of answers, from the
packing of the pairs to the statistics of the step. Seconds are those of a token of a text, so that
what padding costs is part of them.
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
    from bptool.training.lessons.pairs import Pairs
    from bptool.training.step import TrainingStep
    from bptool.training.workers import WorkerTeam

RECORD_TOKENS = (12, 64)
"""Of a record, and no more than the context; the last third is its answer."""
PROMPT_TOKENS = (10, 24)
ANSWER_TOKENS = (4, 20)
"""Of the pairs of DPO."""
RANK = 8
SECONDS_A_TURN = 1.0


def measure(workload: str, n_turns: int, threads: int) -> Result:
    """Seconds of a token in each kind of step."""
    from bptool.config.lora_section import LoraConfig
    from bptool.training.workers import WorkerTeam

    sizes = WORKLOADS[workload]
    rows = packed_records(sizes)
    n_used, n_records = int(rows.used.sum()), sum(map(len, rows.documents))
    plain = sizes.model()
    base = plain.layout.allocate(np.float32)
    plain.initialise(base, 0)
    adapted = plain.adapted(LoraConfig(rank=RANK), base)
    windows, following = (x.astype(np.int32) for x in sizes.batch())
    whole = windows, following, windows.size
    records = rows.tokens, rows.targets, int((rows.targets >= 0).sum())
    with WorkerTeam(threads) as team:
        pairs = dpo(plain, sizes, team)
        of_dpo = pairs.batches.epoch(0)[:-1]  # the last step takes what is left
        n_dpo = sum(pairs.step(i + 1, 0.0).n_tokens for i in range(len(of_dpo))) / len(of_dpo)
        numbers = itertools.cycle(range(1, len(of_dpo) + 1))
        steps: dict[str, tuple[Callable[[], Any], float]] = {
            "pretraining": (one(training(plain, sizes, team), *whole), windows.size),
            "sft": (one(training(plain, sizes, team, True), *records, rows.starts), n_used),
            "sft, LoRA": (one(training(adapted, sizes, team, True), *records, rows.starts), n_used),
            "dpo": (lambda: pairs.step(next(numbers), LEARNING_RATE), n_dpo),
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
        "dpo": f"pairs of answers, rows {n_dpo / windows.size:.0%} full",
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


def dpo(model: Model, sizes: Workload, team: WorkerTeam) -> Pairs:
    """DPO on pairs of random tokens, some steps of them."""
    from bptool.config.schema import TrainingConfig
    from bptool.data.chat.rendering import Rendering
    from bptool.data.preference_set import Document, PreferenceSet, Unit
    from bptool.data.record_report import RecordReport
    from bptool.data.tokenizers.byte import ByteConfig, ByteTokenizer
    from bptool.objectives.dpo import DPO, DPOConfig
    from bptool.training.lessons.pairs import Pairs

    rng = np.random.default_rng(4)

    def unit() -> Unit:
        prompt = rng.integers(0, sizes.vocab_size, rng.integers(*PROMPT_TOKENS)).astype(np.int32)
        documents = []
        for _ in range(2):
            n = min(int(rng.integers(*ANSWER_TOKENS)), sizes.context - 1)
            prompt = prompt[: sizes.context - n]
            said = rng.integers(0, sizes.vocab_size, n).astype(np.int32)
            documents.append(Document(np.concatenate([prompt, said]), len(prompt)))
        return Unit(*documents, 0, (), "")

    units = tuple(unit() for _ in range(4 * sizes.tokens // PROMPT_TOKENS[0]))
    rendering = Rendering(None, ByteTokenizer.train([], ByteConfig()))
    step = training(model, sizes, team, True)
    return Pairs(
        *(
            step,
            DPO(DPOConfig()),
            PreferenceSet(units, units[:1], (), rendering, RecordReport(), ""),
        ),
        *(
            sizes.batch_size,
            TrainingConfig(steps=1, batch_size=sizes.batch_size),
            step.weights.copy(),
        ),
    )


def training(
    model: Model, sizes: Workload, team: WorkerTeam, documents: bool = False
) -> TrainingStep:
    """AdamW on ``model``, from its initial weights, as `bptool train` lays it out by default."""
    from bptool.optim.adamw import AdamW
    from bptool.training.machine import choose_engine
    from bptool.training.regularization import Clipping
    from bptool.training.split import choose_split
    from bptool.training.step import TrainingStep
    from bptool.training.token_shards import TokenShards

    split = choose_split("auto", team.n, sizes.batch_size, 4 * model.layout.size)
    shards = TokenShards(
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
