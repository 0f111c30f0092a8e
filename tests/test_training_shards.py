"""A step cut over workers and micro-batches is the same step; a bad one changes nothing."""

from __future__ import annotations

import gc
import math
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.errors import DivergedError
from bptool.models import base
from bptool.models.mlp import MLP, MLPConfig
from bptool.models.presets import GPT2, GPT2Config
from bptool.ops import head
from bptool.ops.logit_terms import LogitTerms
from bptool.optim.adamw import AdamW
from bptool.registry import averages, optimizers, regularizers
from bptool.training import begin
from bptool.training.averaging import Averaging
from bptool.training.events import Notice, StepDone
from bptool.training.machine import choose_engine
from bptool.training.metrics import read_metrics
from bptool.training.regularization import Clipping
from bptool.training.run_folder import RunFolder
from bptool.training.split import Split, choose_split
from bptool.training.step import Shards, TrainingStep
from bptool.training.workers import WorkerTeam

N_VOCAB, N_TIME, N_ROWS = 19, 8, 7
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
TERMS = LogitTerms(0.1, 0.01)
DROPPED = {
    "dropout": {"embedding": 0.25, "attention": 0.2, "residual": 0.25, "hidden": 0.2},
    "stochastic_depth": 0.4,
}
MODELS = {
    "gpt2": GPT2(GPT2Config(n_layer=2, n_head=2, n_embd=16, context=N_TIME, **DROPPED), N_VOCAB),
    "mlp": MLP(
        MLPConfig(window=3, n_embd=5, n_hidden=12, n_layer=2, context=N_TIME, dropout=0.25),
        N_VOCAB,
    ),
}


def batch(seed: int = 0) -> tuple[Any, Any, int]:
    """Tokens and targets (N_ROWS, N_TIME), masked very unevenly, and the number of targets."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, N_VOCAB, (N_ROWS, N_TIME)).astype(np.int32)
    targets = generator.integers(0, N_VOCAB, (N_ROWS, N_TIME)).astype(np.int32)
    targets[1, 1:] = -1
    targets[3] = -1
    targets[6, ::2] = -1
    return tokens, targets, int((targets >= 0).sum())


def weights_of(model: Any, dtype: str) -> Any:
    """Initial weights, equal in both types."""
    start = model.layout.allocate(np.float32)
    model.initialise(start, 3)
    weights = model.layout.allocate(dtype)
    weights[:] = start
    return weights


def gradient(
    model: Any, dtype: str, n_workers: int, rows: int, split: Split = "batch"
) -> tuple[float, Any]:
    """Loss and whole gradient of the batch, cut in the given way, with all that is dropped and
    added in training."""
    with WorkerTeam(n_workers) as team:
        engine = choose_engine("auto")
        shards = Shards(model, team, engine, rows, N_TIME, dtype, split=split, terms=TERMS)
        params = model.params(weights_of(model, dtype))
        found = shards.loss_and_gradient(params, *batch(), 11, 4)
        team.run(shards.reduce)
        return found.loss + found.penalty, shards.gradients[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_any_cut_gives_the_same_loss_and_gradient(name: str, dtype: str) -> None:
    model = MODELS[name]
    want_loss, want = gradient(model, dtype, 1, N_ROWS)
    assert np.all(np.isfinite(want))
    cuts: list[tuple[Split, int]] = [
        *(("batch", 1), ("batch", 2), ("batch", 3)),
        *(("inside", 2), ("inside", 3), ("inside", 5)),  # more than there are heads
    ]
    for split, n_workers in cuts:
        for rows in (1, 2, 3, 5, N_ROWS):
            loss, found = gradient(model, dtype, n_workers, rows, split)
            tolerance = TOLERANCE[dtype]
            assert loss == pytest.approx(want_loss, rel=tolerance), (split, n_workers, rows)
            named = model.layout.named(want)
            whole = np.linalg.norm(want)
            for key, tensor in model.layout.named(found).items():
                error = np.linalg.norm(tensor - named[key])
                size = max(np.linalg.norm(named[key]), 1e-3 * whole)
                assert error <= tolerance * size, (split, n_workers, rows, key)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("split", ["batch", "inside"])
def test_nothing_is_left_of_the_gradient_of_the_last_step(name: str, split: Split) -> None:
    """Also where a worker has no row, or only some of a step's micro-batches."""
    model = MODELS[name]
    tokens, targets, _ = batch()
    with WorkerTeam(3) as team:
        shards = Shards(model, team, choose_engine("auto"), 3, N_TIME, split=split)
        params = model.params(weights_of(model, "float32"))
        for rows in (N_ROWS, 1, 4):
            found = []
            for left in (0.0, 7.0):
                for buffer in shards.gradients:
                    for tensor in model.layout.named(buffer).values():
                        tensor[:] = left  # the padding stays zero
                shards.loss_and_gradient(params, tokens[:rows], targets[:rows], 11, 0, 4)
                team.run(shards.reduce)
                found.append(shards.gradients[0].copy())
            assert np.array_equal(found[0], found[1]), rows
            assert np.any(found[0])


