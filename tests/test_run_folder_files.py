"""What a finished run folder holds, and the plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import training_runs as runs
import yaml

import bptool
from bptool.errors import RunError
from bptool.training.checkpoint import load_state
from bptool.training.events import TrainingFinished
from bptool.training.lessons.pairs import Pairs
from bptool.training.metrics import read_metrics
from bptool.training.plot import plot_losses
from bptool.training.run_folder import RunFolder, free_name
from bptool.training.seal import read_sealed
from bptool.training.trained import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPTOOL_CACHE_DIR", str(folder / "cache"))
        values = runs.settings(runs.write_text(folder), runs.GPT2)
        recorder = runs.train(runs.config_of(values), folder / "run")
    finished = recorder.events[-1]
    assert isinstance(finished, TrainingFinished)
    assert set(finished.files) == {"plot", "samples"}
    return folder / "run"


def test_a_run_folder_holds_what_is_promised(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.yaml", "tokenizer.json", "metrics.jsonl", "samples.txt", "loss.png"),
        *("manifest.json", "checkpoints"),
    }
    assert (run / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["format_version"] == 1
    assert config["training"]["steps"] == 12
    for name, version in {
        "tokenizer.json": 1,
        "manifest.json": 2,
        "checkpoints/index.json": 2,
    }.items():
        assert json.loads((run / name).read_text(encoding="utf-8"))["format_version"] == version
    header = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(header)["format_version"] == 1
    assert "format_version 1" in (run / "samples.txt").read_text(encoding="utf-8").splitlines()[0]


def test_the_manifest_names_what_decides_the_bits(run: Path) -> None:
    manifest = read_sealed(run / "manifest.json", "manifest")
    assert manifest["workers"] == 2
    assert manifest["versions"]["bptool"] == bptool.__version__
    assert {"numpy", "numba", "python"} <= manifest["versions"].keys()
    assert manifest["machine"]["vector_width_bits"] in (128, 256, 512)
    assert manifest["engine"] in ("tiled", "blas")
    assert len(manifest["data"]["text_sha256"]) == 64
    assert manifest["data"]["split"]["by"] == "position"


def test_the_state_names_the_hashes_of_its_tensors(run: Path) -> None:
    state = load_state(run / "checkpoints" / "step-00000012")
    assert state["step"] == 12
    assert set(state["sha256"]) == {"weights.safetensors", "optimizer.safetensors"}


def test_the_metrics_hold_every_step_and_evaluation(run: Path) -> None:
    records = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 13))
    step = next(r for r in records if r["kind"] == "step")
    assert {"loss", "grad_norm", "learning_rate", "seconds", "n_tokens", "flops"} <= step.keys()
    evaluation = next(r for r in records if r["kind"] == "evaluation")
    assert {"val_loss", "train_loss", "bits_per_byte", "n_tokens", "is_best"} <= evaluation.keys()


def test_a_run_opens_at_its_best_or_its_last(run: Path) -> None:
    records = read_metrics(run / "metrics.jsonl")
    best = min(
        (r for r in records if r["kind"] == "evaluation"), key=lambda record: record["val_loss"]
    )
    assert open_run(run).step == best["step"]
    assert open_run(run, last=True).step == 12


@pytest.mark.parametrize("n_steps", [0, 1, 30])
def test_a_plot_is_drawn_of_any_number_of_records(n_steps: int, tmp_path: Path) -> None:
    steps = [{"kind": "step", "step": i, "loss": 3.0 / i} for i in range(1, n_steps + 1)]
    gaps = [{"kind": "step", "step": 99, "loss": None}]
    evaluations = [{"kind": "evaluation", "step": 1, "val_loss": None}]
    if n_steps > 1:
        evaluations += [{"kind": "evaluation", "step": n_steps, "val_loss": 2.0}]
    plot_losses(steps + gaps + evaluations, tmp_path / "loss.png", "a $title$ with_signs")
    assert (tmp_path / "loss.png").stat().st_size > 2000


@pytest.mark.parametrize("value", [1.0, -0.3, 0.0])
def test_a_value_that_stays_is_drawn_flat(value: float) -> None:
    from matplotlib.figure import Figure

    from bptool.training.plot import _draw_statistic

    axes = Figure().add_subplot()
    steps = [(step, value * (1 + 1e-15 * (step % 2))) for step in range(9)]
    _draw_statistic(axes, {"step": steps, "evaluation": steps[::3]})
    low, high = axes.get_ylim()
    assert low < value < high
    assert high - low > 0.05 * abs(value)


def test_every_statistic_has_a_plot_of_its_own(tmp_path: Path) -> None:
    plain = [{"kind": "step", "step": i, "loss": 3.0 / i} for i in range(1, 30)]
    judged = {"kind": "evaluation", "step": 29, "val_loss": 2.0}
    plot_losses([*plain, judged], tmp_path / "without.png", "run")
    with_four = [r | {"statistics": {"a": 1.0, "b": r["loss"], "c": None}} for r in plain]
    with_four.append(judged | {"statistics": {"a": 0.5, "d": 2.0, "e": 1.0}})
    plot_losses(with_four, tmp_path / "with.png", "run", Pairs)
    heights = [
        int.from_bytes((tmp_path / name).read_bytes()[20:24], "big")
        for name in ("without.png", "with.png")
    ]
    assert heights == [540, 540 + 2 * 228]  # four of them: two rows of three


def test_a_free_name_counts_up(tmp_path: Path) -> None:
    assert free_name(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert free_name(tmp_path / "run") == tmp_path / "run-3"


def test_a_folder_that_holds_a_run_is_not_begun_again(run: Path) -> None:
    folder = RunFolder(run)
    with pytest.raises(RunError, match="already holds a run"):
        folder.begin()
    assert folder.holds_run()


def test_a_run_appears_whole_and_what_a_kill_left_is_taken_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    made = folder.begin()
    (made.path / "left.txt").write_text("by a process that was killed", encoding="utf-8")
    made = folder.begin()
    assert not (made.path / "left.txt").exists()
    made.manifest.write_text("{}", encoding="utf-8")
    folder.finish(made)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert folder.holds_run()
