"""What the live display of training is made of: lines, the table of numbers, the sample."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bptool.cli import summary, terminal, wording
from bptool.cli.console import Console
from bptool.cli.progress import TrainingProgress
from bptool.training.events import Evaluated, Sampled

INDENT = (0, 2)
MAX_SAMPLE_LINES = 6
LINES_WITHOUT_SAMPLE = 11
HISTORY = "{:>7}  {:>8}  {:>10}"
VALIDATION = slice(19, 29)
"""Where the validation loss stands in a line."""
ONE_MORE = "  {:>9}"


def history_header(event: Evaluated, maximised: bool = False) -> Text:
    """The header over the lines of the evaluations, of which ``event`` is the first."""
    names = HISTORY.format("step", "training", "reward" if maximised else "validation")
    more = ("bits/byte",) if event.average_val_loss is None else ("average", "bits/byte")
    return Text(names + "".join(map(ONE_MORE.format, more)) + "  sample", style="dim")


def history_row(
    event: Evaluated, sample: Sampled | None, width: int, maximised: bool = False
) -> Text:
    """One evaluation with the start of its sample; the loss that is judged is green if the best."""
    sign = -1.0 if maximised else 1.0
    numbers = HISTORY.format(
        f"{event.step:,}",
        wording.decimal(event.train_loss),
        wording.decimal(sign * event.val_loss),
    )
    judged = VALIDATION
    if event.average_val_loss is not None:
        judged = slice(len(numbers), len(numbers) + 11)
        numbers += ONE_MORE.format(wording.decimal(sign * event.average_val_loss))
    numbers += ONE_MORE.format(wording.decimal(event.judged_bits_per_byte, 3))
    row = Text(numbers)
    style = "bold green" if event.is_best else "yellow" if event.overfitting else "dim"
    row.stylize(style, judged.start, judged.stop)
    if sample is not None:
        row.append("  ")
        row.append(" ".join(sample_text(sample).plain.split()), style="italic")
    row.truncate(width, overflow="ellipsis")
    return row


def sample_text(sample: Sampled) -> Text:
    """Prompt and continuation, the prompt set apart, on as many lines as they have."""
    prompt, text = terminal.visible(sample.prompt), terminal.visible(sample.text)
    continuation = text.removeprefix(prompt) if prompt else text
    return Text.assemble((prompt, "bold"), continuation)


def bar(done: int, total: int, seconds_left: float | None) -> RenderableType:
    """How far something is, and the time left where that is known."""
    total = max(total, 1)
    left = "" if seconds_left is None else f"{wording.duration(seconds_left)} left"
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True, min_width=5)
    grid.add_column(justify="right", no_wrap=True, min_width=len("59 min 59 s left"))
    meter = ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="green")
    grid.add_row(meter, Text(f"{100 * done / total:.0f} %", style="bold"), Text(left))
    return grid


def numbers(progress: TrainingProgress, console: Console, width: int) -> RenderableType:
    """The table of the run's numbers, in two columns where they fit."""
    last, evaluation, best = progress.last, progress.evaluation, progress.best
    validated = progress.judged(evaluation.val_loss) if evaluation else None
    maximised = progress.started is not None and progress.started.maximised
    share, saved = progress.peak_share, progress.checkpoint
    left = [
        ("step", f"{progress.step:,} of {progress.n_steps:,}"),
        ("loss", wording.decimal(progress.loss)),
        ("held-out reward" if maximised else "validation", wording.decimal(validated)),
        (
            "bits per byte",
            wording.decimal(evaluation.judged_bits_per_byte if evaluation else None, 3),
        ),
        (
            "best",
            f"{progress.judged(best.judged_loss):.4f} at {best.step:,}"
            if best
            else wording.MISSING,
        ),
    ]
    right = [
        ("learning rate", f"{last.learning_rate:.2e}" if last else wording.MISSING),
        ("gradient norm", wording.decimal(last.grad_norm if last else None, 3)),
        ("tokens/s", wording.count(progress.tokens_per_second) if last else wording.MISSING),
        ("of peak", f"{100 * share:.0f} %" if share is not None else wording.MISSING),
        ("saved", f"at {saved.step:,}" if saved else wording.MISSING),
    ]
    average = evaluation.average_val_loss if evaluation else None
    if average is not None:
        left.insert(3, ("averaged", wording.decimal(progress.judged(average))))
        right.append(("", ""))
    if progress.n_skipped:
        left.append(("", ""))
        right.append(("skipped", f"{progress.n_skipped:,}"))
    grid = Table.grid(padding=(0, 2))
    for least in (13, 16, 13, 8):
        grid.add_column(min_width=least, no_wrap=True)
    for (label, value), (label_2, value_2) in zip(left, right, strict=True):
        style = "bold" if label in ("loss", "validation", "held-out reward") else ""
        cells = Text(label, style="dim"), Text(value, style=style)
        grid.add_row(*cells, Text(label_2, style="dim"), Text(value_2))
    if console.measure(grid).minimum <= width:
        return grid
    narrow = Table.grid(padding=(0, 2))
    for label, value in left + right:
        if label:
            narrow.add_row(Text(label, style="dim"), Text(value))
    return narrow