@pytest.mark.parametrize("n_workers", [2, 3, 5])
@pytest.mark.parametrize("name", ["gpt2", "mlp"])
def test_tiles_of_the_head_may_be_shared(
    monkeypatch: pytest.MonkeyPatch, name: str, n_workers: int
) -> None:
    model = MODELS[name]
    want_loss, want = gradient(model, "float64", 1, N_ROWS)
    monkeypatch.setattr(head, "TILE_BYTES", 1)
    assert head.tile_rows(N_ROWS * N_TIME, N_VOCAB) <= N_ROWS * N_TIME / 3
    loss, found = gradient(model, "float64", n_workers, N_ROWS, "inside")
    assert loss == pytest.approx(want_loss, rel=1e-12)
    assert np.linalg.norm(found - want) <= 1e-12 * np.linalg.norm(want)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("split", ["batch", "inside"])
def test_the_same_cut_gives_the_same_bits(name: str, split: Split) -> None:
    first, second = (gradient(MODELS[name], "float32", 3, 5, split) for _ in range(2))
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


def test_a_split_inside_has_one_gradient_buffer_and_the_same_loss() -> None:
    model = MODELS["gpt2"]
    losses = []
    for split in ("batch", "inside"):
        with WorkerTeam(3) as team:
            engine = choose_engine("auto")
            shards = Shards(model, team, engine, 5, N_TIME, np.float64, split=split)
            assert len(shards.gradients) == (1 if split == "inside" else 3)
            params = model.params(weights_of(model, "float64"))
            losses.append(shards.loss(params, *batch()[:2]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_the_split_follows_rows_workers_and_the_size_of_the_model() -> None:
    small, large = 10**6, 10**9
    assert choose_split("auto", 2, 8, small) == "batch"
    assert choose_split("auto", 2, 1, small) == "inside"
    assert choose_split("auto", 2, 3, small) == "inside"  # one would wait a quarter of the time
    assert choose_split("auto", 2, 5, small) == "batch"
    assert choose_split("auto", 2, 8, large) == "inside"
    assert choose_split("auto", 1, 8, large) == "batch"
    assert choose_split("batch", 2, 1, large) == "batch"
    assert choose_split("inside", 2, 8, small) == "inside"


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_exact_mean_over_unmasked_targets(name: str) -> None:
    model = MODELS[name]
    tokens, targets, n_targets = batch()
    nothing = {"dropout": 0.0, "stochastic_depth": 0.0}
    off = {key: value for key, value in nothing.items() if hasattr(model.config, key)}
    without = type(model)(model.config.model_copy(update=off), N_VOCAB)
    with WorkerTeam(2) as team:
        shards = Shards(without, team, choose_engine("auto"), 3, N_TIME, np.float64)
        params = without.params(weights_of(without, "float64"))
        mean = shards.loss_and_gradient(params, tokens, targets, n_targets, 0, 0).loss
        total = shards.loss(params, tokens, targets)
        one_by_one = []
        for row, column in np.argwhere(targets >= 0):
            only = np.full_like(targets, -1)
            only[row, column] = targets[row, column]
            one_by_one.append(shards.loss(params, tokens, only))
        assert shards.loss(params, tokens, np.full_like(targets, -1)) == 0
    assert mean == pytest.approx(math.fsum(one_by_one) / n_targets, rel=1e-12)
    assert total == pytest.approx(math.fsum(one_by_one), rel=1e-12)


def make(name: str, **options: Any) -> Any:
    """A registered regularizer."""
    cls = regularizers.get(name)
    return cls(cls.Config(**options))


def training_step(n_workers: int = 2, **changes: Any) -> TrainingStep:
    """A float32 step of the mlp with Adam's state."""
    model = MODELS["mlp"]
    team = WorkerTeam(n_workers)
    shards = Shards(model, team, choose_engine("auto"), N_ROWS, N_TIME)
    step = TrainingStep(shards, AdamW(AdamW.Config(learning_rate=0.01)), **changes)
    step.weights[:] = weights_of(model, "float32")
    return step


def test_the_norm_and_penalty_are_those_of_the_whole_gradient() -> None:
    penalties = [
        regularizers.get(name)(regularizers.get(name).Config(strength=0.01))
        for name in ("l1", "l2")
    ]
    step = training_step(3, regularizers=penalties)
    found = step.compute_gradient(*batch(), 0, 0)
    layout = step.model.layout
    decayed = step.weights[: layout.n_decayed].astype(np.float64)
    l1, l2 = 0.01 * np.abs(decayed).sum(), (decayed**2).sum()
    # either definition of L2, with a half or without
    assert any(found.penalty == pytest.approx(l1 + f * 0.01 * l2, rel=1e-5) for f in (0.5, 1.0))
    whole = step.shards.gradients[0].astype(np.float64)
    assert found.grad_norm == pytest.approx(np.linalg.norm(whole), rel=1e-12)
    plain = training_step(3)
    bare = plain.compute_gradient(*batch(), 0, 0)
    assert found.loss == bare.loss
    # tensors that are not decayed keep their gradient
    tail = slice(layout.n_decayed, None)
    assert np.array_equal(whole[tail], plain.shards.gradients[0][tail])
    assert not np.array_equal(whole, plain.shards.gradients[0])


NOISE, MAX_NORM = make("gradient-noise", variance=0.1), make("max-norm", norm=0.3, tables=True)
UPDATES: dict[str, tuple[str, list[Any], Clipping, str]] = {
    "noise after clipping": ("adamw", [NOISE], Clipping(norm=0.3), "lawa"),
    "noise after clipping by value": ("adamw", [NOISE], Clipping(value=0.01), "ema"),
    "units and rows": ("sgd", [MAX_NORM], Clipping(adaptive=0.01), "ema"),
    "other weights": ("schedule-free-adamw", [make("l2"), NOISE, MAX_NORM], Clipping(), "ema"),
    "whole tensors": ("muon", [NOISE, MAX_NORM], Clipping(adaptive=0.01), "lawa"),
}


@pytest.mark.parametrize(
    ("optimizer", "rules", "clipping", "average"), UPDATES.values(), ids=UPDATES
)
def test_updates_do_not_depend_on_the_workers(
    optimizer: str, rules: list[Any], clipping: Clipping, average: str
) -> None:
    model, rule, mean = MODELS["gpt2"], optimizers.get(optimizer), averages.get(average)
    cuts: list[tuple[int, int, Split]] = [(1, N_ROWS, "batch"), (3, 2, "batch"), (2, 3, "inside")]
    found = []
    for n_workers, rows, split in cuts:
        with WorkerTeam(n_workers) as team:
            engine = choose_engine("auto")
            shards = Shards(
                *(model, team, engine, rows, N_TIME, np.float64), split=split, terms=TERMS
            )
            step = TrainingStep(
                *(shards, rule(rule.Config(learning_rate=0.01)), rules, clipping),
                Averaging(mean(mean.Config()), 2, model.layout, np.float64),
                dtype=np.float64,
            )
            step.weights[:] = 3 * weights_of(model, "float64")
            step.compile()
            for n in range(5):
                assert step(*batch(n), 0.01, 11, n + 1).updated
            step.average_params()
            assert step.averaging
            found.append((step.weights.copy(), step.averaging.weights.copy()))
    assert not np.allclose(*found[0])
    for weights, averaged in found[1:]:
        np.testing.assert_allclose(weights, found[0][0], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(averaged, found[0][1], rtol=1e-9, atol=1e-11)


def test_clipping_scales_the_whole_update() -> None:
    kind = optimizers.get("sgd")
    updates = []
    for clip_norm in (None, 1e3, 0.01):
        shards = training_step().shards
        rule = kind(kind.Config(learning_rate=1.0))
        step = TrainingStep(shards, rule, clipping=Clipping(norm=clip_norm))
        step.weights[:] = weights_of(step.model, "float32")
        before = step.weights.copy()
        found = step(*batch(), 1.0, 0, 1)
        assert found.updated
        assert found.grad_norm > 0.1  # as it was before clipping
        updates.append(step.weights - before)
    whole, unclipped, clipped = updates
    assert np.array_equal(whole, unclipped)
    assert np.linalg.norm(clipped) == pytest.approx(0.01, rel=1e-3)
    assert clipped == pytest.approx(whole * 0.01 / np.linalg.norm(whole), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_numbers_that_are_not_finite_change_nothing(bad: float, n_workers: int) -> None:
    step = training_step(n_workers)
    assert step(*batch(), 0.01, 0, 1).updated
    step.model.params(step.weights).output_w[3, 2] = bad
    state = step.weights.copy(), {name: slot.copy() for name, slot in step.slots.items()}
    found = step(*batch(), 0.01, 0, 2)
    assert not found.updated
    assert not (math.isfinite(found.loss) and math.isfinite(found.grad_norm))
    assert np.array_equal(step.weights, state[0], equal_nan=True)
    assert all(np.array_equal(step.slots[name], slot) for name, slot in state[1].items())
    assert step.n_updates == 1
    step.model.params(step.weights).output_w[3, 2] = 0.0
    assert step(*batch(), 0.01, 0, 3).updated
    assert np.all(np.isfinite(step.weights))


def test_initial_weights_are_the_same_however_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = weights_of(MODELS["gpt2"], "float32")
    monkeypatch.setattr(base, "DRAWN_AT_ONCE", 7)
    np.testing.assert_array_equal(weights_of(MODELS["gpt2"], "float32"), at_once)


@pytest.mark.parametrize("rule", ["adamw", "nadam", "adafactor", "muon", "soap"])
def test_compiling_changes_nothing(rule: str) -> None:
    kind = optimizers.get(rule)
    step = TrainingStep(training_step().shards, kind(kind.Config(learning_rate=0.01)))
    step.weights[:] = weights_of(step.model, "float32")
    step(*batch(), 0.01, 0, 1)
    state = step.weights.copy(), {name: slot.copy() for name, slot in step.slots.items()}
    step.compile()
    assert step.n_updates == 1
    assert np.array_equal(step.weights, state[0])
    assert all(np.array_equal(step.slots[name], slot) for name, slot in state[1].items())


def test_the_padding_between_tensors_stays_zero() -> None:
    modifiers = [make("gradient-noise"), make("max-norm", norm=0.5)]
    step = training_step(3, clipping=Clipping(norm=1.0), regularizers=modifiers)
    for n in range(5):
        step(*batch(n), 0.01, 0, n + 1)
    for buffer in (step.weights, *step.slots.values()):
        inside = np.zeros(buffer.size, bool)
        for spec in step.model.specs:
            start = step.model.layout.offsets[spec.field]
            inside[start : start + spec.size] = True
        assert not inside.all()
        assert np.all(buffer[~inside] == 0)


def test_steps_that_diverge_are_skipped_and_ten_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    values = runs.settings(runs.write_text(tmp_path), runs.MLP, steps=40, eval_interval=2)
    recorder = runs.Recorder()
    training = begin.start_run(runs.config_of(values), RunFolder(tmp_path / "run"), [recorder])
    compute, seen = training.pieces.step.compute_gradient, [0]

    def failing(*arguments: Any) -> Any:
        found = compute(*arguments)
        seen[0] += 1
        # steps 3 to 5, and all from 8 on; the first call compiles
        if seen[0] - 1 in (3, 4, 5) or seen[0] - 1 >= 8:
            return type(found)(math.nan, found.penalty, found.grad_norm, updated=False)
        return found

    monkeypatch.setattr(training.pieces.step, "compute_gradient", failing)
    with pytest.raises(DivergedError, match="step 17: the last 10 steps had no finite"):
        training.run()
    training.pieces.close()
    skipped = [e.step for e in recorder.events if isinstance(e, StepDone) and e.skipped]
    assert skipped == [3, 4, 5, *range(8, 18)]
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert [text.partition(":")[0] for text in notices] == ["step 3", "step 8"]
    steps = [r for r in read_metrics(RunFolder(tmp_path / "run").metrics) if r["kind"] == "step"]
    assert [r["step"] for r in steps if r["loss"] is None] == skipped
    # what was saved along the way is sound, and goes on
    resumed = runs.resume(tmp_path / "run", ["training.steps=20"])
    said = [event.text for event in resumed.events if isinstance(event, Notice)]
    assert not [text for text in said if "finite" in text]


@pytest.mark.parametrize("name", MODELS)
def test_memory_does_not_grow_from_step_to_step(name: str) -> None:
    model = MODELS[name]
    with WorkerTeam(2) as team:
        shards = Shards(model, team, choose_engine("auto"), 4, N_TIME)
        rule = AdamW(AdamW.Config(learning_rate=0.01))
        step = TrainingStep(shards, rule, clipping=Clipping(norm=1.0))
        step.weights[:] = weights_of(model, "float32")
        arguments = batch()

        def many(n: int) -> None:
            for i in range(n):
                step(*arguments, 0.01, 0, i + 1)

        tracemalloc.start()
        try:
            many(400)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            many(400)
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        resident = _resident_bytes()
        many(2000)
        grown = _resident_bytes() - resident
    # Numba keeps some 70 kB of headers of arrays for reuse, gathered over the first 3,000 steps
    assert after - before < 100_000
    assert peak - before < 150_000  # nothing the size of activations comes and goes
    assert grown < 2**20


def _resident_bytes() -> int:
    """Memory of this process in RAM; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_team_runs_every_part_and_keeps_their_order(n: int) -> None:
    with WorkerTeam(n) as team:
        for _ in range(50):
            assert team.run(lambda i: i * i) == [i * i for i in range(n)]
        names = team.run(lambda i: threading.current_thread().name)
        assert len(set(names)) == n
        assert names[0] == threading.current_thread().name
    assert not [t for t in threading.enumerate() if t.name in names[1:]]


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_workers_exception_is_raised_and_the_team_goes_on(guilty: int) -> None:
    done = []

    def work(i: int) -> int:
        if i == guilty:
            raise ValueError(f"worker {i}")
        done.append(i)
        return i

    with WorkerTeam(3) as team:
        for _ in range(3):
            done.clear()
            with pytest.raises(ValueError, match=f"worker {guilty}"):
                team.run(work)
            assert sorted(done) == [i for i in range(3) if i != guilty]
            assert team.run(lambda i: i) == [0, 1, 2]
