"""``bptool data prepare``: texts become the token files of a run, and how far that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bptool.cli import terminal, wording
from bptool.files import format_bytes

if TYPE_CHECKING:
    from rich.progress import Progress

    from bptool.cli.console import Console
    from bptool.data.corpus import Corpus

SECONDS_A_LINE = 10.0
STAGES = {"reading": "reading", "tokenizer": "learning the vocabulary"}
"""What is shown for a stage where that is not its own name."""


@dataclass(frozen=True)
class Asked:
    """The arguments of ``bptool data prepare``, which are those of ``bptool train``."""

    source: list[str]
    texts: list[str]
    sets: list[str]
    start: Path | None
    plugins: list[str]

    def command(self, verb: str) -> str:
        """``bptool VERB`` with these arguments, as a shell takes them."""
        words = list(self.source)
        start = [] if self.start is None else [str(self.start)]
        options = {
            "--text": self.texts,
            "--set": self.sets,
            "--from": start,
            "--plugin": self.plugins,
        }
        for option, values in options.items():
            for value in values:
                words += [option, value]
        return f"bptool {verb} {' '.join(map(wording.argument, words))}"


def byte_bar(console: Console) -> Progress:
    """A bar for bytes on a terminal; nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Stages:
    """Told how far preparing is; writes lines to ``file`` or moves a bar.

    Args:
        file: for lines, or None: none are written. bar: see :func:`byte_bar`, or None.
        clock: seconds from any start; a test gives its own.
    """

    def __init__(
        self,
        file: TextIO | None,
        bar: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._bar, self._clock = file, bar, clock
        self._stage, self._began, self._first, self._last_line = "", 0.0, 0, 0.0
        self._done = 0
        self._task = None if bar is None else bar.add_task("", total=None)
        self.reached = "before anything was tokenized"
        """Where it is, for whoever stops it."""
        self.tokenized = False
        """Whether any of the text was made tokens."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes of a stage are done; a total of 1 is no bytes.

        A vocabulary is learnt in more than one pass, so that ``done`` may begin anew.
        """
        name, counted = STAGES.get(stage, stage), total > 1
        now = self._clock()
        if stage == self._stage and done < self._done:
            self._began, self._first = now, done
        self._done = done
        if stage != self._stage:
            self._stage, self._began, self._first, self._last_line = stage, now, done, now
            if done and stage not in STAGES:
                self._say(f"{name}: going on after {_share(done, total)}")
            elif done < total:
                size = f", {format_bytes(total)}" if counted else ""
                self._say(f"{name}{size}")
            if self._bar is not None and self._task is not None:
                self._bar.reset(
                    self._task,
                    description=name,
                    total=total if counted else None,
                    completed=done if counted else 0,
                )
        if stage not in STAGES:
            self.tokenized = True
        if counted and stage not in STAGES:
            self.reached = f"after {_share(done, total)} of the {name}"
        if self._bar is not None and self._task is not None and counted:
            self._bar.update(self._task, completed=done)
        elif counted and done < total and now - self._last_line >= SECONDS_A_LINE:
            self._last_line = now
            rate = (done - self._first) / max(now - self._began, 1e-9)
            left = (total - done) / rate if rate > 0 else float("nan")
            self._say(
                f"{name}: {_share(done, total)}, {format_bytes(rate)}/s, "
                f"{wording.duration(left)} left"
            )

    def _say(self, line: str) -> None:
        if self._bar is not None and self._bar.console.is_terminal:
            if "going on" in line:
                self._bar.console.print(line, highlight=False)
        elif self._file is not None:
            terminal.write(line + "\n", self._file)


def _share(done: int, total: int) -> str:
    return f"{format_bytes(done)} of {format_bytes(total)} ({done / max(total, 1):.1%})"


@terminal.outliving_output()
def prepare_texts(asked: Asked, quiet: bool) -> None:
    """Make the token files that ``bptool train`` with the same arguments would make.

    Raises:
        UserError: an argument, a setting or a text is unfit.
        Stopped: SIGINT or SIGTERM came; what was tokenized is kept, and the command to go on said.
    """
    import contextlib
    import sys

    from bptool.cli.console import Console
    from bptool.cli.failures import Stopped
    from bptool.cli.signals import stopping
    from bptool.data.standard_input import without_stdin
    from bptool.data.token_writer import Halt

    source, texts = without_stdin(asked.source, asked.texts)
    asked = replace(asked, source=source, texts=texts)
    console = Console(stderr=True)
    halted = False

    def request_stop() -> None:
        nonlocal halted
        halted = True

    with contextlib.ExitStack() as stack:
        bar = None
        if console.is_terminal and not quiet:
            bar = stack.enter_context(byte_bar(console))
        stages = Stages(None if quiet else sys.stderr, bar)

        def told(stage: str, done: int, total: int) -> None:
            stages(stage, done, total)
            if halted:
                raise Halt

        signals = stack.enter_context(stopping(request_stop, at_once=True))
        try:
            corpus = _prepared(asked, told)
        except Halt:
            stack.close()
            command = asked.command("data prepare")
            terminal.line(f"stopped {stages.reached}; go on with: {command}", err=True)
            raise Stopped(signals.exit_code) from None
    if quiet:
        terminal.exact(f"{corpus.token_file}\n")
        return
    for label, value in _facts(corpus, stages.tokenized):
        terminal.line(f"{label}: {value}")
    terminal.line(f"train with: {asked.command('train')}")


def _prepared(asked: Asked, progress: Callable[[str, int, int], None]) -> Corpus:
    from bptool.data.corpus import prepare
    from bptool.recipes.training import started
    from bptool.training.setup import context_of
    from bptool.training.start import open_start

    config = started(asked.source, asked.texts, asked.sets, asked.start, progress)
    tokenizer = open_start(config).tokenizer if config.start else None
    return prepare(config.data, context_of(config), progress, tokenizer=tokenizer)


def _facts(corpus: Corpus, made: bool) -> list[tuple[str, str]]:
    n = corpus.n_train + corpus.n_validation
    facts = [
        ("tokens", f"{n:,} of {corpus.tokenizer.vocab_size:,} kinds"),
        ("characters a token", f"{corpus.n_characters / n:.3f}"),
        ("to train on", f"{corpus.n_train:,} tokens"),
        ("to validate", f"{corpus.n_validation:,} tokens"),
        ("file", f"{corpus.token_file}{'' if made else ' (was there already)'}"),
    ]
    return [*facts, *(("note", note) for note in corpus.notes)]
