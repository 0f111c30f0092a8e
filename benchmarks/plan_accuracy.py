"""``python -m benchmarks.plan_accuracy``: what ``--plan`` predicts beside what runs then take.

Workloads A, B and C, and configurations drawn at random by a seed: models of both kinds and many
sizes, with and without biases and dropout, vocabularies, batches, micro-batches and optimizers.
Each is planned by ``bptool train --plan --json`` and trained by ``bptool train --json``, both in
processes of their own. A run's step time is the median of its steps after the first two; its memory
is the most that the process had resident, as it says at its end. All plans of a kind of model but
the first are made from measurements that are there already, but for an optimizer's first.

The share of the cores that other programs had meanwhile is printed too: a plan is about a machine
that is left alone, so figures with more than a few percent mean little.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.workloads import BETAS, CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, WORKLOADS
from bptool.registry import models

WARM_UP = 2
SECONDS = 6.0
"""Of training a case, by its plan."""
MIN_STEPS, MAX_STEPS = 6, 300
GFLOPS = (0.4, 40.0)
"""A random case's step has between so many."""
OPTIMIZERS = ("adamw", "sgd", "lion", "lamb", "muon", "ademamix")


@dataclass(frozen=True)
class Case:
    """A configuration but for its text, and the number of different characters of that."""

    name: str
    vocab_size: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A case's plan beside its run."""

    name: str
    planned_bytes: int
    peak_bytes: int
    planned_seconds: float
    step_seconds: float
    planned_run_seconds: float
    run_seconds: float
    n_steps: int
    plan_took_seconds: float
    others_share: float
    """Of the cores' time during the run, what other programs had."""

    @property
    def memory_error(self) -> float:
        return self.planned_bytes / self.peak_bytes - 1

    @property
    def time_error(self) -> float:
        return self.planned_seconds / self.step_seconds - 1


def workload(name: str) -> Case:
    """A, B or C as ``benchmarks.workloads`` has them."""
    w = WORKLOADS[name]
    sizes = {key: getattr(w, key) for key in ("n_layer", "n_head", "n_embd", "context")}
    rule = {"name": "adamw", "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}
    values = {
        "model": {"name": "gpt2", **sizes, "bias": False},
        "training": {"batch_size": w.batch_size, "clip_norm": CLIP_NORM},
        "optimizer": {**rule, "beta1": BETAS[0], "beta2": BETAS[1]},
    }
    return Case(name, w.vocab_size, values)


def random_cases(seed: int) -> Iterator[Case]:
    """Configurations without end, whose steps have neither too little nor too much to do."""
    draw = random.Random(seed)
    rules = draw.sample(OPTIMIZERS, len(OPTIMIZERS))
    number = 1
    while True:
        vocab_size = round(2 ** draw.uniform(5, 12))
        model = _mlp(draw) if number % 3 == 0 else _gpt2(draw)
        micro = draw.choice([1, 2, 4, 8])
        batch = micro * draw.choice([1, 1, 2, 3])
        kind = models.get(model["name"])
        config = kind.Config(**{k: v for k, v in model.items() if k != "name"})
        work = kind(config, vocab_size).flops_per_token(config.context) * batch * config.context
        if not GFLOPS[0] <= work / 1e9 <= GFLOPS[1]:
            continue
        optimizer = rules[number % len(rules)]
        training = {"batch_size": batch, "micro_batch_size": micro, "clip_norm": 1.0}
        values = {"model": model, "training": training, "optimizer": {"name": optimizer}}
        yield Case(f"{number}: {model['name']}, {optimizer}", vocab_size, values)
        number += 1


def _gpt2(draw: random.Random) -> dict[str, Any]:
    head = draw.choice([16, 32, 48, 64])
    n_head = draw.randint(1, 10)
    return {
        "name": "gpt2",
        "n_layer": draw.randint(1, 10),
        "n_head": n_head,
        "n_embd": head * n_head,
        "context": round(2 ** draw.uniform(5, 9)),
        "bias": draw.random() < 0.5,
        "activation": draw.choice(["gelu", "gelu_tanh", "relu"]),
        "tie_embeddings": draw.random() < 0.5,
        "dropout": draw.choice([0.0, 0.0, 0.1]),
    }


def _mlp(draw: random.Random) -> dict[str, Any]:
    return {
        "name": "mlp",
        "n_layer": draw.randint(1, 4),
        "n_embd": draw.randint(8, 64),
        "n_hidden": draw.randint(64, 1024),
        "window": draw.randint(2, 16),
        "context": round(2 ** draw.uniform(5, 8)),
        "activation": draw.choice(["tanh", "sigmoid", "relu", "gelu"]),
        "dropout": draw.choice([0.0, 0.1]),
    }


def text_of(vocab_size: int) -> str:
    """Random text of exactly so many different characters."""
    unusable = ("Cc", "Cn", "Cs", "Zl", "Zp")
    every = (chr(code) for code in range(0x21, sys.maxunicode))
    usable = (c for c in every if unicodedata.category(c) not in unusable)
    characters = [next(usable) for _ in range(vocab_size)]
    draw = random.Random(1)
    return "".join(characters + draw.choices(characters, k=40_000 + vocab_size))


def measure(case: Case) -> Outcome:
    """Plan a case, then train it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, config = folder / "text.txt", folder / "config.yaml"
        text.write_text(text_of(case.vocab_size), encoding="utf-8", newline="\n")
        training = {"steps": MIN_STEPS, "eval_interval": 10**6, "eval_tokens": 1000}
        values = {**case.values, "data": {"text": [str(text)]}, "sample": {"max_tokens": 16}}
        values["training"] = training | case.values["training"]
        config.write_text(json.dumps(values), encoding="utf-8")
        command = [sys.executable, "-m", "bptool", "train", str(config), "--json"]
        start = time.perf_counter()
        plan = json.loads(_run([*command, "--plan"]))
        took = time.perf_counter() - start
        n_steps = round(SECONDS / plan["seconds_per_step"])
        n_steps = min(MAX_STEPS, max(MIN_STEPS, n_steps))
        steps = ["--set", f"training.steps={n_steps}"]
        plan = json.loads(_run([*command, "--plan", *steps]))
        before, start = _cpu_seconds(), time.perf_counter()
        lines = _run([*command, *steps, "--out", str(folder / "run")]).splitlines()
        seconds = time.perf_counter() - start
        after = _cpu_seconds()
    events = [json.loads(line) for line in lines]
    times = [event["seconds"] for event in events if event["event"] == "step_done"]
    return Outcome(
        name=case.name,
        planned_bytes=plan["memory_bytes"],
        peak_bytes=events[-1]["peak_memory_bytes"],
        planned_seconds=plan["seconds_per_step"],
        step_seconds=statistics.median(times[WARM_UP:]),
        planned_run_seconds=plan["expected_seconds"],
        run_seconds=seconds,
        n_steps=n_steps,
        plan_took_seconds=took,
        others_share=_share_of_others(before, after),
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def _cpu_seconds() -> tuple[float, float, float]:
    """(all, idle, of the processes that this one started and that have ended), in ticks of Linux;
    zeros elsewhere."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        own = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0, 0.0
    ticks = [float(field) for field in fields]
    return sum(ticks), ticks[3] + ticks[4], sum(float(field) for field in own[11:15])


def _share_of_others(before: tuple[float, ...], after: tuple[float, ...]) -> float:
    total, idle, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, total - idle - own) / total if total else float("nan")


