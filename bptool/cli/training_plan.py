"""``bptool train --plan``: what a run would take, without running it."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import dataclass
from typing import Any

from bptool.cli import wording
from bptool.cli.training_request import Request


@dataclass(frozen=True)
class Plan:
    """What a run takes. Bytes and seconds are of the whole run, evaluations apart."""

    n_parameters: int
    vocab_size: int
    n_train_tokens: int
    tokens_per_step: int
    steps: int
    epochs: float
    memory_bytes: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    flops_per_token: float
    matmul_peak_flops: float
    engine: str
    workers: int
    seconds_per_step: float
    expected_seconds: float


def print_plan(request: Request, json: bool) -> None:
    """Print parameters, memory, FLOPs a token, the measured peak, and the expected time."""
    plan = _measure(request)
    if json:
        sys.stdout.write(json_module.dumps(vars(plan)) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Plan", show_header=False)
    for label, text in _rows(plan):
        table.add_row(label, text)
    Console().print(table)


def _measure(request: Request) -> Plan:
    from bptool.training.machine import measure_peak_flops
    from bptool.training.setup import build, seconds_per_step

    pieces = build(request.config)
    try:
        peak = measure_peak_flops(pieces.engine, pieces.team.run)
        pieces.step.compile()
        seconds = seconds_per_step(pieces)
    finally:
        pieces.close()
    sizes, steps = pieces.sizes, request.config.training.steps
    tokens_per_step = pieces.batches.n_sequences * sizes.n_time
    return Plan(
        n_parameters=pieces.model.n_parameters,
        vocab_size=pieces.model.n_vocab,
        n_train_tokens=pieces.corpus.n_train,
        tokens_per_step=tokens_per_step,
        steps=steps,
        epochs=steps * tokens_per_step / pieces.corpus.n_train,
        memory_bytes=sizes.total_bytes,
        parameters_bytes=sizes.parameters_bytes,
        gradients_bytes=sizes.gradients_bytes,
        optimizer_bytes=sizes.optimizer_bytes,
        activations_bytes=sizes.activations_bytes,
        flops_per_token=pieces.model.flops_per_token(sizes.n_time),
        matmul_peak_flops=peak,
        engine=pieces.engine.name,
        workers=sizes.n_workers,
        seconds_per_step=seconds,
        expected_seconds=seconds * steps,
    )


def _rows(plan: Plan) -> list[tuple[str, str]]:
    from bptool.training.setup import format_bytes

    kinds: dict[str, Any] = {
        "parameters": plan.parameters_bytes,
        "gradients": plan.gradients_bytes,
        "optimizer": plan.optimizer_bytes,
        "activations": plan.activations_bytes,
    }
    parts = ", ".join(f"{kind} {format_bytes(n)}" for kind, n in kinds.items())
    peak = f"{plan.matmul_peak_flops / 1e9:.0f} GFLOP/s"
    return [
        ("parameters", f"{plan.n_parameters:,}"),
        ("vocabulary", f"{plan.vocab_size:,} tokens"),
        ("training text", f"{plan.n_train_tokens:,} tokens"),
        ("tokens a step", f"{plan.tokens_per_step:,}"),
        ("passes over the text", f"{plan.epochs:.2f}"),
        ("memory", f"{format_bytes(plan.memory_bytes)}: {parts}"),
        ("work", f"{plan.flops_per_token / 1e6:.2f} MFLOP a token"),
        ("matmul peak", f"{peak} ({plan.engine}, {plan.workers} workers)"),
        ("a step", f"{plan.seconds_per_step * 1e3:.0f} ms, as timed now"),
        (
            "whole run",
            f"{wording.duration(plan.expected_seconds)} for {plan.steps:,} steps, "
            "evaluations apart",
        ),
    ]
