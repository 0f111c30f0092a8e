"""Statistics and analysis of a study, on records made up here, against scipy and by hand."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from rich.console import Console
from scipy import stats

from bptool.cli.comparison_report import profile_table, result_table
from bptool.comparison.analysis import Analysis, Profile, analyse, expected_best_of, steps_to
from bptool.comparison.html_report import write_report
from bptool.comparison.inference import (
    POWER,
    compare,
    mean_interval,
    require_power_to_reject,
    sidak_level,
    sidak_p,
)
from bptool.comparison.json_report import plain
from bptool.comparison.markdown_report import write_tables
from bptool.comparison.plan import Plan, Workload, make_plan, make_trial, rate_source
from bptool.comparison.plots import COLOURS, figures, plot_all, styles_of
from bptool.comparison.records import Point, Record, Timing
from bptool.comparison.settings import LEARNING_RATES
from bptool.comparison.spaces import at_edge
from bptool.comparison.terms import explanations, rules
from bptool.comparison.widened import write_widened
from bptool.comparison.wording import cells, columns, profile_cells, remarks
from bptool.config.load import read_study, resolve
from bptool.config.study_section import RangeConfig, StudyConfig
from bptool.errors import ConfigError

LOSS = st.floats(0.5, 5.0)
SOME = st.lists(st.tuples(LOSS, LOSS), min_size=3, max_size=12)


@given(st.lists(LOSS, min_size=2, max_size=20), st.sampled_from([0.05, 0.01]))
def test_a_mean_has_scipys_interval(values: list[float], alpha: float) -> None:
    found = mean_interval(values, alpha)
    assert found.mean == pytest.approx(statistics.fmean(values))
    if np.ptp(values) > 1e-6:
        low, high = stats.t.interval(
            1 - alpha, len(values) - 1, statistics.fmean(values), stats.sem(values)
        )
        assert (found.low, found.high) == pytest.approx((low, high))


@given(SOME, st.integers(1, 12))
def test_a_corrected_p_value_and_its_interval_agree(
    pairs: list[tuple[float, float]], m: int
) -> None:
    values, reference = map(list, zip(*pairs, strict=True))
    spread = np.ptp(np.subtract(values, reference))
    if spread < 1e-6:
        return
    found = compare(values, reference, m=m, alpha=0.05, margin=0.01)
    assert found.p == pytest.approx(1 - (1 - stats.ttest_rel(values, reference).pvalue) ** m)
    outside = found.interval.low > 0 or found.interval.high < 0
    if abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == outside == (found.verdict in ("better", "worse"))
        assert (found.verdict == "better") == (found.interval.high < 0)


def test_sidak_makes_the_family_exact_for_independent_tests() -> None:
    level = sidak_level(0.05, 7)
    assert 1 - (1 - level) ** 7 == pytest.approx(0.05)
    assert sidak_p(level, 7) == pytest.approx(0.05)
    assert sidak_p(1.0, 3) == 1.0


def test_the_detectable_difference_is_detected_so_often() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=5)
    found = compare(base.tolist(), [0.0] * 5, m=3, alpha=0.05, margin=0.01)
    size = found.detectable / base.std(ddof=1)
    draws = rng.normal(loc=size, size=(20_000, 5))
    p = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    assert np.mean(p < sidak_level(0.05, 3)) == pytest.approx(POWER, abs=0.015)


def test_verdicts() -> None:
    reference = [2.0, 2.1, 2.2, 2.3, 2.4]
    noise = [0.001, -0.001, 0.0005, -0.0005, 0.0002]

    def verdict(shift: float, scale: float = 1.0) -> tuple[str, bool]:
        values = [x + shift + scale * e for x, e in zip(reference, noise, strict=True)]
        found = compare(values, reference, m=1, alpha=0.05, margin=0.02)
        return found.verdict, found.equivalent

    assert verdict(0.1) == ("worse", False)
    assert verdict(-0.1) == ("better", False)
    assert verdict(0.0) == ("tie", True)
    assert verdict(0.0, 100.0) == ("tie", False)
    assert verdict(0.01) == ("worse", True)
    assert verdict(0.0, 0.0) == ("identical", True)
    alone = compare([2.0], [2.5], m=1, alpha=0.05, margin=0.02)
    assert alone.verdict == "unknown"
    assert math.isnan(alone.p)
    # A difference without spread is no tie.
    exact = compare([2.5, 3.5, 4.5], [2.0, 3.0, 4.0], m=4, alpha=0.05, margin=0.02)
    assert (exact.verdict, exact.p) == ("worse", 0.0)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_signed_rank_interval_holds_what_its_test_does_not_reject(alpha: float) -> None:
    values = np.random.default_rng(3).normal(0.3, 1.0, size=9)
    found = compare(values.tolist(), [0.0] * 9, m=1, alpha=alpha, margin=0.1, test="wilcoxon")
    for shift in np.linspace(-2, 2, 41):
        rejected = stats.wilcoxon(values - shift).pvalue < alpha
        assert rejected == (not found.interval.low <= shift <= found.interval.high)
    assert found.p == pytest.approx(stats.wilcoxon(values).pvalue)


def test_a_test_that_cannot_reject_names_enough_seeds() -> None:
    require_power_to_reject("paired-t", 2, 20, 0.05)
    require_power_to_reject("wilcoxon", 6, 1, 0.05)
    with pytest.raises(ConfigError, match=r"final\.seeds: 9"):
        require_power_to_reject("wilcoxon", 8, 7, 0.05)
    require_power_to_reject("wilcoxon", 9, 7, 0.05)


@given(st.lists(st.one_of(LOSS, st.just(math.inf)), min_size=1, max_size=8))
def test_the_expected_best_is_the_mean_over_all_draws(losses: list[float]) -> None:
    for k, found in enumerate(expected_best_of(losses), 1):
        draws = [min(draw) for draw in itertools.combinations(losses, k)]
        assert found == pytest.approx(sum(draws) / len(draws))


def plan_of(optimizers: list[str], n_workloads: int = 1, **values: Any) -> Plan:
    names = [f"w{i}" for i in range(n_workloads)]
    study = StudyConfig.model_validate(
        {
            "workloads": [{"config": f"{name}.yaml"} for name in names],
            "optimizers": optimizers,
            "final": {"seeds": 3},
            **values,
        }
    )
    config = resolve(
        None,
        overrides={
            "model": "mlp",
            "data": {"text": ["book.txt"]},
            "training": {"steps": 4, "batch_size": 1},
        },
    ).config
    return make_plan(study, [Workload(name, config) for name in names])


def records_of(plan: Plan, name: str, losses: list[float], workload: int = 0) -> list[Record]:
    """Final runs of an optimizer's first candidate; an infinite loss is a diverged run."""
    found = []
    for k, loss in enumerate(losses):
        trial = make_trial(plan, "final", plan.workloads[workload], name, 0, k)
        found.append(made(trial, loss))
    return found


