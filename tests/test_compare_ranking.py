"""Ranking, results file, plot and displays, on outcomes made up here."""

from __future__ import annotations

import json
import math
import statistics
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bptool.cli.comparison_display import StudyLines, StudyScreen, render
from bptool.cli.comparison_progress import StudyProgress
from bptool.cli.comparison_report import final_loss, loss, result_table
from bptool.comparison.events import StudyStarted, TrialFinished, TrialStarted, TrialStep
from bptool.comparison.plot import plot_losses
from bptool.comparison.ranking import rank, spread
from bptool.comparison.results import ResultsFolder
from bptool.comparison.trial import Outcome, Point, Trial
from bptool.config.load import resolve
from bptool.errors import RunError
from bptool.training.events import Compiling

STEPS = 4


def make(name: str, seed: int, final: float, climbed: float | None = None) -> Outcome:
    """An outcome with that final loss; it diverged if the loss is infinite."""
    overrides = {
        "model": "mlp",
        "data": {"text": ["book.txt"]},
        "training": {"steps": STEPS, "batch_size": 1, "seed": seed},
        "optimizer": {"name": name, "learning_rate": 0.5},
    }
    diverged = math.isinf(final)
    last = math.nan if diverged else final
    return Outcome(
        trial=Trial(resolve(None, overrides=overrides).config),
        status="diverged" if diverged else "completed",
        steps=STEPS,
        skipped=3 if diverged else 0,
        curve=(
            Point(0, math.nan, 4.0, 0.0),
            Point(2, 3.9, climbed or 3.8, 0.1),
            Point(4, 3.8, last, 0.2),
        ),
        final_loss=final,
        best_loss=3.8 if diverged else min(final, 3.8),
        best_step=2,
        seconds=0.5,
        step_seconds=0.01 * (seed + 1),
        state_bytes=1024,
        weights_sha256="00",
        batches_sha256="11",
    )


def test_optimizers_are_ranked_by_their_mean_and_diverged_ones_last() -> None:
    outcomes = [
        *(make("momentum", 0, math.inf), make("momentum", 1, math.inf)),
        *(make("sgd", 0, math.inf), make("sgd", 1, 1.0)),
        *(make("adam", 0, 3.0), make("adam", 1, 2.0)),
        *(make("adamw", 0, 2.4), make("adamw", 1, 2.5)),
    ]
    rows = rank(outcomes)
    assert [row.optimizer for row in rows] == ["adamw", "adam", "sgd", "momentum"]
    assert [final_loss(row) for row in rows] == [
        "2.4500 ± 0.0707",
        "2.5000 ± 0.7071",
        "diverged, 1 of 2",
        "diverged, 2 of 2",
    ]
    assert rows[2].final is None
    assert rows[2].best is None
    assert rows[0].step_seconds == pytest.approx(0.015)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_spread_is_the_sample_standard_deviation(values: list[float]) -> None:
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    if len(values) == 1:
        assert math.isnan(found.deviation)
        assert "±" not in loss(found)
    else:
        assert found.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_a_huge_loss_is_written_with_an_exponent() -> None:
    assert loss(spread([12345678.0, 12345678.0])) == "1.235e+07 ± 0.0000"
    assert loss(None) == "-"


