"""Evaluation: the mean over a whole split against float64, bits per byte, nanoGPT's estimate;
what the loop says about them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.models.presets import GPT2, GPT2Config
from bptool.training import begin
from bptool.training.evaluation import Evaluation, evaluate_split, nanogpt_estimate
from bptool.training.events import Evaluated, Notice, Sampled, TrainingFinished
from bptool.training.lessons import next_token
from bptool.training.machine import choose_engine
from bptool.training.run_folder import RunFolder
from bptool.training.setup import format_bytes
from bptool.training.step import Shards
from bptool.training.workers import WorkerTeam

N_VOCAB, N_TIME = 19, 8
MODEL = GPT2(GPT2Config(n_layer=2, n_head=2, n_embd=16, context=N_TIME, dropout=0.3), N_VOCAB)
BYTES = np.arange(N_VOCAB)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def shards(team: WorkerTeam, rows: int, dtype: str = "float32") -> tuple[Shards, Any]:
    engine = choose_engine("auto")
    weights = MODEL.layout.allocate(dtype)
    start = MODEL.layout.allocate(np.float32)
    MODEL.initialise(start, 1)
    weights[:] = 5 * start
    return Shards(MODEL, team, engine, rows, N_TIME, dtype, with_gradients=False), weights


def split_of(n_tokens: int) -> Any:
    return np.random.default_rng(0).integers(0, N_VOCAB, n_tokens).astype(np.uint16)


@pytest.mark.parametrize("n_tokens", [2, N_TIME, N_TIME + 1, 130, 131])
def test_every_target_counts_once_in_any_layout(
    n_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bptool.training.evaluation.COUNTED_TOKENS", 9)
    tokens = split_of(n_tokens)
    with WorkerTeam(1) as team:
        one, weights = shards(team, 1, "float64")
        losses = []
        for start in range(0, n_tokens - 1, N_TIME):
            window = tokens[start : start + N_TIME + 1].astype(np.int32)
            inputs, targets = np.zeros((1, N_TIME), np.int32), np.full((1, N_TIME), -1, np.int32)
            inputs[0, : len(window) - 1], targets[0, : len(window) - 1] = window[:-1], window[1:]
            losses.append(one.loss(MODEL.params(weights), inputs, targets) / (len(window) - 1))
    for n_workers, rows in ((1, 3), (2, 4), (3, 16)):
        with WorkerTeam(n_workers) as team:
            cut, weights = shards(team, rows)
            found = evaluate_split(cut, MODEL.params(weights), tokens, BYTES)
        assert found.n_tokens == n_tokens - 1
        assert [block.loss for block in found.blocks] == pytest.approx(losses, rel=1e-5)
        total = sum(block.loss * block.n_tokens for block in found.blocks)
        assert sum(block.n_tokens for block in found.blocks) == n_tokens - 1
        assert found.loss == pytest.approx(total / (n_tokens - 1), rel=1e-5)
        assert found.n_bytes == BYTES[tokens[1:]].sum()


def test_a_cap_reads_the_first_tokens_only() -> None:
    tokens = split_of(300)
    with WorkerTeam(2) as team:
        cut, weights = shards(team, 4)
        params = MODEL.params(weights)
        first = evaluate_split(cut, params, tokens[:101], BYTES)
        assert evaluate_split(cut, params, tokens, BYTES, max_tokens=100) == first
        assert evaluate_split(cut, params, tokens, BYTES, max_tokens=10**9).n_tokens == 299
    assert first.n_tokens == 100


def test_perplexity_and_bits_per_byte() -> None:
    found = Evaluation(loss=math.log(2) * 3, n_tokens=10, n_bytes=20)
    assert found.perplexity == pytest.approx(8)
    assert found.bits_per_byte == pytest.approx(1.5)
    assert math.isnan(Evaluation(1.0, 5, 0).bits_per_byte)
    assert math.isfinite(Evaluation(1e9, 5, 1).perplexity)


def test_nanogpts_estimate_is_the_mean_of_random_batches_with_its_error() -> None:
    tokens = split_of(600)
    with WorkerTeam(2) as team:
        cut, weights = shards(team, 4)
        params = MODEL.params(weights)
        whole = evaluate_split(cut, params, tokens, BYTES).loss
        estimates = [nanogpt_estimate(cut, params, tokens, 30, 5, seed) for seed in range(30)]
        assert nanogpt_estimate(cut, params, tokens, 30, 5, 0) == estimates[0]
        alone = nanogpt_estimate(cut, params, tokens, 1, 5, 0)
    losses = [estimate.loss for estimate in estimates]
    said = float(np.mean([estimate.standard_deviation for estimate in estimates]))
    assert (estimates[0].n_batches, estimates[0].batch_size) == (30, 5)
    assert np.std(losses, ddof=1) == pytest.approx(said, rel=0.5)
    # random windows see the ends of the split less often than the middle
    assert abs(np.mean(losses) - whole) < 5 * said / math.sqrt(30) + 0.02 * whole
    assert math.isnan(alone.standard_deviation)


def trained(tmp_path: Path, losses: list[float], train_losses: list[float], **values: Any) -> Any:
    """A run whose validation losses are given; its events."""
    left, patch = iter(losses), pytest.MonkeyPatch()
    config = runs.config_of(
        runs.settings(
            runs.write_text(tmp_path), runs.MLP, steps=len(losses), eval_interval=1, **values
        )
    )
    recorder = runs.Recorder()
    training = begin.start_run(config, RunFolder(tmp_path / "run"), [recorder])
    steps = iter([0.0, *train_losses])
    compute = training.pieces.step.compute_gradient

    def given(*arguments: Any) -> Any:
        found = compute(*arguments)
        return type(found)(next(steps), found.penalty, found.grad_norm, updated=False)

    with patch.context() as now:
        now.setattr(training.pieces.step, "compute_gradient", given)
        now.setattr(next_token, "evaluate_split", lambda *_: Evaluation(next(left), 10, 10))
        training.run()
    training.pieces.close()
    return recorder.events


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path: Path) -> None:
    events = trained(tmp_path, [3.0, 2.0, 2.5, 2.0, 2.2], [1.0] * 5, keep_last=1)
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.is_best for event in evaluated] == [True, True, False, False, False]
    finished = events[-1]
    assert isinstance(finished, TrainingFinished)
    assert (finished.best_step, finished.best_val_loss) == (2, 2.0)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.json",
        "step-00000002",
        "step-00000005",
    ]
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert (index["last"], index["best"]) == ("step-00000005", "step-00000002")


@pytest.mark.parametrize(
    ("train_losses", "warns_at"),
    [([2.0, 1.9, 1.8, 1.7, 1.6, 1.5], [5]), ([2.0, 2.1, 2.2, 2.3, 2.4, 2.5], [])],
)
def test_overfitting_is_said_once_and_only_where_training_still_gains(
    tmp_path: Path, train_losses: list[float], warns_at: list[int]
) -> None:
    events = trained(tmp_path, [3.0, 2.0, 2.1, 2.2, 2.3, 2.4], train_losses)
    notices = [(i, e) for i, e in enumerate(events) if isinstance(e, Notice)]
    steps = [max(e.step for e in events[:i] if isinstance(e, Evaluated)) for i, _ in notices]
    assert steps == warns_at
    for _, notice in notices:
        assert notice.level == "warning"
        assert "overfitting: validation loss was best at step 2" in notice.text
    flags = [event.overfitting for event in events if isinstance(event, Evaluated)]
    assert flags == [False] * 4 + [bool(warns_at)] * 2


def test_a_validation_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    events = trained(tmp_path, [math.nan, 2.0, math.nan], [1.0] * 3)
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.is_best for event in evaluated] == [False, True, False]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line) for line in lines if "evaluation" in line]
    assert [value["val_loss"] for value in values] == [None, 2.0, None]


def test_samples_are_written_under_their_steps(tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2)
    values["sample"] = {"prompt": "the ", "max_tokens": 20}
    recorder = runs.train(runs.config_of(values), tmp_path / "run")
    sampled = [event for event in recorder.events if isinstance(event, Sampled)]
    assert [event.step for event in sampled] == [5, 10, 12]
    assert all(event.prompt == "the " and len(event.text) == 20 for event in sampled)
    text = (tmp_path / "run" / "samples.txt").read_text(encoding="utf-8")
    blocks = [f"\n== step {e.step} ==\nthe {e.text}\n" for e in sampled]
    assert text == "# bptool samples, format_version 1\n" + "".join(blocks)


def test_a_plot_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bptool.training.run.plot_losses", full)
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.MLP, steps=2))
    events = runs.train(config, tmp_path / "run").events
    assert isinstance(events[-2], Notice)
    assert "could not draw" in events[-2].text
    assert isinstance(events[-1], TrainingFinished)
    assert "plot" not in events[-1].files


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1.5e9, "1.5 GB"), (999.7e3, "1 MB")],
)
def test_bytes_are_written_in_powers_of_ten(n: float, text: str) -> None:
    assert format_bytes(n) == text