def made(trial: Any, loss: float) -> Record:
    curve = (Point(0, math.nan, 4.0, 0.0), Point(2, 3.9, (4.0 + min(loss, 5)) / 2, 0.1))
    last = loss if math.isfinite(loss) else math.nan
    return Record(
        name=trial.name,
        phase=trial.phase,
        workload=trial.workload,
        optimizer=trial.optimizer,
        number=trial.number,
        settings=trial.config.optimizer.dump(),
        seed=trial.seed,
        status="completed" if math.isfinite(loss) else "diverged",
        curve=(*curve, Point(4, 3.0, last, 0.2)),
        final_loss=loss,
        best_loss=min(loss, 4.0),
        state_bytes=1024,
        tokens_per_step=64,
    )


def test_diverged_optimizers_are_ranked_last_without_an_interval() -> None:
    plan = plan_of(["sgd", "adamw", "adam", "momentum"])
    records = [
        *records_of(plan, "sgd", [1.0, math.inf, 1.0]),
        *records_of(plan, "momentum", [math.inf] * 3),
        *records_of(plan, "adam", [2.0, 2.1, 2.2]),
        *records_of(plan, "adamw", [1.9, 2.05, 2.12]),
    ]
    (table,) = analyse(plan, records, [Timing("w0", "adam", 0.5)]).tables
    assert [row.optimizer for row in table.rows] == ["adamw", "adam", "sgd", "momentum"]
    drawn = [cells(row, table) for row in table.rows]
    assert drawn[2]["final loss"] == "1 of 3 diverged"
    assert drawn[3]["final loss"] == "3 of 3 diverged"
    assert drawn[2]["difference"] == "-"
    assert table.rows[2].difference is None
    # The target is what the reference reaches with every seed; adam's median run misses it not.
    assert table.target == 2.12
    assert drawn[0]["verdict"] == "reference"
    assert (drawn[1]["steps"], drawn[1]["tokens"], drawn[1]["seconds"]) == (
        "4",
        "256",
        "2",
    )
    assert drawn[3]["steps"] == "never"
    assert table.rows[1].n_reached == 2
    assert table.margin == pytest.approx(0.01 * statistics.fmean([1.9, 2.05, 2.12]))


