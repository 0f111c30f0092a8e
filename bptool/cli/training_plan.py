"""``bptool train --plan``: what a run would take, without running it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bptool.cli import terminal, wording
from bptool.recipes.request import Request

if TYPE_CHECKING:
    from bptool.training.plan import Plan

LARGEST_PARTS = 4
"""Of a step that are named."""


def print_plan(request: Request, json: bool, measure_again: bool, plugins: list[str]) -> None:
    """Print parameters, memory, FLOPs a token, and the expected time."""
    plan = _plan(request, measure_again, plugins)
    if json:
        terminal.json(asdict(plan))
        return
    from rich.table import Table

    from bptool.cli.console import Console

    table = Table(title="Plan", show_header=False)
    for label, text in _rows(plan):
        table.add_row(label, text)
    Console().print(table)


def _plan(request: Request, measure_again: bool, plugins: list[str]) -> Plan:
    from bptool.cli.console import Console
    from bptool.data.corpus import prepare
    from bptool.training.machine import choose_engine
    from bptool.training.measurements import Measurements
    from bptool.training.parts import build_model
    from bptool.training.plan import make_plan
    from bptool.training.setup import context_of, sizes
    from bptool.training.start import open_start

    config = request.config
    tokenizer = open_start(config).tokenizer if config.start else None
    corpus = prepare(config.data, context_of(config), tokenizer=tokenizer)
    model = build_model(config, corpus.tokenizer.vocab_size)
    found = sizes(config, model, corpus.n_train)
    engine = choose_engine(config.training.engine)
    with Console(stderr=True).status("measuring this machine, once") as status:

        def say(what: str) -> None:
            status.update(f"measuring this machine, once: {what}")

        known = Measurements(engine, found.n_workers, say, measure_again, plugins)
        return make_plan(config, corpus, found, known)


def _rows(plan: Plan) -> list[tuple[str, str]]:
    from bptool.training.setup import format_bytes

    kinds: dict[str, Any] = {
        "parameters": plan.parameters_bytes,
        "gradients": plan.gradients_bytes,
        "optimizer": plan.optimizer_bytes,
        "activations": plan.activations_bytes,
        "buffers": plan.buffers_bytes,
        "the program itself": plan.program_bytes,
    }
    memory = ", ".join(f"{kind} {format_bytes(n)}" for kind, n in kinds.items())
    by_size = sorted(plan.step_seconds, key=lambda name: -plan.step_seconds[name])
    largest = ", ".join(
        f"{name} {plan.step_seconds[name] / plan.seconds_per_step:.0%}"
        for name in by_size[:LARGEST_PARTS]
    )
    run = ", ".join(f"{k} {wording.duration(v)}" for k, v in plan.run_seconds.items() if v >= 0.05)
    rate = plan.flops_per_token * plan.tokens_per_step / plan.seconds_per_step
    return [
        ("parameters", f"{plan.n_parameters:,}"),
        ("vocabulary", f"{plan.vocab_size:,} tokens"),
        ("training text", f"{plan.n_train_tokens:,} tokens"),
        ("tokens a step", f"{plan.tokens_per_step:,}"),
        ("passes over the text", f"{plan.epochs:.2f}"),
        ("memory", f"{format_bytes(plan.memory_bytes)}: {memory}"),
        ("work", f"{plan.flops_per_token / 1e6:.2f} MFLOP a token"),
        (
            "a step",
            f"{wording.milliseconds(plan.seconds_per_step)}, {rate / 1e9:.0f} GFLOP/s on "
            f"{plan.workers} workers ({plan.engine}): {largest}",
        ),
        (
            f"{plan.steps:,} steps",
            f"{wording.duration(plan.expected_seconds)} in all: {run}",
        ),
    ]
