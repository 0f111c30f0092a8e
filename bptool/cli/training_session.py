"""What ``bptool train`` does: settle the request, plan it, run it under signals."""

from __future__ import annotations

import json as json_module
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptool.config.load import Resolved, resolve
from bptool.config.schema import RunConfig
from bptool.errors import ConfigError, UserError
from bptool.training.run_folder import RunFolder, free_name

SAFE_TO_CHANGE = {
    "training.steps",
    "training.eval_interval",
    "training.log_interval",
    "training.checkpoint_interval",
    "training.eval_tokens",
    "training.workers",
}
INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """A run to start, or to go on with."""

    config: RunConfig
    folder: RunFolder
    resume: bool


def load_plugin(name: str) -> None:
    """Load a user's own parts."""
    from bptool.plugins import load_plugin as load

    load(name)


def request(
    source: list[str], texts: list[str], sets: list[str], out: Path | None, resume: bool
) -> Request:
    """Settle what is to be trained, and where."""
    is_config = len(source) == 1 and Path(source[0]).suffix.lower() in (".yaml", ".yml")
    if not is_config and any(Path(s).suffix.lower() in (".yaml", ".yml") for s in source):
        raise UserError("give one CONFIG.yaml, or text files, not both; --text adds texts to it")
    stem = Path(source[0]).stem or "run"
    if resume:
        folder = RunFolder(out or Path("runs") / stem)
        return Request(_resumed(folder, sets), folder, True)
    resolved = _resolve_config(source[0], texts, sets) if is_config else _fit(source + texts, sets)
    return Request(resolved.config, RunFolder(out or free_name(Path("runs") / stem)), False)


def _resolve_config(path: str, texts: list[str], sets: list[str]) -> Resolved:
    overrides = {"data": {"text": [_entry(text) for text in texts]}} if texts else None
    return resolve(path, sets, overrides)


def _fit(texts: list[str], sets: list[str]) -> Resolved:
    from bptool.config.defaults import for_text
    from bptool.data.text import read_texts

    entries = [_entry(text) for text in texts]
    contents = read_texts(entries)
    fitted = for_text(sum(map(len, contents)), len(set("".join(contents))))
    return resolve(None, sets, {"data": {"text": entries}}, defaults=fitted)


def _entry(text: str) -> str:
    return text if text.startswith("dataset:") else str(Path(text).absolute())


def _resumed(folder: RunFolder, sets: list[str]) -> RunConfig:
    """The run's own configuration, with changes that a resume allows."""
    folder.require_run()
    for argument in sets:
        key = argument.partition("=")[0].strip()
        if key not in SAFE_TO_CHANGE:
            raise ConfigError(
                f"--set {argument}: a resumed run keeps its settings; only "
                f"{', '.join(sorted(SAFE_TO_CHANGE))} may change"
            )
    return resolve(folder.config, sets).config


def train(wanted: Request, quiet: bool, json: bool) -> int:
    """Train; returns the exit code."""
    from rich.console import Console

    from bptool.cli.display import listener_for
    from bptool.training.loop import resume_run, start_run

    begin = resume_run if wanted.resume else start_run
    with listener_for(Console(), quiet=quiet, json=json) as listener:
        training = begin(wanted.config, wanted.folder, [listener])
        try:
            previous = _stop_on_signals(training)
            try:
                interrupted = training.run()
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        finally:
            training.pieces.close()
    if interrupted:
        place = wanted.folder.path
        sys.stderr.write(f"stopped and saved; go on with: bptool train {place} --resume\n")
    return INTERRUPTED if interrupted else 0


def _stop_on_signals(training: Any) -> dict[int, Any]:
    """The first signal finishes the step and saves; a second one leaves at once."""

    def stop(number: int, frame: Any) -> None:
        training.request_stop()
        signal.signal(number, signal.default_int_handler)

    wanted = [signal.SIGINT]
    if hasattr(signal, "SIGTERM"):
        wanted.append(signal.SIGTERM)
    return {number: signal.signal(number, stop) for number in wanted}


def print_plan(wanted: Request, json: bool) -> None:
    """Print parameters, memory, FLOPs a token, the measured peak, and the expected time."""
    from rich.console import Console
    from rich.table import Table

    from bptool.training.machine import measure_peak_flops
    from bptool.training.setup import build, expected_seconds, format_bytes

    pieces = build(wanted.config)
    try:
        peak = measure_peak_flops(pieces.engine, pieces.team.run)
        pieces.step.compile()
        seconds = expected_seconds(pieces)
        sizes = pieces.sizes
        flops = pieces.model.flops_per_token(sizes.n_time)
        steps = wanted.config.training.steps
        plan = {
            "n_parameters": pieces.model.n_parameters,
            "vocab_size": pieces.model.n_vocab,
            "n_train_tokens": pieces.corpus.n_train,
            "tokens_per_step": pieces.batches.n_sequences * sizes.n_time,
            "epochs": steps * pieces.batches.n_sequences * sizes.n_time / pieces.corpus.n_train,
            "memory_bytes": sizes.total_bytes,
            "flops_per_token": flops,
            "matmul_peak_flops": peak,
            "engine": pieces.engine.name,
            "workers": pieces.team.n,
            "seconds_per_step": seconds / steps,
            "expected_seconds": seconds,
        }
    finally:
        pieces.close()
    if json:
        sys.stdout.write(json_module.dumps(plan) + "\n")
        return
    table = Table(title="Plan", show_header=False)
    table.add_row("parameters", f"{plan['n_parameters']:,}")
    table.add_row("vocabulary", f"{plan['vocab_size']:,} tokens")
    table.add_row("training text", f"{plan['n_train_tokens']:,} tokens")
    table.add_row("tokens a step", f"{plan['tokens_per_step']:,}")
    table.add_row("passes over the text", f"{plan['epochs']:.2f}")
    table.add_row(
        "memory",
        f"{format_bytes(sizes.total_bytes)}: parameters {format_bytes(sizes.parameters_bytes)}, "
        f"gradients {format_bytes(sizes.gradients_bytes)}, "
        f"optimizer {format_bytes(sizes.optimizer_bytes)}, "
        f"activations {format_bytes(sizes.activations_bytes)}",
    )
    table.add_row("work", f"{flops / 1e6:.2f} MFLOP a token")
    table.add_row(
        "matmul peak", f"{peak / 1e9:.0f} GFLOP/s ({plan['engine']}, {plan['workers']} workers)"
    )
    table.add_row("a step", f"{plan['seconds_per_step'] * 1e3:.0f} ms (3 steps timed)")
    table.add_row("whole run", f"{seconds / 60:.1f} min for {steps:,} steps, evaluations apart")
    Console().print(table)