def show(console: Console, outcomes: list[Outcome]) -> None:
    """A table, and the worst errors under it."""
    table = Table(title="What --plan predicted, and what runs took")
    headings = ("memory, MB", "planned", "error", "ms a step", "planned", "error")
    for heading in ("", *headings, "run, s", "planned", "others"):
        table.add_column(heading, justify="right" if heading else "left")
    for one in outcomes:
        table.add_row(
            *(one.name, f"{one.peak_bytes / 1e6:.0f}", f"{one.planned_bytes / 1e6:.0f}"),
            *(f"{one.memory_error:+.1%}", f"{one.step_seconds * 1e3:.4g}"),
            *(f"{one.planned_seconds * 1e3:.4g}", f"{one.time_error:+.0%}"),
            *(f"{one.run_seconds:.0f}", f"{one.planned_run_seconds:.0f}"),
            f"{one.others_share:.0%}",
        )
    console.print(table)
    memory, seconds = (
        max(map(abs, errors)) for errors in zip(*map(_errors, outcomes), strict=True)
    )
    console.print(f"worst errors: memory {memory:.1%}, time of a step {seconds:.0%}")


def _errors(outcome: Outcome) -> tuple[float, float]:
    return outcome.memory_error, outcome.time_error


def main(
    workloads: Annotated[str, typer.Option(help="Of A, B, C; none: ''.")] = "A,B,C",
    n_random: Annotated[int, typer.Option(help="Random configurations.", min=0)] = 5,
    seed: Annotated[int, typer.Option(help="Of the random configurations.")] = 1,
    only: Annotated[str, typer.Option(help="Numbers of the random ones to take.")] = "",
    out: Annotated[Path | None, typer.Option(help="JSON file with every figure.")] = None,
) -> None:
    """Compare predictions of time and memory with runs."""
    cases = [workload(name) for name in workloads.split(",") if name]
    drawn = random_cases(seed)
    for number in range(1, n_random + 1):
        case = next(drawn)
        if not only or str(number) in only.split(","):
            cases.append(case)
    outcomes: list[Outcome] = []
    for case in cases:
        outcomes.append(measure(case))
        if out is not None:
            text = json.dumps([asdict(outcome) for outcome in outcomes], indent=2)
            out.write_text(text + "\n", encoding="utf-8")
    show(Console(width=None if sys.stdout.isatty() else 110), outcomes)


if __name__ == "__main__":
    typer.run(main)
