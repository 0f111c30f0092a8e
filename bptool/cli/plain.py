"""Training shown without a terminal: plain lines, one last line, or one JSON object an event."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from bptool.cli import summary, terminal, wording
from bptool.cli.progress import TrainingProgress
from bptool.training.events import (
    CheckpointSaved,
    Compiling,
    Evaluated,
    Event,
    Notice,
    Sampled,
    StepDone,
    StoppedEarly,
    TrainingFinished,
    TrainingStarted,
)

LINES_PER_RUN = 20
"""Lines about steps in a whole run, so that a log stays short."""
LONGEST_SILENCE_SECONDS = 60.0


class LineListener:
    """A listener that writes lines to ``file``; a context manager for symmetry with the screen."""

    def __init__(self, file: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.file = file
        self.progress = TrainingProgress(clock)
        self._clock = clock
        self._last_line = clock()

    def __enter__(self) -> LineListener:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.flush()

    def __call__(self, event: Event) -> None:
        """Write what there is to say about ``event``."""
        self.progress.observe(event)
        self.show(event)

    def show(self, event: Event) -> None:
        """Write the lines of ``event``, which ``progress`` has taken in already."""
        raise NotImplementedError

    def write(self, line: str) -> None:
        """Write one line at once, for whoever follows the file."""
        terminal.write(line + "\n", self.file)
        self._last_line = self._clock()


class PlainLines(LineListener):
    """For pipes, logs and CI: no colours, nothing redrawn."""

    def show(self, event: Event) -> None:
        """Write the lines of ``event``."""
        match event:
            case TrainingStarted():
                for line in summary.opening_lines(event):
                    self.write(line)
            case Compiling(done=False):
                self.write(f"preparing kernels: {event.what} (compiled once, then loaded)")
            case Compiling():
                how = "loaded from the cache" if event.cached else "compiled"
                self.write(f"{event.what} {how} in {wording.duration(event.seconds)}")
            case StepDone():
                self._show_step(event)
            case Evaluated():
                best = ", the best so far" if event.is_best else ""
                average = ""
                if event.average_val_loss is not None:
                    of_average = wording.decimal(self.progress.judged(event.average_val_loss))
                    average = f", {of_average} of the average weights"
                trained = f"training loss {wording.decimal(event.train_loss)}, "
                trained = trained if event.step else "before training: "
                self.write(
                    f"step {event.step:,}: {trained}{self.progress.judged_as} "
                    f"{wording.decimal(self.progress.judged(event.val_loss))}{average}"
                    f"{wording.bits_per_byte(event.judged_bits_per_byte)}{best}"
                )
                self._show_statistics("validation", event.statistics)
            case Sampled():
                text = event.prompt + event.text.removeprefix(event.prompt)
                self.write(f"sample: {' '.join(text.split())}")
            case CheckpointSaved():
                self.write(f"saved step {event.step:,} to {wording.near_path(event.path)}")
            case StoppedEarly():
                self.write(str(event))
            case Notice():
                self.write(f"{'warning' if event.level == 'warning' else 'note'}: {event.text}")
            case TrainingFinished():
                self.write(summary.headline(self.progress))
                for label, value in summary.closing_facts(self.progress):
                    self.write(f"{label}: {value}")

    def _show_step(self, event: StepDone) -> None:
        every = max(1, self.progress.n_steps // LINES_PER_RUN)
        silent = self._clock() - self._last_line
        if event.step % every == 0 or silent > LONGEST_SILENCE_SECONDS:
            share = self.progress.peak_share
            peak = "" if share is None else f" ({100 * share:.0f} % of peak)"
            self.write(
                f"step {event.step:,} of {self.progress.n_steps:,}: "
                f"loss {wording.decimal(self.progress.loss)}, "
                f"learning rate {event.learning_rate:.2e}, "
                f"gradient norm {wording.decimal(event.grad_norm, 3)}, "
                f"{wording.count(self.progress.tokens_per_second)} tokens/s{peak}, "
                f"{wording.duration(self.progress.seconds_left)} left"
            )
            trained = {n: v for n, (v, _) in self.progress.statistics.items() if v is not None}
            self._show_statistics("training", trained)

    def _show_statistics(self, where: str, found: Mapping[str, float]) -> None:
        if found:
            parts = (f"{name} {wording.statistic(value)}" for name, value in found.items())
            self.write(f"  {where}: {', '.join(parts)}")


class LastLine(LineListener):
    """For ``--quiet``: one line when training ends."""

    def show(self, event: Event) -> None:
        """Write the last line when ``event`` is the end."""
        if isinstance(event, TrainingFinished):
            self.write(summary.last_line(self.progress))


class JsonLines(LineListener):
    """For ``--json``: each event as one JSON object with its kind under ``event``."""

    def show(self, event: Event) -> None:
        """Write ``event`` as it is."""
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
        record = {"event": kind, **dataclasses.asdict(event)}
        terminal.json(record, file=self.file)
