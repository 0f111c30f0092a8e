"""The learning-rate finder: what it sweeps, what it reads off, what it shows and what it leaves."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bptool.cli import lr_find_display, wording
from bptool.cli.lr_find_session import Request
from bptool.cli.main import main
from bptool.config.load import resolve
from bptool.errors import ConfigError, DivergedError
from bptool.registry import optimizers
from bptool.training import lr_find_folder, lr_trials
from bptool.training.events import Compiling
from bptool.training.lessons.base import LessonStep
from bptool.training.lr_find import (
    CAP,
    GAINED,
    Event,
    RangeTest,
    RateTried,
    Sweep,
    SweepStarted,
    TrialDone,
    TrialStep,
    smooth,
    sweep_rates,
)
from bptool.training.lr_find_folder import SweepFolder
from bptool.training.lr_trials import (
    MOST_TRIALS,
    Finding,
    find_rate,
    search,
    squeezed_factor,
    suggest,
)
from bptool.training.setup import build, new_batch
from bptool.training.step import StepResult

TEST = RangeTest(1e-6, 10.0, 141)  # 20 steps a decade


# --- reading a curve -------------------------------------------------------------------------


def swept(losses: list[float], test: RangeTest = TEST, **changes: Any) -> Sweep:
    rates = [test.rate(step) for step in range(1, len(losses))]
    smoothed = smooth(losses, 0.1 * test.steps_a_decade)
    values = {"ending": "blew up", **changes}
    return Sweep(test, rates, losses, smoothed, **values)


def valley(centre: float, depth: float = 3.0, first: float = 7.0, rise: float = 4.0) -> list[float]:
    """Losses that fall over about two decades up to ``centre`` and rise above it."""
    losses = [first]
    for step in range(1, TEST.n_steps + 1):
        x = math.log10(TEST.rate(step) / centre)
        fallen = depth / (1 + 10.0 ** (-2 * (x + 1)))
        losses.append(first - fallen + rise * max(0.0, x) ** 2)
    return losses


def test_rates_rise_by_one_ratio() -> None:
    rates = np.array([TEST.rate(step) for step in range(1, TEST.n_steps + 1)])
    assert (rates[0], rates[-1]) == (1e-6, pytest.approx(10.0, rel=1e-12))
    np.testing.assert_allclose(rates[1:] / rates[:-1], 10**0.05, rtol=1e-12)
    assert TEST.steps_a_decade == pytest.approx(20)


@pytest.mark.parametrize(
    ("low", "high", "n_steps", "words"),
    [
        (1.0, 1.0, 50, "from 1 to 1: need two above 0, rising"),
        (2.0, 1.0, 50, "rising"),
        (0.0, 1.0, 50, "above 0"),
        (math.nan, 1.0, 50, "above 0"),
        (1e-6, math.inf, 50, "above 0"),
        (1e-6, 1.0, 19, "too short; need 20"),
    ],
)
def test_ranges_that_cannot_be_swept(low: float, high: float, n_steps: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RangeTest(low, high, n_steps)


@given(st.lists(st.floats(1, 10), min_size=1, max_size=60), st.floats(0.3, 9))
def test_smoothing_is_the_weighted_mean_it_says(losses: list[float], width: float) -> None:
    found = smooth(losses, width)
    held = np.minimum(losses, CAP * losses[0])
    for place in {0, len(losses) // 2, len(losses) - 1}:
        weights = np.exp(-(((np.arange(len(losses)) - place) / width) ** 2) / 2)
        expected = float((weights * held).sum() / weights.sum())
        # the sum leaves out what is more than four widths away
        assert found[place] == pytest.approx(expected, rel=1e-3)


def test_smoothing_keeps_straight_lines_and_takes_infinity_for_the_cap() -> None:
    line = [5 - 0.01 * i for i in range(100)]
    np.testing.assert_allclose(smooth(line, 2.0)[10:-10], line[10:-10], rtol=1e-12)
    for bad in (math.nan, math.inf, 1e30):
        assert smooth([4.0, 4.0, 4.0, bad], 0.01)[-1] == pytest.approx(CAP * 4)


@given(
    centre=st.floats(-3.5, 0).map(lambda x: 10**x), depth=st.floats(0.5, 5),
    noise=st.floats(0, 0.05),
)  # fmt: skip
def test_the_promising_rate_stands_where_nine_tenths_of_the_fall_are_made(
    centre: float, depth: float, noise: float
) -> None:
    draw = np.random.default_rng(1)
    losses = [loss + noise * depth * draw.standard_normal() for loss in valley(centre, depth)]
    found = swept(losses)
    assert found.promising is not None
    exact = centre / 10 * 3.0  # where depth / (1 + 10^(-2(x + 1))) is nine tenths of depth
    assert 0.6 < found.promising / exact < 1.6
    assert found.steepest < found.promising <= found.best
    level = dict(zip(found.rates, found.smoothed[1:], strict=True))[found.promising]
    assert level <= found.smoothed[0] - GAINED * found.fall


def test_no_rate_is_promising_where_the_loss_did_not_fall() -> None:
    rising = [5.0 + 0.1 * step for step in range(60)]
    assert swept(rising).promising is None
    assert swept([5.0] * 60).promising is None
    assert swept(rising).best == TEST.low


# --- sweeping --------------------------------------------------------------------------------


class Parabola:
    """What ``sweep_rates`` needs of a run: gradient descent on f(w) = 1 + a w^2 / 2 from w = 1."""

    def __init__(self, a: float, n_finite: float = math.inf) -> None:
        self.a, self.w, self.n, self.n_finite = a, 1.0, 0, n_finite
        self.config: Any = SimpleNamespace(
            training=SimpleNamespace(seed=0),
            model=SimpleNamespace(name="parabola"),
            optimizer=SimpleNamespace(name="sgd"),
        )
        self.model = SimpleNamespace(n_parameters=1)
        self.sizes = SimpleNamespace(n_time=1)
        self.batches = SimpleNamespace(n_sequences=1, fill=lambda step, tokens, targets: 1)
        self.team = SimpleNamespace(n=1)
        self.engine = SimpleNamespace(name="none")
        self.step = self
        self.lesson = SimpleNamespace(step=self._take)
        self.compiled = 0

    def compile(self) -> None:
        self.compiled += 1

    def compute_gradient(self, *arguments: Any) -> StepResult:
        self.n += 1
        loss = 1 + self.a * self.w**2 / 2 if self.n <= self.n_finite else math.nan
        return StepResult(loss, 0.0, abs(self.a * self.w), updated=False)

    def _take(self, number: int, rate: float) -> LessonStep:
        result = self.compute_gradient()
        self.w -= rate * self.a * self.w
        return LessonStep(result, 1, 1.0)


@given(st.floats(0.3, 1000))
def test_a_parabola_gives_a_rate_that_converges(a: float) -> None:
    """Descent on it diverges from 2 / a on."""
    run: Any = Parabola(a)
    found = sweep_rates(run, RangeTest(1e-6, 1e3, 180))
    assert found.ending == "blew up"
    assert found.promising is not None
    assert 0.003 < found.promising * a < 2
    assert found.rates[-1] * a > 2
    assert found.rates[-1] * a < 20
    assert run.compiled == 1


def test_the_sweep_ends_at_what_is_not_finite_and_at_the_highest_rate() -> None:
    broken: Any = Parabola(1.0, n_finite=30)
    found = sweep_rates(broken, TEST)
    assert (found.ending, len(found.rates), len(found.losses)) == ("not finite", 30, 31)
    assert Finding(found, 10).to_json()["losses"][-1] is None
    hopeless: Any = Parabola(1.0, n_finite=0)
    with pytest.raises(DivergedError, match="initial weights"):
        sweep_rates(hopeless, TEST)
    whole: Any = Parabola(0.1)
    found = sweep_rates(whole, TEST)
    assert (found.ending, len(found.rates), len(found.losses)) == ("highest rate", 141, 142)


def tiny(folder: Path, optimizer: str | dict[str, Any], **training: Any) -> Any:
    values = runs.settings(runs.write_text(folder), runs.MLP, **training)
    return runs.config_of({**values, "optimizer": optimizer})


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_swept_as_it_trains(name: str, tmp_path: Path) -> None:
    """The losses are those of steps taken by hand at these rates, whatever rate and schedule the
    configuration has."""
    config = tiny(tmp_path, {"name": name, "learning_rate": 0.123}, steps=3)
    test = RangeTest(1e-4, 1e-1, 24)
    heard: list[Event] = []
    pieces = build(config)
    try:
        found = sweep_rates(pieces, test, heard.append)
    finally:
        pieces.close()
    assert isinstance(heard[0], SweepStarted)
    assert [type(event) for event in heard[1:3]] == [Compiling, Compiling]
    tried = [event for event in heard if isinstance(event, RateTried)]
    assert [event.rate for event in tried] == found.rates
    pieces = build(config)
    try:
        tokens, targets = new_batch(pieces)
        for step in range(1, len(found.losses) + 1):
            n_targets = pieces.batches.fill(step - 1, tokens, targets)
            rate = test.rate(min(step, test.n_steps))
            result = pieces.step(tokens, targets, n_targets, rate, config.training.seed, step)
            assert result.loss == found.losses[step - 1], step
    finally:
        pieces.close()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "muon", "schedule-free-adamw"])
def test_a_real_model_gets_a_rate_that_trains_it(name: str, tmp_path: Path) -> None:
    config = tiny(tmp_path, name, clip_norm=None)
    pieces = build(config)
    try:
        found = sweep_rates(pieces, RangeTest(1e-5, 1e3, 150))
    finally:
        pieces.close()
    assert found.ending in ("blew up", "not finite")
    assert found.promising is not None
    ends = []
    for rate in (found.promising, found.promising / 1000):
        pieces = build(tiny(tmp_path, {"name": name, "learning_rate": rate}, clip_norm=None))
        try:
            tokens, targets = new_batch(pieces)
            for step in range(1, 61):
                n_targets = pieces.batches.fill(step - 1, tokens, targets)
                loss = pieces.step(tokens, targets, n_targets, rate, 3, step).loss
            ends.append(loss)
        finally:
            pieces.close()
    assert ends[0] < 0.9 * ends[1]


def test_a_sweep_can_be_stopped_between_two_steps() -> None:
    run: Any = Parabola(1.0)
    found = sweep_rates(run, TEST, should_stop=lambda: run.n == 7)
    assert (found.ending, len(found.losses)) == ("interrupted", 7)


# --- short runs ------------------------------------------------------------------------------


@given(
    centre=st.floats(-4, -1), start=st.floats(-4.5, -0.5), width=st.floats(0.3, 2),
    noise=st.floats(0, 0.01),
)  # fmt: skip
def test_the_search_ends_near_the_lowest_loss(
    centre: float, start: float, width: float, noise: float
) -> None:
    draw = np.random.default_rng(1)
    asked: dict[float, float] = {}

    def loss_at(rate: float) -> float:
        fallen = 3 * math.exp(-(((math.log10(rate) - centre) / width) ** 2))
        asked[rate] = 5.0 - fallen + noise * draw.standard_normal()
        return asked[rate]

    search(loss_at, 10**start, 1e-9, 1e3)
    assert len(asked) <= MOST_TRIALS
    if abs(start - centre) < 0.8:
        found = suggest(asked, 5.0)
        assert found is not None
        assert abs(math.log10(found) - centre) < 0.25 + noise * 20
    for rate in asked:
        assert sum(abs(math.log(rate / other)) < 0.3 for other in asked) == 1  # none asked twice


def test_the_search_stays_between_its_bounds() -> None:
    asked: list[float] = []

    def downhill(rate: float) -> float:
        asked.append(rate)
        return -rate

    search(downhill, 1e-3, 1e-5, 3e-3)
    assert max(asked) == pytest.approx(1e-3 * 2**1.5)
    asked.clear()
    search(lambda rate: -downhill(rate), 1e-3, 4e-4, 1.0)
    assert min(asked) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({1e-3: 4.0, 2e-3: 3.0, 4e-3: 3.5}, 2e-3),
        ({1e-3: 3.03, 2e-3: 3.0, 4e-3: 3.01, 8e-3: 3.9}, 2e-3),  # the middle of what is as good
        ({1e-3: 3.0, 2e-3: 3.01, 4e-3: 3.5}, 1e-3),  # the lower of two
        ({1e-3: 3.5, 2e-3: 4.5, 4e-3: 3.0}, 1e-3),  # not from beyond the first clear rise
        ({1e-3: 3.5, 2e-3: math.inf, 4e-3: 3.0}, 1e-3),
        ({1e-3: 4.99, 2e-3: 4.95, 4e-3: 4.98}, None),  # less than 2 % of 5
        ({1e-3: 6.0, 2e-3: 7.0}, None),
        ({1e-3: math.inf}, None),
        ({}, None),
    ],
)
def test_what_is_suggested(losses: dict[float, float], expected: float | None) -> None:
    assert suggest(losses, 5.0) == expected


@pytest.mark.parametrize("n_steps", [10, 40, 100])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "warmup-stable-decay", "one-cycle"])
def test_a_short_run_has_the_schedule_of_the_whole(
    schedule: str, n_steps: int, tmp_path: Path
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.MLP, steps=100)
    values["schedule"] = {"name": schedule} | (
        {} if schedule == "one-cycle" else {"warmup_steps": 20}
    )
    pieces = build(runs.config_of(values))
    try:
        whole = [pieces.schedule.factor(step, 100) for step in range(1, 101)]
        short = [squeezed_factor(pieces, step, n_steps) for step in range(1, n_steps + 1)]
    finally:
        pieces.close()
    if n_steps == 100:
        assert short == whole
    assert set(short) <= set(whole)
    assert short[-1] == whole[-1]
    assert max(short) == pytest.approx(max(whole), rel=0.1)
    assert short.index(max(short)) / n_steps == pytest.approx(
        whole.index(max(whole)) / 100, abs=0.11
    )


def test_a_trial_is_a_run_and_trials_differ_by_their_rate_alone(tmp_path: Path) -> None:
    """The losses are those of steps taken by hand from the initial weights."""
    config = tiny(tmp_path, "adamw", steps=20)
    heard: list[Event] = []
    found = find_rate(config, RangeTest(1e-4, 1e-1, 24), 150, heard.append)
    assert found.n_steps == 20  # a run has no more
    ended = [event for event in heard if isinstance(event, TrialDone)]
    assert {event.rate: event.loss for event in ended} == found.losses
    assert 3 <= len(ended) <= MOST_TRIALS
    for event in ended[:2]:
        steps = [s for s in heard if isinstance(s, TrialStep) and s.number == event.number]
        pieces = build(config)
        try:
            assert evaluated(pieces) == found.initial_loss
            tokens, targets = new_batch(pieces)
            for step in range(1, 21):
                n_targets = pieces.batches.fill(step - 1, tokens, targets)
                rate = event.rate * pieces.schedule.factor(step, 20)
                result = pieces.step(tokens, targets, n_targets, rate, config.training.seed, step)
                assert steps[step - 1].loss == result.loss
            assert evaluated(pieces) == event.loss
        finally:
            pieces.close()


def evaluated(pieces: Any) -> float:
    loss: float = pieces.lesson.evaluate(pieces.step.evaluation_params()).evaluation.loss
    return loss


def test_noise_is_not_taken_for_a_fall(tmp_path: Path) -> None:
    for seed in range(4):
        config = tiny(tmp_path, "adamw", steps=40, batch_size=1, seed=seed, data_seed=seed)
        found = find_rate(config, RangeTest(1e-9, 1e-7, 40), 30)
        assert found.suggested is None
        assert found.losses


def test_the_search_can_be_stopped_in_a_short_run(tmp_path: Path) -> None:
    heard: list[Event] = []

    def stop() -> bool:
        return sum(isinstance(event, TrialDone) for event in heard) == 2

    config = tiny(tmp_path, "adamw", steps=20)
    found = find_rate(config, RangeTest(1e-4, 1e-1, 24), 20, heard.append, stop)
    assert found.interrupted
    assert len(found.losses) == 2


# --- the command -----------------------------------------------------------------------------

Shown = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a text and ``config.yaml``."""
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    values = runs.settings(runs.write_text(tmp_path, 1500), runs.MLP, eval_interval=10)
    return runs.write_config(tmp_path, values)


