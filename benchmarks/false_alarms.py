"""Whether the statistics of ``bptool compare-optimizers`` keep their word, on real training runs.

    python -m benchmarks.false_alarms train   trains AdamW on one tiny workload with many seeds,
                                              and the same with other orders of summation
    python -m benchmarks.false_alarms         draws studies from those runs and counts
    python -m benchmarks.false_alarms others  counts for other numbers of seeds and another test

The runs' final losses are kept in ``benchmarks/null_losses.json``, so that only the second is
needed to see the rates. Every study goes through ``bptool.comparison.analysis.analyse``, as that
of a user does. Where nothing differs, a verdict other than a tie is a false alarm.

- *independent*: disjoint groups of runs, each called another optimizer. Seeds do not match, so that
  this is a test of unpaired noise of its full size.
- *paired*: the same seeds with another order of summation. Rounding makes each pair of runs drift
  apart, and nothing else differs. Which run of a seed is called what is drawn anew for each seed,
  or the mean difference of the stored runs, which is not exactly 0, would count as an effect.
- *power*: 2 % of the mean loss is added to one arm.
- *others*: Dunnett's test, which pools the variances of all groups, beside the paired one, where
  groups are equally noisy and where the runs of one lie three times further from their mean.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bptool.comparison.analysis import analyse
from bptool.comparison.plan import Plan, Workload
from bptool.comparison.records import Point, Record
from bptool.comparison.trial import run_trial
from bptool.config.load import resolve
from bptool.config.schema import RunConfig
from bptool.config.study_section import StudyConfig
from bptool.data.corpus import prepare
from bptool.files import write_text
from bptool.training.setup import context_of

LOSSES = Path(__file__).with_name("null_losses.json")
TEXT = Path(__file__).resolve().parent.parent / "data" / "stories.txt"
COMMAND = "python -m benchmarks.false_alarms train"
N_RUNS = 100
N_STUDIES = 2000
N_SEEDS = 5
EFFECT = 0.02
"""Share of the mean loss that is added where power is measured."""
ARMS: dict[str, dict[str, Any]] = {
    "whole batch, 1 worker": {},
    "2 workers": {"workers": 2},
    "micro-batches of 8": {"micro_batch_size": 8},
    "micro-batches of 4": {"micro_batch_size": 4},
    "micro-batches of 2": {"micro_batch_size": 2},
    "micro-batches of 1": {"micro_batch_size": 1},
}
"""Orders in which a gradient is added up; the first is the reference."""
NAMES = ("adamw", "adam", "rmsprop", "momentum", "nesterov", "sgd")
"""What the groups are called: the analysis knows registered optimizers only."""

Losses = Mapping[str, Sequence[float]]
Groups = Sequence[Sequence[float]]


def tiny(seed: int, **training: Any) -> RunConfig:
    """The workload: a feed-forward model at a rate at which rounding grows into other weights."""
    return resolve(
        None,
        overrides={
            "model": {"name": "mlp", "window": 6, "n_embd": 8, "n_hidden": 32, "context": 16},
            "data": {"text": [str(TEXT)], "tokenizer": "char"},
            "training": {
                **{"steps": 700, "batch_size": 16, "eval_interval": 700, "eval_tokens": 4000},
                **{"workers": 1, "seed": seed, "data_seed": 10_000 + seed},
                **training,
            },
            "optimizer": {"name": "adamw", "learning_rate": 0.1},
            "schedule": {"name": "cosine", "warmup_steps": 20},
        },
    ).config


def train() -> None:
    """Train every arm with every seed and keep the final losses."""
    corpus = prepare(tiny(0).data, context_of(tiny(0)))
    start = time.perf_counter()
    losses: dict[str, list[float]] = {}
    for arm, changes in ARMS.items():
        outcomes = [run_trial(tiny(seed, **changes), corpus) for seed in range(N_RUNS)]
        assert all(outcome.status == "completed" for outcome in outcomes)
        losses[arm] = [round(outcome.final_loss, 7) for outcome in outcomes]
        print(f"{arm}: {N_RUNS} runs; {time.perf_counter() - start:.0f} s since the start")
    config = tiny(0).model_dump(mode="json", include={"model", "training", "optimizer", "schedule"})
    made = {"command": COMMAND, "text": "data/stories.txt", "config": config, "losses": losses}
    write_text(LOSSES, json.dumps(made, indent=1) + "\n")


def read() -> Losses:
    """Final losses by arm, seed by seed."""
    found: Losses = json.loads(LOSSES.read_text(encoding="utf-8"))["losses"]
    return found


def plan_of(n_groups: int) -> Plan:
    """A study of the workload in which ``n_groups`` optimizers take part."""
    names = NAMES[:n_groups]
    study = StudyConfig.model_validate(
        {"workloads": [{"config": "tiny.yaml"}], "optimizers": list(names)}
    )
    candidates = {"tiny": {name: ({"learning_rate": 0.1},) for name in names}}
    return Plan(study, (Workload("tiny", tiny(0)),), candidates)


def alarms(plan: Plan, groups: Groups) -> list[bool]:
    """Whether the report calls each group but the first different from the first."""
    records = [
        Record(
            name=f"final-tiny-{name}-0-seed{seed}",
            phase="final",
            workload="tiny",
            optimizer=name,
            number=0,
            settings={"learning_rate": 0.1},
            seed=seed,
            status="completed",
            curve=(Point(700, loss, loss, 1.0),),
            final_loss=loss,
            best_loss=loss,
        )
        for name, losses in zip(NAMES, groups, strict=False)
        for seed, loss in enumerate(losses)
    ]
    (table,) = analyse(plan, records).tables
    found = [table.row(name).difference for name in NAMES[1 : len(groups)]]
    assert all(found)
    return [one is not None and one.verdict in ("better", "worse") for one in found]


def dunnett_alarms(plan: Plan, groups: Groups) -> list[bool]:
    """The same by Dunnett's test of unpaired groups (Dunnett 1955), by scipy."""
    first, *others = groups
    found = stats.dunnett(*others, control=first, rng=np.random.default_rng(0))
    return [bool(p < plan.study.alpha) for p in found.pvalue]