def test_a_diverged_reference_leaves_nothing_to_compare_with() -> None:
    plan = plan_of(["adamw", "sgd"])
    records = records_of(plan, "adamw", [2.0, math.inf, 2.0])
    (table,) = analyse(plan, [*records, *records_of(plan, "sgd", [2.0] * 3)]).tables
    assert table.row("sgd").difference is None
    assert math.isnan(table.target)
    assert cells(table.row("sgd"), table)["steps"] == "-"


def test_misses_are_infinite_and_enter_the_median() -> None:
    curve = (Point(0, 4.0, 4.0, 0.0), Point(5, 3.0, 3.0, 1.0), Point(9, 2.0, 3.5, 2.0))
    assert steps_to(curve, 3.0) == 5
    assert steps_to(curve, 2.9) == math.inf
    plan = plan_of(["adamw", "sgd"])
    records = [
        *records_of(plan, "adamw", [2.0, 2.0, 2.0]),
        *records_of(plan, "sgd", [3.0, 1.0, 3.0]),
    ]
    (table,) = analyse(plan, records).tables
    assert table.row("sgd").steps_to_target == math.inf
    assert table.row("sgd").n_reached == 1


def tuned(
    losses: dict[str, list[float]],
    finals: dict[str, list[float]],
    bigram_losses: dict[str, float] | None = None,
) -> tuple[Plan, Any]:
    n = len(next(iter(losses.values())))
    plan = plan_of(list(losses), ruleset="tuned", tuning={"trials": n})
    (workload,) = plan.workloads
    records = []
    for name, tried in losses.items():
        for number, loss in enumerate(tried):
            records.append(made(make_trial(plan, "tuning", workload, name, number, 0), loss))
        best = min(range(n), key=tried.__getitem__)
        for k, loss in enumerate(finals.get(name, [])):
            records.append(made(make_trial(plan, "final", workload, name, best, k), loss))
    return plan, analyse(plan, records, bigram_losses=bigram_losses or {})


def test_tuning_counts_divergence_and_measures_sensitivity() -> None:
    plan, found = tuned(
        {"adamw": [3.0, 2.0, math.inf, 9.0], "sgd": [math.inf] * 4},
        {"adamw": [2.0, 2.1, 2.2]},
    )
    (table,) = found.tables
    tuning = table.row("adamw").tuning
    assert tuning.n_diverged == 1
    # Relative to the least, 2, with losses above the initial 4 taken as 4.
    assert tuning.sensitivity == pytest.approx((1 + 0 + 2 + 2) / 4)
    assert tuning.best_of[-1] == 2.0
    assert tuning.best_of[0] == math.inf
    drawn = cells(table.row("adamw"), table)
    assert (drawn["runs"], drawn["diverged"], drawn["sensitivity"]) == ("4", "25 %", "1.250")
    assert (drawn["best of 1"], drawn["best of 4"]) == ("∞", "2.0000")
    assert cells(table.row("sgd"), table)["final loss"] == "all candidates diverged"
    assert table.rows[-1].optimizer == "sgd"
    assert table.row("adamw").settings["learning_rate"] == pytest.approx(
        plan.candidates["w0"]["adamw"][1]["learning_rate"]
    )