def files_of(folder: Path) -> set[str]:
    return {name for name in runs.snapshot(folder) if not name.startswith("cache")}


def test_the_command_suggests_a_rate_that_can_be_pasted(
    config: Path, tmp_path: Path, capsys: Shown
) -> None:
    before = files_of(tmp_path)
    sets = ["--set", "model.n_hidden=16", "--set", "optimizer.learning_rate=0.5"]
    assert main(["lr-find", "config.yaml", *sets, "--steps", "120"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0].startswith("mlp with 973 parameters, adamw, 2 workers, ")
    assert lines[1] == "120 learning rates from 1e-6 to 10, one step of 48 tokens each"
    assert sum(line.startswith("short run 1: 12 steps at ") for line in lines) == 1
    assert sum(line.startswith("step ") for line in lines) <= 20
    facts = dict(line.split(": ", 1) for line in lines[2:] if ": " in line)
    folder = Path("runs") / "lr-find-config"
    assert files_of(tmp_path) - before == {
        "runs", str(folder), str(folder / "lr-find.png"), str(folder / "lr-find.json")
    }  # fmt: skip
    assert facts["plot"] == str(folder / "lr-find.png")
    assert (folder / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "lr-find.json").read_text(encoding="utf-8"))
    rate = wording.rate(found["suggested_rate"])
    assert facts["Suggested learning rate"] == rate
    assert facts["as configured"] == "0.5"
    assert found["config"]["model"]["n_hidden"] == 16
    command = facts["train with it"]
    assert command.endswith(f"--set optimizer.learning_rate={rate}")
    assert command.count("learning_rate") == 1
    assert main([*shlex.split(command)[1:], "--quiet", "--out", "trained"]) == 0
    trained = resolve(Path("trained") / "config.yaml").config
    assert trained.optimizer.config.learning_rate == float(rate)
    assert trained.model.config.n_hidden == 16


