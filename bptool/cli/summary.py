"""What a training run says at its start and at its end, on every kind of display."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bptool.cli import wording
from bptool.cli.programs import resume_command
from bptool.cli.progress import TrainingProgress
from bptool.training.events import TrainingStarted


def opening_lines(event: TrainingStarted) -> Iterator[str]:
    """What trains, on what, and where the files go, one line each."""
    yield f"{event.model} with {wording.count(event.n_parameters)} parameters"
    yield (
        f"{wording.count(event.n_train_tokens)} tokens to train on, "
        f"{wording.count(event.n_validation_tokens)} to validate"
    )
    workers = "1 worker" if event.n_workers == 1 else f"{event.n_workers} workers"
    peak = f", {event.peak_flops / 1e9:.0f} GFLOP/s at its peak" if event.peak_flops else ""
    choice = f" ({event.engine_choice})" if event.engine_choice else ""
    yield f"{workers}, {event.engine} engine{choice}{peak}"
    steps = f"{event.n_steps:,} steps of {wording.count(event.tokens_per_step)} tokens"
    resumed = f", resumed after step {event.start_step:,}" if event.start_step else ""
    yield f"{steps}{resumed}, into {wording.near_path(event.run_dir)}"


def headline(progress: TrainingProgress) -> str:
    """One line that says how the run ended."""
    end = progress.finished
    assert end is not None
    took = wording.duration(end.seconds)
    if end.interrupted:
        return f"Stopped at step {end.step:,} of {progress.n_steps:,} after {took}; all is saved."
    if end.stopped_early:
        return f"Stopped early after {end.step:,} of {progress.n_steps:,} steps, in {took}."
    return f"Trained {end.step:,} steps in {took}."


def best_result(progress: TrainingProgress) -> str:
    """The best validation loss and where it was, or that nothing was evaluated."""
    end = progress.finished
    assert end is not None
    if math.isnan(end.best_val_loss):
        return "not evaluated"
    text = f"{end.best_val_loss:.4f} at step {end.best_step:,}"
    if progress.best is not None and progress.best.step == end.best_step:
        if not math.isnan(progress.best.judged_bits_per_byte):
            text += f" ({progress.best.judged_bits_per_byte:.3f} bits per byte)"
        if progress.best.average_val_loss is not None:
            text += ", of the average weights"
    return text


def next_command(progress: TrainingProgress) -> str:
    """The command to try next: resume what was interrupted, or write text."""
    end = progress.finished
    assert end is not None
    run = wording.near_path(end.run_dir)
    if end.interrupted:
        return resume_command(run)
    if end.answers:
        return f"bptool chat {wording.argument(run)}"
    prompt = progress.sample.prompt.strip() if progress.sample else ""
    start = f" --prompt {wording.argument(prompt)}" if prompt else ""
    return f"bptool generate {wording.argument(run)}{start}"


def closing_facts(progress: TrainingProgress) -> Iterator[tuple[str, str]]:
    """Label and value of each line of the summary."""
    end = progress.finished
    assert end is not None
    yield "best validation loss", best_result(progress)
    if progress.n_skipped:
        yield "skipped steps", f"{progress.n_skipped:,}, their weights were left as they were"
    if end.peak_memory_bytes is not None:
        from bptool.training.setup import format_bytes

        yield "most memory in use", format_bytes(end.peak_memory_bytes)
    yield "run folder", wording.near_path(end.run_dir)
    for name, path in end.files.items():
        yield name, wording.near_path(path)
    yield "resume" if end.interrupted else "next", next_command(progress)


def last_line(progress: TrainingProgress) -> str:
    """All of the summary that ``--quiet`` prints."""
    end = progress.finished
    assert end is not None
    return f"{headline(progress)} Best validation loss {best_result(progress)}; {end.run_dir}"
