"""What a training run says at its start and at its end, on every kind of display."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bptool import consent
from bptool.cli import wording
from bptool.cli.programs import resume_command
from bptool.cli.progress import TrainingProgress
from bptool.training.events import TrainingStarted


def opening_lines(event: TrainingStarted) -> Iterator[str]:
    """What trains, on what, and where the files go, one line each."""
    yield f"{event.model} with {wording.count(event.n_parameters)} parameters"
    yield event.material or (
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
    """The best that weights were judged and where it was, or that nothing was evaluated."""
    end = progress.finished
    assert end is not None
    if math.isnan(end.best_val_loss):
        return "not evaluated"
    text = f"{progress.judged(end.best_val_loss):.4f} at step {end.best_step:,}"
    if progress.best is not None and progress.best.step == end.best_step:
        if not math.isnan(progress.best.judged_bits_per_byte):
            text += f" ({progress.best.judged_bits_per_byte:.3f} bits per byte)"
        if progress.best.average_val_loss is not None:
            text += ", of the average weights"
    if end.best_step == 0 and end.step > 0:
        text += ", before training, which did not help"
    return text


def against_counting(progress: TrainingProgress) -> str | None:
    """Whether the model is better than what needs no training, in one sentence."""
    end, last = progress.finished, progress.evaluation
    assert end is not None
    if end.counted is None or last is None or not last.judged_loss > 0:
        return None
    bits = last.judged_bits_per_byte * end.best_val_loss / last.judged_loss
    counted = f"a counted model of order {end.counted.order}"
    if not end.counted.is_whole:
        counted += f" of the last {wording.count(end.counted.n_counted)} bytes"
    by_name = {counted: end.counted.bits_per_byte, "bzip2": end.counted.bzip2_bits_per_byte}
    better = " and ".join(f"{name} ({x:.3f})" for name, x in by_name.items() if bits < x)
    worse = " and ".join(f"{name} ({x:.3f})" for name, x in by_name.items() if not bits < x)
    verdicts = [
        *([f"better than {better}"] if better else []),
        *([f"no better than {worse}"] if worse else []),
    ]
    return f"The model needs {bits:.3f} bits per byte, {', but '.join(verdicts)}."


def next_command(progress: TrainingProgress) -> str:
    """The command to try next: resume what was interrupted, or use what was trained."""
    end = progress.finished
    assert end is not None
    run = wording.near_path(end.run_dir)
    if end.interrupted:
        return resume_command(run)
    plugins = "".join(f" {wording.argument(word)}" for word in consent.words(("--plugin",)))
    if end.scores:
        parent, judge = wording.argument(wording.near_path(end.scores)), wording.argument(run)
        return f"bptool finetune ppo {parent} --reward {judge} --prompts prompts.txt{plugins}"
    if end.answers:
        return f"bptool chat {wording.argument(run)}{plugins}"
    prompt = progress.sample.prompt.strip() if progress.sample else ""
    start = f" --prompt {wording.argument(prompt)}" if prompt else ""
    return f"bptool generate {wording.argument(run)}{start}{plugins}"


def closing_facts(progress: TrainingProgress) -> Iterator[tuple[str, str]]:
    """Label and value of each line of the summary."""
    end = progress.finished
    assert end is not None
    yield from (("warning", text) for text in end.warnings)
    yield f"best {progress.judged_as}", best_result(progress)
    counting = against_counting(progress)
    if counting is not None:
        yield "against counting", counting
    if progress.n_skipped:
        yield "skipped steps", f"{progress.n_skipped:,}, their weights were left as they were"
    if end.peak_memory_bytes is not None:
        from bptool.training.setup import format_bytes

        yield "most memory in use", format_bytes(end.peak_memory_bytes)
    yield "run folder", wording.near_path(end.run_dir)
    for name, path in end.files.items():
        yield name, wording.near_path(path)
    if progress.still_falls:
        command = resume_command(wording.near_path(end.run_dir))
        yield (
            "still falling",
            "The validation loss still falls at the end; to continue: "
            f"{command} --set training.steps={2 * end.step}",
        )
    yield "resume" if end.interrupted else "next", next_command(progress)
    if end.left_out:
        yield "note", end.left_out


def last_line(progress: TrainingProgress) -> str:
    """All of the summary that ``--quiet`` prints."""
    end = progress.finished
    assert end is not None
    left_out = f"; {end.left_out}" if end.left_out else ""
    warnings = "".join(f"; warning: {text}" for text in end.warnings)
    best = f"Best {progress.judged_as} {best_result(progress)}"
    return f"{headline(progress)} {best}; {end.run_dir}{left_out}{warnings}"