def test_a_second_sweep_has_a_folder_of_its_own_and_the_same_numbers(
    config: Path, capsys: Shown
) -> None:
    arguments = ["lr-find", "config.yaml", "--steps", "90", "--low", "1e-4", "--json"]
    first, second = (run_json(arguments, capsys) for _ in range(2))
    assert first.pop("files")["numbers"] == str(Path("runs") / "lr-find-config" / "lr-find.json")
    assert second.pop("files")["numbers"] == str(Path("runs") / "lr-find-config-2" / "lr-find.json")
    assert first == second
    assert (first["low"], first["n_steps"]) == (1e-4, 90)
    assert len(first["rates"]) == len(first["losses"]) == len(first["smoothed_losses"])
    assert first["suggested_rate"] in [trial["rate"] for trial in first["trials"]]
    assert first["trial_steps"] == 12


def run_json(arguments: list[str], capsys: Shown) -> dict[str, Any]:
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert (shown.err, shown.out.count("\n")) == ("", 1)
    found: dict[str, Any] = json.loads(shown.out)
    return found


def test_a_text_alone_will_do_and_quiet_is_one_line(config: Path, capsys: Shown) -> None:
    small = ["--set", "model.n_embd=16", "--set", "model.n_head=2", "--set", "model.n_layer=1"]
    arguments = ["lr-find", "text.txt", *small, "--steps", "60", "--quiet", "--out", "found"]
    assert main(arguments) == 0
    line = capsys.readouterr().out
    assert line.startswith("Suggested learning rate: ")
    assert "(--set optimizer.learning_rate=" in line
    assert line.endswith("; found\n")
    assert line.count("\n") == 1
    other = ["lr-find", "config.yaml", "--text", "text.txt", "--steps", "20", "--quiet"]
    assert main([*other, "--out", "more"]) in (0, 1)
    saved = json.loads((Path("more") / "lr-find.json").read_text(encoding="utf-8"))
    assert saved["config"]["data"]["text"] == [str(Path("text.txt").absolute())]