def test_the_table_fits_a_narrow_terminal() -> None:
    outcomes = [make(name, k, 2.0 + k) for name in ("sgd", "momentum") for k in range(2)]
    outcomes += [make("rmsprop", k, math.inf) for k in range(2)]
    console = Console(file=StringIO(), width=80, color_system=None)
    console.print(result_table(rank(outcomes)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert "1.02 kB" in text
    assert "2.5000 ± 0.7071" in text


def test_results_are_whole_lines_without_nan(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "study")
    outcomes = [make("sgd", 0, math.inf), make("adam", 0, 2.0)]
    folder.create([outcome.trial for outcome in outcomes], {"versions": {"bptool": "1"}})
    for outcome in outcomes:
        folder.add(outcome)
    text = folder.results.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    header, sgd, adam = map(json.loads, text.splitlines())
    assert header["format_version"] == 1
    assert header["versions"] == {"bptool": "1"}
    assert (sgd["status"], sgd["final_loss"], sgd["curve"][-1]["val_loss"]) == (
        "diverged",
        None,
        None,
    )
    assert adam["final_loss"] == 2.0
    assert adam["config"] == outcomes[1].trial.config.model_dump(mode="json")
    for outcome in outcomes:
        saved = resolve(folder.trials / f"{outcome.trial.name}.yaml").config
        assert saved == outcome.trial.config


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot write the results in .*; choose another folder"):
        ResultsFolder(tmp_path / "file" / "study").create([], {})


@pytest.mark.parametrize(
    "outcomes",
    [
        [make("sgd", 0, 2.0)],
        [make("sgd", 0, math.inf), make("sgd", 1, 2.0), make("adam", 0, 2.0), make("adam", 1, 3.0)],
        [make("sgd", 0, 1e20, climbed=1e30), make("adam", 0, 3.0)],
        [make("sgd", 0, math.inf)],
    ],
    ids=["one seed", "some diverged", "a huge loss", "nothing else"],
)
def test_every_study_can_be_drawn(tmp_path: Path, outcomes: list[Outcome]) -> None:
    path = tmp_path / "losses.png"
    plot_losses(rank(outcomes), outcomes, path, "a study")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["losses.png"]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def started(outcomes: list[Outcome]) -> StudyStarted:
    return StudyStarted(tuple(o.trial for o in outcomes), 1000, 5000, 500, 64, 1, "blas")


def test_the_time_left_follows_from_the_steps_so_far() -> None:
    outcomes = [make("sgd", 0, math.inf), make("adam", 0, 2.0), make("adam", 1, 3.0)]
    clock = Clock()
    progress = StudyProgress(clock)
    progress.observe(started(outcomes))
    assert math.isnan(progress.seconds_left)
    progress.observe(TrialStarted(1, outcomes[0].trial))
    progress.observe(Compiling("kernels", done=False))
    clock.now += 60.0
    progress.observe(Compiling("kernels", done=True, seconds=60.0))
    for step in (1, 2):
        clock.now += 3.0
        progress.observe(TrialStep(step, math.nan))
    assert progress.seconds_left == pytest.approx((2 + 4 + 4) * 3.0)
    # It diverged there: the steps it left out are no longer to do.
    progress.observe(TrialFinished(outcomes[0]))
    assert progress.share == pytest.approx(1 / 3)
    assert progress.seconds_left == pytest.approx(8 * 3.0)


def test_the_live_display_says_what_runs_and_what_is_done() -> None:
    outcomes = [make("adam", 0, 2.0), make("sgd", 0, math.inf)]
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    with StudyScreen(console, Clock()) as screen:
        screen(started(outcomes))
        screen(TrialStarted(1, outcomes[0].trial))
        screen(Compiling("kernels", done=False))
        assert "getting its kernels ready" in shown(screen)
        screen(Compiling("kernels", done=True, cached=True))
        screen(TrialStep(1, 3.5))
        assert "0 of 2 trials done  running adam, seed 0: step 1 of 4" in shown(screen)
        assert "training loss 3.5000" in shown(screen)
        screen(TrialFinished(outcomes[0]))
        assert "lowest so far: adam, mean 2.0000" in shown(screen)
        assert "50 %" in shown(screen)
        screen(TrialFinished(outcomes[1]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trial 1 of 2: adam, seed 0: validation loss 2.0000" in text
    assert "trial 2 of 2: sgd, seed 0: diverged at step 4" in text


def shown(screen: StudyLines) -> str:
    console = Console(file=StringIO(), width=90, color_system=None)
    console.print(render(screen.progress))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_median_of_an_odd_number_of_trials_is_its_middle_one() -> None:
    (row,) = rank([make("sgd", k, 2.0) for k in range(3)])
    assert row.step_seconds == statistics.median([0.01, 0.02, 0.03])
