"""How training is shown: the live screen at several widths, plain lines, one line, JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from bptool.cli import panel, plain, wording
from bptool.cli.display import listener_for
from bptool.cli.progress import CURVE_POINTS, TrainingProgress
from bptool.cli.screen import Screen
from bptool.errors import UserError
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

N_STEPS = 40
STEP_SECONDS = 0.5
N_TOKENS = 1000


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def started(start_step: int = 0, peak_flops: float | None = 4e9) -> TrainingStarted:
    return TrainingStarted(
        run_dir="runs/a b",
        model="gpt2",
        n_parameters=1_213_440,
        n_train_tokens=1_318_222,
        n_validation_tokens=146_000,
        tokens_per_step=N_TOKENS,
        start_step=start_step,
        n_steps=N_STEPS,
        n_workers=2,
        engine="blas",
        peak_flops=peak_flops,
    )


def step_done(step: int, loss: float = 2.0, skipped: bool = False) -> StepDone:
    return StepDone(
        step=step,
        loss=loss,
        penalty=0.0,
        grad_norm=0.8125,
        learning_rate=6e-4,
        seconds=STEP_SECONDS,
        n_tokens=N_TOKENS,
        flops=1e9,
        skipped=skipped,
    )


def evaluated(step: int, val_loss: float, is_best: bool = True) -> Evaluated:
    return Evaluated(step, val_loss - 0.05, val_loss, val_loss * 1.44, 146_000, 0.3, is_best, False)


def finished(interrupted: bool = False, best_val_loss: float = 1.6180) -> TrainingFinished:
    files = {"plot": "runs/a b/loss.png", "samples": "runs/a b/samples.txt"}
    return TrainingFinished(N_STEPS, 75.0, N_STEPS, best_val_loss, interrupted, "runs/a b", files)


def run_events() -> Iterator[Event]:
    yield Compiling("forward and backward", done=False)
    yield Compiling("forward and backward", done=True, seconds=12.34)
    yield started()
    for step in range(1, N_STEPS + 1):
        yield step_done(step, loss=4.0 - 2.0 * step / N_STEPS, skipped=step == 7)
        if step % 20 == 0:
            yield evaluated(step, 1.6180 if step == N_STEPS else 2.7182)
            yield Sampled(
                step, "The old", f"The old miller [sat] down.\nStep {step} \x1b[2J" + "x " * 90
            )
            yield CheckpointSaved(step, "runs/a b/checkpoints/best", True)
    yield Notice("validation loss rises: the model starts to overfit " + "and on " * 20, "warning")
    yield finished()


def screen_of(width: int, height: int = 30) -> tuple[Screen, Clock, io.StringIO]:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, height=height, color_system=None,
        legacy_windows=False,
    )  # fmt: skip
    clock = Clock()
    return Screen(console, clock), clock, file


def drawn(screen: Screen) -> list[str]:
    """The panel as it would be drawn now."""
    file = io.StringIO()
    size = screen.console.size
    console = Console(file=file, width=size.width, height=size.height, color_system=None)
    console.print(panel.render(screen.progress, screen.console))
    return file.getvalue().splitlines()


def visible(text: str) -> list[str]:
    """Lines without the codes that move the cursor."""
    return Text.from_ansi(text).plain.splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_screen_fits_its_width_and_shows_the_numbers(width: int) -> None:
    screen, clock, file = screen_of(width)
    with screen:
        for event in run_events():
            clock.now += STEP_SECONDS if isinstance(event, StepDone) else 0.0
            screen(event)
            lines = drawn(screen)
            assert all(len(line) <= width for line in lines)
    assert all(len(line) <= width for line in visible(file.getvalue()))
    text = " ".join("\n".join(drawn(screen)).split())
    for words in (
        "40 of 40", "100 %", "validation 1.6180", "bits per byte 2.330", "best 1.6180 at 40",
        "learning rate 6.00e-04", "gradient norm 0.812", "tokens/s 2,000", "of peak 50 %",
        "saved at 40", "skipped 1", "sample at step 40", "The old miller [sat] down.",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_stays_after_training(width: int) -> None:
    screen, _, file = screen_of(width)
    with screen:
        for event in run_events():
            screen(event)
    lines = [line.strip() for line in visible(file.getvalue())]
    text = "\n".join(lines)
    assert "forward and backward compiled in 12 s" in text
    assert "gpt2 with 1.21 M parameters" in text
    assert any(line.startswith("20    2.6682      2.7182      3.914  The old m") for line in lines)
    assert any(line.startswith("40    1.5680      1.6180      2.330  The old m") for line in lines)
    assert "Trained 40 steps in 1 min 15 s." in text
    joined = " ".join(text.split())
    assert "1.6180 at step 40 (2.330 bits per byte)" in joined
    assert "bptool generate 'runs/a b' --prompt 'The old'" in joined
    assert "\x1b[2J" not in file.getvalue()


def test_a_run_with_an_average_that_stops_early() -> None:
    average = dataclasses.replace(
        evaluated(20, 2.7182), average_val_loss=2.5, average_bits_per_byte=3.5
    )
    stop = StoppedEarly(20, 5, 8, 2.4, -0.1, 0.02)
    end = dataclasses.replace(
        finished(best_val_loss=2.5), step=20, best_step=20, stopped_early=True
    )
    file = io.StringIO()
    screen, _, shown = screen_of(100)
    with screen, plain.PlainLines(file) as lines:
        for event in (started(), step_done(20), average, stop, end):
            screen(event)
            lines(event)
    text = " ".join("\n".join(drawn(screen)).split())
    for words in (
        "validation 2.7182",
        "averaged 2.5000",
        "bits per byte 3.500",
        "best 2.5000 at 20",
    ):
        assert words in text, words
    on_screen = [line.strip() for line in visible(shown.getvalue())]
    assert "step  training  validation    average  bits/byte  sample" in on_screen
    assert "20    2.6682      2.7182     2.5000      3.500" in on_screen
    said = (
        "early stopping: 5 evaluations without an improvement on 2.4000 at step 8 that is above "
        "the noise (last -0.1000, needed 0.0200)"
    )
    assert any(line.startswith(f"note: {said[:70]}") for line in on_screen)
    assert any(line.endswith(said[-30:]) for line in on_screen)
    ends = "Stopped early after 20 of 40 steps, in 1 min 15 s."
    assert ends in on_screen
    for line in (
        said,
        ends,
        "step 20: training loss 2.6682, validation loss 2.7182, 2.5000 of the average weights, "
        "3.500 bits per byte, the best so far",
        "best validation loss: 2.5000 at step 20 (3.500 bits per byte), of the average weights",
    ):
        assert line in file.getvalue().splitlines(), line


@pytest.mark.parametrize("width", [40, 80])
def test_what_else_a_lesson_measures_is_shown_in_training_and_in_evaluation(width: int) -> None:
    step = dataclasses.replace(
        step_done(20), statistics={"reward margin": 0.25, "KL": math.nan, "tokens": 1234.0}
    )
    judged = dataclasses.replace(evaluated(20, 0.6), statistics={"reward margin": 0.5, "win": 0.61})
    file = io.StringIO()
    screen, _, _ = screen_of(width)
    with screen, plain.PlainLines(file) as lines:
        for event in (started(), step, judged):
            screen(event)
            lines(event)
    shown = [line.split() for line in drawn(screen)]
    assert ["training", "validation"] in shown
    assert ["reward", "margin", "0.25", "0.5"] in shown
    assert ["tokens", "1,234", "-"] in shown
    assert ["win", "-", "0.61"] in shown
    assert not any("KL" in line for line in shown)
    said = file.getvalue().splitlines()
    assert "  training: reward margin 0.25, tokens 1,234" in said
    assert "  validation: reward margin 0.5, win 0.61" in said


def test_an_interrupted_run_says_how_to_resume() -> None:
    screen, _, file = screen_of(100)
    with screen:
        screen(started())
        screen(step_done(1))
        screen(finished(interrupted=True, best_val_loss=math.nan))
    text = "\n".join(visible(file.getvalue()))
    assert "Stopped at step 40 of 40" in text
    assert "not evaluated" in text
    assert "bptool train 'runs/a b' --resume" in text.replace("\\", "/")


def test_the_screen_is_drawn_at_most_eight_times_a_second() -> None:
    screen, clock, file = screen_of(80)
    with screen:
        screen(started())
        counts = []
        for step in range(1, 41):
            clock.now += 0.025
            before = len(file.getvalue())
            screen(step_done(step))
            counts.append(len(file.getvalue()) > before)
    assert 4 <= sum(counts) <= 8


def test_an_error_leaves_the_terminal_as_it_was() -> None:
    screen, _, file = screen_of(80)

    def train() -> None:
        with screen:
            screen(started())
            screen(evaluated(3, 2.5))
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        train()
    hidden, shown = file.getvalue().rfind("\x1b[?25l"), file.getvalue().rfind("\x1b[?25h")
    assert -1 < hidden < shown
    assert "2.5000" in file.getvalue()


@pytest.mark.parametrize("height", [5, 12, 16, 24])
def test_a_low_terminal_keeps_the_panel_inside(height: int) -> None:
    screen, _, file = screen_of(80, height)
    with screen:
        for event in list(run_events())[:-1]:
            screen(event)
        last_frame = file.getvalue().rpartition("\x1b[2K")[2]
    assert last_frame.count("\n") < height
    if height >= 16:
        assert len(drawn(screen)) <= height


def test_progress_means_and_time_left() -> None:
    clock = Clock()
    progress = TrainingProgress(clock)
    assert math.isnan(progress.loss)
    assert math.isnan(progress.seconds_left)
    progress.observe(started())
    for step in range(1, 11):
        clock.now += 2 * STEP_SECONDS  # as much time again goes into evaluation
        progress.observe(step_done(step, loss=3.0))
    assert progress.loss == pytest.approx(3.0)
    assert progress.tokens_per_second == pytest.approx(N_TOKENS / STEP_SECONDS)
    assert progress.peak_share == pytest.approx(0.5)
    overhead = (10 * 2 * STEP_SECONDS - STEP_SECONDS) / (10 * STEP_SECONDS)
    assert progress.seconds_left == pytest.approx(30 * STEP_SECONDS * overhead)


def test_a_loss_that_is_not_finite_does_not_spoil_the_mean() -> None:
    progress = TrainingProgress(Clock())
    progress.observe(started(peak_flops=None))
    progress.observe(step_done(1, loss=3.0))
    progress.observe(step_done(2, loss=math.nan, skipped=True))
    assert progress.loss == pytest.approx(3.0)
    assert progress.n_skipped == 1
    assert progress.peak_share is None


def test_the_curve_of_a_long_run_is_thinned_out_evenly() -> None:
    progress = TrainingProgress(Clock())
    for step in range(1, 5001):
        progress.observe(step_done(step, loss=float(step)))
    assert CURVE_POINTS // 2 - 1 <= len(progress.curve) < CURVE_POINTS
    gaps = {round(b - a) for a, b in zip(progress.curve[20:], progress.curve[21:], strict=False)}
    assert len(gaps) == 1


def lines_of(listener: plain.LineListener) -> list[str]:
    with listener:
        for event in run_events():
            listener(event)
    assert isinstance(listener.file, io.StringIO)
    return listener.file.getvalue().splitlines()


def test_plain_lines_tell_the_same_without_codes() -> None:
    lines = lines_of(plain.PlainLines(io.StringIO()))
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "preparing kernels: forward and backward (compiled once, then loaded)" in lines
    assert sum(", learning rate 6.00e-04, " in line for line in lines) == plain.LINES_PER_RUN
    assert "skipped steps: 1, their weights were left as they were" in lines
    assert (
        "step 40: training loss 1.5680, validation loss 1.6180, 2.330 bits per byte, "
        "the best so far"
    ) in lines
    assert any(line.startswith("sample: The old miller [sat] down. Step 40") for line in lines)
    assert any(line.startswith("warning: validation loss rises") for line in lines)
    assert lines[-1] == "next: bptool generate 'runs/a b' --prompt 'The old'"


def test_plain_lines_of_a_slow_run_come_at_least_once_a_minute() -> None:
    clock = Clock()
    file = io.StringIO()
    listener = plain.PlainLines(file, clock)
    listener(started())
    for step in (1, 3):
        clock.now += plain.LONGEST_SILENCE_SECONDS + 1
        listener(step_done(step))
    assert [line.split()[1] for line in file.getvalue().splitlines()[-2:]] == ["1", "3"]


def test_quiet_is_one_line() -> None:
    (line,) = lines_of(plain.LastLine(io.StringIO()))
    for words in ("40 steps", "1 min 15 s", "1.6180 at step 40", "runs/a b"):
        assert words in line


def test_json_lines_hold_every_event_and_no_nan() -> None:
    file = io.StringIO()
    listener = plain.JsonLines(file)
    events = [*run_events(), step_done(41, loss=math.nan), finished(best_val_loss=math.inf)]
    for event in events:
        listener(event)
    records = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(records) == len(events)
    assert records[0] == {
        "event": "compiling", "what": "forward and backward", "done": False, "seconds": 0.0,
        "cached": False,
    }  # fmt: skip
    assert records[3]["event"] == "step_done"
    assert records[3]["grad_norm"] == 0.8125
    assert records[-2]["loss"] is None
    assert records[-1]["files"]["plot"] == "runs/a b/loss.png"
    assert records[-1]["best_val_loss"] is None


def test_the_display_is_chosen_by_the_terminal_and_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    terminal = Console(file=io.StringIO(), force_terminal=True, force_interactive=True)
    pipe = Console(file=io.StringIO(), force_terminal=False)
    assert isinstance(listener_for(terminal), Screen)
    assert isinstance(listener_for(pipe), plain.PlainLines)
    assert isinstance(listener_for(terminal, quiet=True), plain.LastLine)
    assert isinstance(listener_for(terminal, json=True), plain.JsonLines)
    with pytest.raises(UserError, match="--quiet and --json"):
        listener_for(terminal, quiet=True, json=True)
    monkeypatch.setenv("CI", "true")
    assert isinstance(listener_for(terminal), plain.PlainLines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
        (125, "2 min 05 s"), (3599.7, "1 h 00 min"), (11_040, "3 h 04 min"),
        (183_600, "2 d 03 h"), (math.nan, "-"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (38_200, "38,200"), (1_213_440, "1.21 M"), (124e6, "124 M"), (2.7e11, "270 G")],
)
def test_counts(number: float, text: str) -> None:
    assert wording.count(number) == text


@given(
    values=st.lists(st.floats(allow_nan=True, width=32), max_size=200),
    width=st.integers(min_value=0, max_value=100),
)
def test_a_sparkline_never_fails_and_never_overflows(values: list[float], width: int) -> None:
    n_finite = sum(math.isfinite(value) for value in values)
    line = wording.sparkline(values, width)
    assert len(line) == min(width, n_finite)
    assert set(line) <= set(wording.BLOCKS)


def test_a_sparkline_has_the_shape_of_its_values() -> None:
    assert wording.sparkline([1, 2, 4, 8, 16, 32, 64, 128], 8) == wording.BLOCKS
    assert wording.sparkline([3, 3, 1, 1], 2) == "█▁"
    assert wording.sparkline([3, 1], 2, ascii_only=True) == "@_"