def statistics(progress: TrainingProgress, width: int) -> list[RenderableType]:
    """What the lesson measures, each in training and when evaluated; nothing when pretraining."""
    found = progress.statistics
    if not found:
        return []
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=18 if width >= 60 else None)
    for _ in range(2):
        grid.add_column(justify="right", min_width=len("validation"), no_wrap=True)
    grid.add_row("", Text("training", style="dim"), Text("validation", style="dim"))
    for name, values in found.items():
        grid.add_row(Text(name, style="dim"), *(Text(wording.statistic(v)) for v in values))
    return [Text(""), grid]


def curve(progress: TrainingProgress, console: Console, width: int) -> Text:
    """The loss so far as a sparkline between its first and its latest value."""
    if not progress.curve:
        return Text("")
    first, now = f"{progress.curve[0]:.2f} ", f" {progress.loss:.2f}"
    room = width - len(first) - len(now)
    line = wording.sparkline(progress.curve, room, console.options.ascii_only)
    return Text.assemble((first, "dim"), (line, "cyan"), (now, "dim"))


def sample_block(progress: TrainingProgress, console: Console, width: int) -> list[RenderableType]:
    """The latest sample, as many lines as there is room for."""
    taken = LINES_WITHOUT_SAMPLE + (len(progress.statistics) + 2 if progress.statistics else 0)
    room = min(MAX_SAMPLE_LINES, console.height - taken - 2)
    if progress.sample is None or room < 1:
        return []
    lines = list(sample_text(progress.sample).wrap(console, width))[:room]
    title = Text(f"sample at step {progress.sample.step:,}", style="dim")
    return [Text(""), title, *lines]


def render(progress: TrainingProgress, console: Console) -> RenderableType:
    """The whole panel for the present state."""
    width = max(console.width - 4, 20)
    parts: list[RenderableType] = [Text("")]
    if progress.compiling is not None:
        what = f"compiling {progress.compiling.what}; needed once, then kept for later runs"
        parts.append(Text(what, style="cyan"))
    if progress.started is not None and (progress.last or not progress.compiling):
        left = progress.seconds_left if progress.last else None
        parts += [bar(progress.step, progress.n_steps, left), Text("")]
        parts += [numbers(progress, console, width), *statistics(progress, width)]
        parts += [Text(""), curve(progress, console, width)]
        parts += sample_block(progress, console, width)
    return Padding(Group(*parts), INDENT)


def closing_table(progress: TrainingProgress, console: Console) -> RenderableType:
    """The summary's labels and values, and the curve of the whole run."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in summary.closing_facts(progress):
        grid.add_row(Text(label, style="dim"), Text(value))
    parts: list[RenderableType] = [grid]
    if progress.curve:
        parts = [curve(progress, console, min(console.width - 4, 76)), Text(""), grid]
    return Padding(Group(*parts), INDENT)