def test_a_general_rule_that_loses_is_called_under_tuned() -> None:
    losses = {"adamw": [2.0, 3.0], "sgd": [1.5, 3.0]}
    _, found = tuned(losses, {"adamw": [2.0, 2.01, 2.02], "sgd": [1.5, 1.52, 1.51]})
    assert any("adamw is under-tuned: it loses to sgd" in note for note in found.tables[0].notes)
    _, found = tuned(losses, {"adamw": [2.0, 2.01, 2.02], "sgd": [2.0, 2.02, 2.01]})
    assert not any("under-tuned" in note for note in found.tables[0].notes)


def test_the_best_at_an_edge_is_named_and_a_study_over_wider_ranges_offered(
    tmp_path: Path,
) -> None:
    plan = plan_of(["adamw", "sgd"], ruleset="tuned", tuning={"trials": 30})

    def searched(sgd: Any) -> Analysis:
        """Where adamw's best lies inside, and sgd's is the candidate with the rate ``sgd``."""
        tried = {}
        for name, settings in plan.candidates["w0"].items():
            rates = [s["learning_rate"] for s in settings]
            inside = next(s for s in settings if not at_edge(name, plan.space(name), s))
            best = sgd(rates) if name == "sgd" else inside["learning_rate"]
            tried[name] = [1.0 if rate == best else 2.0 for rate in rates]
        return tuned(tried, {"adamw": [1.0] * 3, "sgd": [1.0] * 3})[1]

    found = searched(max)
    (note,) = found.tables[0].notes
    assert note.startswith("sgd: best at the edge of its search space: learning_rate 2.")
    assert note.endswith("of 0.01 to 3 (next: 0.01 to 30)")
    path = write_widened(tmp_path, plan, found)
    assert path is not None
    file = read_study(path)
    assert file.config.spaces == {"sgd": {"learning_rate": RangeConfig(low=0.01, high=30)}}
    (workload,) = file.config.workloads
    assert resolve(workload.config).config == plan.workloads[0].config
    same = {"workloads": plan.study.workloads, "spaces": {}}
    assert file.config.model_copy(update=same) == plan.study
    # Where nothing lies at an edge nothing is offered, and no old offer stays.
    found = searched(lambda rates: sorted(rates)[15])
    assert found.tables[0].notes == ()
    assert write_widened(tmp_path, plan, found) is None
    assert not path.exists()


def test_a_profile_is_the_share_of_workloads_within_a_ratio() -> None:
    plan = plan_of(["adamw", "sgd"], n_workloads=2)
    records = []
    for workload, sgd in ((0, [1.0] * 3), (1, [9.0] * 3)):
        records += records_of(plan, "adamw", [2.0] * 3, workload)
        records += records_of(plan, "sgd", sgd, workload)
    profiles = {p.optimizer: p.ratios for p in analyse(plan, records).profiles}
    # On the first workload sgd is there at step 4 as adamw is; on the second never.
    assert profiles == {"adamw": (1.0, 1.0), "sgd": (1.0, math.inf)}


def every_kind() -> tuple[Plan, Analysis]:
    plan = plan_of(
        ["adamw", "sgd", "adam", "momentum"], 2, ruleset="tuned", tuning={"trials": 3}
    )  # fmt: skip
    records = []
    for workload in plan.workloads:
        for name, base in (("adamw", 2.0), ("sgd", 3.0), ("adam", 1e6), ("momentum", math.inf)):
            for number in range(3):
                trial = make_trial(plan, "tuning", workload, name, number, 0)
                records.append(made(trial, base + number))
            for k in range(3 if math.isfinite(base) else 0):
                trial = make_trial(plan, "final", workload, name, 0, k)
                records.append(made(trial, math.inf if (name, k) == ("sgd", 1) else base + k / 9))
    return plan, analyse(plan, records, [Timing("w0", "adamw", 0.01)])


def test_the_page_holds_everything_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    plan, found = every_kind()
    plots = plot_all(found, tmp_path)
    kinds = {path.name.partition("-")[0].removesuffix(".png") for path in plots.values()}
    assert kinds == {"curves", "differences", "target", "sensitivity", "tuning", "profile"}
    for path in plots.values():
        assert path.read_bytes().startswith(b"\x89PNG")
    about = {"manifests": {w.name: {"engine": "<tiled>"} for w in plan.workloads}}
    write_report(tmp_path / "report.html", "A <study>", plan, about, found, plots)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(plots)
    assert "//" not in page.replace("base64,", "").split("<body>")[0]
    for wanted in ("<h1>A &lt;study&gt;", "&lt;tiled&gt;", "1 of 3 diverged", "Search spaces"):
        assert wanted in page
    for address in ("http:", "https:", "<script", "<link", "url("):
        assert address not in page