def independent(losses: Losses, rng: np.random.Generator, n: int, n_seeds: int) -> Groups:
    """Disjoint groups of runs of the first arm."""
    pool = np.asarray(next(iter(losses.values())))
    chosen = rng.choice(len(pool), size=(n, n_seeds), replace=False)
    return [pool[group].tolist() for group in chosen]


def paired(losses: Losses, rng: np.random.Generator, n: int, n_seeds: int) -> Groups:
    """The same seeds in ``n`` arms, each seed's arms in an order of its own."""
    pool = np.asarray(list(losses.values()))
    seeds = rng.choice(pool.shape[1], size=n_seeds, replace=False)
    orders = [rng.permutation(len(pool))[:n] for _ in seeds]
    columns = [pool[order, seed] for order, seed in zip(orders, seeds, strict=True)]
    return np.array(columns).T.tolist()


Draw = Callable[[Losses, np.random.Generator, int, int], Groups]
Judge = Callable[[Plan, Groups], list[bool]]


def rate(
    losses: Losses,
    draw: Draw,
    n_groups: int,
    effect: float = 0.0,
    n_studies: int = N_STUDIES,
    seed: int = 1,
    *,
    n_seeds: int = N_SEEDS,
    judge: Judge = alarms,
    noise: float = 1.0,
) -> float:
    """Share of studies with any alarm; with an effect, of those that see it in the last arm.

    Args:
        noise: how many times further from the mean of all runs those of the last arm are put.
    """
    rng, plan = np.random.default_rng(seed), plan_of(n_groups)
    mean = float(np.mean(next(iter(losses.values()))))
    n_found = 0
    for _ in range(n_studies):
        *others, last = draw(losses, rng, n_groups, n_seeds)
        moved = [mean + noise * (loss - mean) + effect * mean for loss in last]
        found = judge(plan, [*others, moved])
        n_found += found[-1] if effect else any(found)
    return n_found / n_studies


def others(losses: Losses) -> None:
    """Print what other numbers of seeds and Dunnett's test come to, for independent runs."""
    n = len(NAMES)
    for n_seeds in (5, 6, 7, 8, 10):
        power = rate(losses, independent, n, EFFECT, n_seeds=n_seeds)
        print(
            f"paired t, family of {n - 1}, {n_seeds} seeds: {100 * EFFECT:g} % of the loss found "
            f"in {100 * power:.1f} %"
        )
    for judge, name in ((alarms, "paired t"), (dunnett_alarms, "Dunnett")):
        power = rate(losses, independent, n, EFFECT, judge=judge)
        found = [rate(losses, independent, n, judge=judge, noise=noise) for noise in (1.0, 3.0)]
        print(
            f"{name}, family of {n - 1}, {N_SEEDS} seeds: {100 * found[0]:.1f} % false alarms, "
            f"{100 * found[1]:.1f} % with one arm three times as noisy; {100 * EFFECT:g} % of the "
            f"loss found in {100 * power:.1f} %",
            flush=True,
        )


def main() -> None:
    """Print every rate."""
    if sys.argv[1:] == ["train"]:
        train()
    losses = read()
    if sys.argv[1:] == ["others"]:
        others(losses)
        return
    pool = np.asarray(list(losses.values()))
    spread = pool[0].std(ddof=1) / pool[0].mean()
    drift = (pool[1:] - pool[0]).std(ddof=1) / pool[0].mean()
    print(
        f"{pool.shape[1]} runs in {len(pool)} arms: seeds spread {100 * spread:.2f} % of the mean,"
    )
    print(f"rounding alone {100 * drift:.2f} %; {N_STUDIES} studies of {N_SEEDS} seeds each")
    for name, draw in (("independent", independent), ("paired", paired)):
        for n_groups, what in ((2, "one comparison"), (len(NAMES), f"family of {len(NAMES) - 1}")):
            found = rate(losses, draw, n_groups)
            power = rate(losses, draw, n_groups, EFFECT)
            print(
                f"{name}, {what}: {100 * found:.1f} % false alarms; "
                f"{100 * EFFECT:g} % of the loss found in {100 * power:.1f} %"
            )


if __name__ == "__main__":
    main()