def test_no_fall_is_no_suggestion_and_exit_code_1(config: Path, capsys: Shown) -> None:
    arguments = ["lr-find", "config.yaml", "--steps", "20", "--low", "1e-9", "--high", "1e-8"]
    assert main([*arguments, "--out", "flat"]) == 1
    shown = capsys.readouterr()
    assert "No learning rate is suggested: the loss did not fall." in shown.out
    assert "train with it" not in shown.out
    assert "try: a --high above 1e-8, or a --low below 1e-9" in shown.out
    assert main([*arguments, "--out", "flat2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["suggested_rate"] is None
    assert (Path("flat") / "lr-find.png").exists()


def test_the_highest_rate_is_said_to_be_too_low(config: Path, capsys: Shown) -> None:
    arguments = ["lr-find", "config.yaml", "--steps", "90", "--high", "1e-2", "--out", "low"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "the highest rate that was tried is the best; --high 0.1 tries more" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config.yaml", "--low", "1", "--high", "0.1"], "need two above 0, rising"),
        (["config.yaml", "--low", "0"], "need two above 0, rising"),
        (["config.yaml", "--steps", "3"], "3"),
        (["config.yaml", "--set", "optimizer.name=lyon"], "did you mean 'lion'?"),
        (["config.yaml", "--quiet", "--json"], "exclude each other"),
        (["config.yaml", "--out", "full"], "full is not empty; choose another folder with --out"),
        (["config.yaml", "--out", "text.txt"], "text.txt is a file; choose another folder"),
        (["config.yaml", "--out", "text.txt/below"], "text.txt is a file; choose another folder"),
        (["full"], "full is a folder; name a CONFIG.yaml or a text"),
        (["none.yaml"], "none.yaml"),
        (["config.yaml", "text.txt"], "not both"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_made(
    arguments: list[str], words: str, config: Path, tmp_path: Path, capsys: Shown
) -> None:
    Path("full").mkdir()
    (Path("full") / "file").write_text("x", encoding="utf-8")
    before = files_of(tmp_path)
    assert main(["lr-find", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    assert words in shown.err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("writer", ["write_bytes", "write_json"])
def test_a_full_disk_keeps_the_suggestion_and_leaves_nothing(
    writer: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(lr_find_folder, writer, full)
    before = files_of(tmp_path)
    assert main(["lr-find", "config.yaml", "--steps", "80", "--out", "deep/down"]) == 2
    shown = capsys.readouterr()
    assert "Suggested learning rate: " in shown.out
    assert "plot" not in shown.out
    assert "No space left on device; free some space" in shown.err
    assert files_of(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_is_clean(config: Path, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    process = runs.process(
        "lr-find", "config.yaml", "--steps", "10000", "--high", "1e-5", "--out", "found"
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("stopped after ")
    assert errors.endswith("of 10,000 rates; nothing is kept\n")
    assert files_of(tmp_path) == before


def test_stopped_in_a_short_run_it_says_how_far_it_was(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    stopped = Finding(swept(valley(1e-2)), 150, {1e-3: 2.0, 2e-3: 1.9}, 3.0, interrupted=True)
    monkeypatch.setattr(lr_trials, "find_rate", lambda *arguments: stopped)
    before = files_of(tmp_path)
    assert main(["lr-find", "config.yaml", "--quiet"]) == 130
    shown = capsys.readouterr()
    assert shown.err == "stopped after the sweep and 2 short runs; nothing is kept\n"
    assert (shown.out, files_of(tmp_path)) == ("", before)


# --- the screen ------------------------------------------------------------------------------


def screen_of(width: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(
        file=file, force_terminal=True, width=width, height=30, color_system=None,
        legacy_windows=False,
    ), file  # fmt: skip


def events() -> list[Event]:
    losses = valley(1e-2)
    found = swept(losses)
    tried = [
        RateTried(n, rate, losses[n], found.smoothed[n], 4.0, found.best)
        for n, rate in enumerate(found.rates, 1)
    ]
    started = SweepStarted("gpt2", 1_213_440, "adamw", TEST, 768, 2, "tiled")
    trial = [TrialStep(1, 4e-3, step, 30, 5.0) for step in range(1, 31)]
    ended = [TrialDone(1, 4e-3, 30, 4.5), TrialDone(2, 8e-3, 30, math.inf)]
    return [started, Compiling("kernels of gpt2", True, 0.2, True), *tried, *trial, *ended]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_screen_fits_its_width_and_shows_the_curve(width: int, tmp_path: Path) -> None:
    console, file = screen_of(width)
    screen = lr_find_display.SweepScreen(console, clock=iter(range(10**6)).__next__)
    shown = now = io.StringIO()
    with screen:
        for event in events():
            screen(event)
            drawn: Any = None
            if isinstance(event, RateTried):
                drawn = screen.render(event)
            elif isinstance(event, TrialStep):
                drawn = screen.render_trial(event)
            if drawn is not None:
                now = io.StringIO()
                Console(file=now, width=width, color_system=None).print(drawn)
                assert all(len(line) <= width for line in now.getvalue().splitlines())
                shown = now if isinstance(event, RateTried) else shown
    text = shown.getvalue()
    for words in ("short run      1", "learning rate  4e-3", "loss           5.0000", "100 %"):
        assert words in now.getvalue()
    assert "short run 1: 30 steps at 4e-3, validation loss 4.5000" in " ".join(
        line.strip() for line in file.getvalue().splitlines()
    )
    for words in ("learning rate  10", "lowest", "4.0000 at", "100 %", "█", "▁"):
        assert words in text
    hidden, restored = file.getvalue().rfind("\x1b[?25l"), file.getvalue().rfind("\x1b[?25h")
    assert -1 < hidden < restored


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_end_shows_curve_scale_and_command(width: int, tmp_path: Path) -> None:
    console, file = screen_of(width)
    config = tiny(tmp_path, "adamw")
    command = ["bptool", "train", "a b.txt"]
    wanted = Request(config, TEST, 150, SweepFolder(Path("runs") / "x"), command)
    losses = {2e-3: 4.6, 4e-3: 4.2, 8e-3: 5.1, 1.6e-2: math.inf}
    found = Finding(swept(valley(1e-2)), 150, losses, 7.0)
    files = {"plot": wanted.folder.plot}
    lr_find_display.print_finding(console, wanted, found, files, quiet=False)
    lines = file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert found.suggested is not None
    rate = wording.rate(found.suggested)
    joined = " ".join(file.getvalue().split())
    assert f"Suggested learning rate: {rate}" in joined
    curve = next(i for i, line in enumerate(lines) if "▁" in line)
    assert lines[curve + 1].split() == ["1e-6", "^", rate, "10"]
    assert "2e-3 (4.6000), 4e-3 (4.2000), 8e-3 (5.1000), 0.016 (diverged)" in joined
    if width > 80:
        assert f"bptool train 'a b.txt' --set optimizer.learning_rate={rate}" in joined


def test_plain_lines_are_few(tmp_path: Path) -> None:
    file = io.StringIO()
    lines = lr_find_display.listener_for(Console(file=file, width=20))
    with lines:
        for event in events():
            lines(event)
    written = file.getvalue().splitlines()
    assert len([line for line in written if line.startswith("step ")]) == 20
    assert written[-3].startswith("step 140 of 141: learning rate 8.9, loss ")
    assert written[-2:] == [
        "short run 1: 30 steps at 4e-3, validation loss 4.5000",
        "short run 2: 30 steps at 8e-3, it diverged",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-6, "1e-6"), (2.41e-4, "2.4e-4"), (0.00996, "0.01"), (0.0123, "0.012"), (0.16, "0.16"),
        (1.0, "1"), (12.3, "12"), (9.96e-4, "1e-3"), (123.0, "120"), (54321.0, "5.4e4"),
    ],
)  # fmt: skip
def test_rates_are_written_as_one_types_them(number: float, text: str) -> None:
    assert wording.rate(number) == text
    assert float(text) == pytest.approx(number, rel=0.05)