def test_a_study_of_nothing_but_divergence_can_be_drawn(tmp_path: Path) -> None:
    plan = plan_of(["adamw", "sgd"])
    records = [*records_of(plan, "adamw", [math.inf] * 3), *records_of(plan, "sgd", [math.inf])]
    assert plot_all(analyse(plan, records), tmp_path)
    assert plot_all(analyse(plan, []), tmp_path) == {}


def test_the_tables_fit_a_terminal() -> None:
    plan, found = every_kind()
    (table, _) = found.tables
    console = Console(file=StringIO(), width=80, color_system=None)
    for title, names in columns(table, plan).items():
        grid = result_table(table, title, names)
        assert console.measure(grid).minimum <= 80
        console.print(grid)
    console.print(profile_table(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert text.count("momentum") == 4
    assert "of 3" in text
    assert "1 of 3 diverged" in text


def crowded() -> Analysis:
    """Nine optimizers whose curves lie close, a target beside the bigram model's loss, and runs
    that miss it."""
    names = ["adamw", "sgd", "adam", "momentum", "rmsprop", "lion", "muon", "soap"]
    names.append("schedule-free-adamw")
    losses = {name: [2.5, 2.2 + 0.02 * i, math.inf] for i, name in enumerate(names)}
    finals = {name: [2.0 + 0.03 * i + 0.01 * k for k in range(3)] for i, name in enumerate(names)}
    return tuned(losses, finals, {"w0": 2.021})[1]


def test_the_colours_of_a_legend_are_those_of_the_curves(tmp_path: Path) -> None:
    found = crowded()
    assert len(found.tables[0].rows) > len(COLOURS)
    plots = plot_all(found, tmp_path)
    for title in ("Validation loss", "Learning-rate sensitivity", "Expected best of k candidates"):
        with Image.open(plots[f"{title}: w0"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        background = np.array([255, 255, 255])
        rows = np.flatnonzero((pixels[:, :40] != background).any(axis=(1, 2)))
        assert len(rows)
        # The frame ends where its lowest line does; the legend stands to the right of it.
        dark = (pixels < 90).all(axis=2).sum(axis=1)
        axis_row = pixels[int(np.argmax(dark * (dark > pixels.shape[1] // 2)))]
        edge = int(np.flatnonzero((axis_row < 90).all(axis=1)).max()) + 2
        for colour in COLOURS:
            is_colour = (pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2)
            assert is_colour[:, :edge].sum() > 10, (title, colour, "in the curves")
            assert is_colour[:, edge:].sum() > 10, (title, colour, "in the legend")


def test_no_label_of_a_plot_covers_another() -> None:
    for found in (crowded(), every_kind()[1]):
        for title, _, figure in figures(found, styles_of(found)):
            FigureCanvasAgg(figure).draw()
            left_out = {
                label
                for axes in figure.axes
                for axis in (axes.xaxis, axes.yaxis)
                for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                for label in (tick.label1, tick.label2)
                if not min(axis.get_view_interval())
                <= tick.get_loc()
                <= max(axis.get_view_interval())
            }
            texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
            inside = [(t.get_text(), t.get_window_extent()) for t in texts if t not in left_out]
            width, height = figure.canvas.get_width_height()
            for (one, a), (other, b) in itertools.combinations(inside, 2):
                wide = min(a.x1, b.x1) - max(a.x0, b.x0)
                high = min(a.y1, b.y1) - max(a.y0, b.y0)
                assert min(wide, high) <= 1, f"{title}: {one!r} and {other!r}"
            for text, box in inside:
                assert -1 <= box.x0 < box.x1 <= width + 1, f"{title}: {text!r} is cut off"
                assert -1 <= box.y0 < box.y1 <= height + 1, f"{title}: {text!r} is cut off"


def test_markdown_and_json_hold_what_the_screen_shows(tmp_path: Path) -> None:
    plan, found = every_kind()
    write_tables(tmp_path / "tables.md", "A study", plan, found)
    page = (tmp_path / "tables.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    widths = [len(line) for line in lines]
    for table in found.tables:
        for names in columns(table, plan).values():
            assert list(names) in lines
            for row in table.rows:
                values = cells(row, table)
                assert [values[name] for name in names] in lines
    assert set(widths) >= {5, 7}
    report = plain(plan, found, 9)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    first = report["workloads"][0]["optimizers"][0]
    assert first["optimizer"] == found.tables[0].rows[0].optimizer
    assert first["final"]["mean"] == found.tables[0].rows[0].final.mean
    assert report["workloads"][0]["optimizers"][-1]["steps_to_target"] is None


def test_the_reference_is_held_against_a_bigram_model() -> None:
    plan = plan_of(["sgd", "adamw"])
    records = [*records_of(plan, "adamw", [2.0] * 3), *records_of(plan, "sgd", [3.0] * 3)]
    for bigram, said in (
        (2.5, "adamw ends 0.5000 nats per token below it."),
        (1.6, "adamw ends 0.4000 nats per token above it."),
    ):
        (table,) = analyse(plan, records, bigram_losses={"w0": bigram}).tables
        lines = list(remarks(table))
        assert said in lines[0]
        assert f"loss of {bigram:.4f} on the same tokens" in lines[0]
        assert len(lines) == (1 if bigram > 2 else 2)
    (table,) = analyse(plan, records).tables
    assert list(remarks(table)) == []
    (table,) = analyse(plan, records[3:], bigram_losses={"w0": 4.0}).tables
    assert "sgd ends 1.0000 nats per token below it." in next(remarks(table))


def test_every_verdict_says_what_rate_it_holds_at_and_where_that_comes_from() -> None:
    plan = plan_of(["adamw", "sgd", "lion"], settings={"lion": {"learning_rate": 5e-4}})
    own = plan.workloads[0].config.optimizer.name
    assert own == "adamw"
    records = [r for name in plan.study.optimizers for r in records_of(plan, name, [2.0] * 3)]
    found = analyse(plan, records)
    sources = {row.optimizer: row.rate_source for row in found.tables[0].rows}
    assert sources == {"adamw": "configuration", "sgd": "default", "lion": "given"}
    shown = {row.optimizer: cells(row, found.tables[0])["at rate"] for row in found.tables[0].rows}
    assert shown["lion"] == "0.0005, given"
    assert shown["sgd"] == f"{LEARNING_RATES['sgd']:.3g}, default"
    (report,) = plain(plan, found, 9)["workloads"]
    assert {row["optimizer"]: row["rate_source"] for row in report["optimizers"]} == sources
    searched = plan_of(["adamw", "sgd"], ruleset="tuned", tuning={"trials": 2})
    assert rate_source(searched, searched.workloads[0], "adamw") == "tuned"
    spaces = {"sgd": {"momentum": [0.5, 0.9]}}  # the rate is not among what is searched
    searched = plan_of(["adamw", "sgd"], ruleset="tuned", tuning={"trials": 2}, spaces=spaces)
    assert rate_source(searched, searched.workloads[0], "sgd") == "default"
    for said in (*rules(plan), *explanations(plan)):
        assert "none tuned" not in said


def test_a_step_is_the_median_of_its_timing_rounds() -> None:
    plan = plan_of(["adamw"])
    timings = [Timing("w0", "adamw", seconds) for seconds in (0.01, 0.5, 0.02)]
    (table,) = analyse(plan, records_of(plan, "adamw", [2.0] * 3), timings).tables
    assert table.row("adamw").step_seconds == 0.02
    assert table.row("adamw").seconds_to_target == 0.02 * table.row("adamw").steps_to_target


def test_a_profile_counts_workloads() -> None:
    profile = Profile("adamw", (1.0, 1.6, math.inf))
    assert profile_cells(profile) == {
        "optimizer": "adamw", "tau 1": "1 of 3", "tau 1.5": "1 of 3", "tau 2": "2 of 3",
        "tau 4": "2 of 3",
    }  # fmt: skip
