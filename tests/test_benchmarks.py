"""The benchmarks on a tiny workload through real processes; no assertion on seconds."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import carray, cfunc, types

from benchmarks import data, matmul, memory, optimizers, results, scaling, startup, tables
from benchmarks.products import StepProducts
from benchmarks.results import Result, Series
from benchmarks.train import agree, training
from benchmarks.workloads import WORKLOADS
from bptool.ops.matmul import MatmulEngine
from bptool.training.machine import Engine
from bptool.training.split import Split
from bptool.training.step import Shards
from bptool.training.workers import WorkerTeam

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_JAX = importlib.util.find_spec("jax") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")


def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """``python -m benchmarks`` with these words."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=results.ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def is_positive(result: Result) -> bool:
    """Whether there are samples, all of them possible ones."""
    rates = list(result.rates.values())
    return bool(result.series) and all(
        values and all(0 < value < float("inf") for value in values)
        for values in (*(series.samples for series in result.series), *rates)
    )


def test_training_beside_peers_and_limits(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = ["--workloads", "tiny", "--peers", "pytorch,jax", "--pairs", "2", "--out", str(out)]
    shown = run(*words).stdout  # without a command it is train
    report = results.read(out)
    (result,) = report.results
    assert is_positive(result)
    names = [series.name for series in result.series]
    assert names[0] == "bptool"
    for peer, is_there in (("pytorch", HAS_TORCH), ("jax", HAS_JAX)):
        assert (peer in names) == is_there
        assert (peer in result.left_out) != is_there
    for limit in ("products, tiled", "products, blas"):
        found = result.find(limit)
        assert found is not None
        assert found.kind == "limit"
        assert limit in shown
    for engine in ("mkl", "accelerate"):
        assert (f"products, {engine}" in names) != (f"products, {engine}" in result.left_out)
    assert all(len(series.samples) == 2 for series in result.series)
    assert len(result.rates["fma"]) == 2
    assert report.machine["processor"]
    assert {"python", "numpy", "numba"} <= set(report.versions)
    rows = run("table", str(out)).stdout.splitlines()
    assert rows[0].startswith("| workload | ms a step | tokens/s |")
    assert rows[2].startswith("| tiny | ")
    assert "### train tiny" in run("table", "--details", str(out)).stdout


@needs_torch
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_torch_compile_trains_the_same() -> None:
    with training("tiny", ["pytorch-compile"], 1) as (running, left_out):
        assert [peer.name for peer in running] == ["bptool", "pytorch-compile"], left_out


@needs_torch
def test_a_peer_that_cannot_compile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with training("tiny", ["pytorch-compile"], 1) as (running, left_out):
        assert [peer.name for peer in running] == ["bptool"]
        assert "torch.compile" in left_out["pytorch-compile"]


class Trained:
    """A contender that has a loss."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value

    def run(self, name: str, times: int) -> list[float]:
        return [1.0] * times


@pytest.mark.parametrize("loss", [2.0002, 1.9998, float("nan")])
def test_another_loss_is_another_model(loss: float) -> None:
    ours: Any = Trained("bptool", 2.0)
    near: Any = Trained("near", 2.00009)
    agree("tiny", [ours, near], 1, 1e-4)
    other: Any = Trained("other", loss)
    with pytest.raises(SystemExit, match="on tiny other has a loss of"):
        agree("tiny", [ours, other], 1, 1e-4)


def counting_engine() -> Engine:
    """Multiplies nothing; its scratch holds the FLOPs asked for, and a sum that tells products
    apart whatever their order."""

    @cfunc(types.void(*[types.intp] * 14, types.CPointer(types.float64)))
    def count(  # type: ignore[no-untyped-def]
        c, ldc, a, lda, trans_a, b, ldb, trans_b, m, n, k, accumulate, triangle, diagonal, scratch
    ):
        found = carray(scratch, (2,))
        found[0] += 2.0 * m * n * k
        kind = 4 * trans_a + 2 * trans_b + accumulate
        found[1] += (m + 1000.0 * n + 1e6 * k) * (1.0 + kind + 8.0 * triangle) * (1.0 + diagonal)

    kept.append(count)
    return Engine("counting", "", lambda dtype: MatmulEngine(count.address, np.zeros(2)))


kept: list[Any] = []


@pytest.mark.parametrize("split", ["batch", "inside"])
@pytest.mark.parametrize("context", [16, 150], ids=["one block", "three blocks"])
def test_the_products_alone_are_those_of_the_step(context: int, split: Split) -> None:
    workload = dataclasses.replace(WORKLOADS["tiny"], context=context)
    model = workload.model()
    with WorkerTeam(2) as team:
        engine = counting_engine()
        shards = Shards(model, team, engine, workload.batch_size, context, split=split)
        tokens, targets = (x.astype(np.int32) for x in workload.batch())
        params = model.params(model.layout.allocate(np.float32))
        shards.loss_and_gradient(params, tokens, targets, tokens.size, 0, 1)
        counted = [shards.shard(i, params).work.training.engine.scratch for i in range(team.n)]
        alone = [engine.make(np.float32) for _ in range(team.n)]
        StepProducts(workload, team, split).run(alone)
    assert counted[0][0] > 0
    np.testing.assert_array_equal([engine.scratch for engine in alone], counted)
    if context == 16:  # nothing is skipped
        rows = workload.batch_size
        operations = model.operations(rows, context)
        flops = sum(o.count * o.flops for o in operations)
        scores = 2 * workload.n_layer * rows * context**2 * workload.n_embd  # made again
        assert sum(x[0] for x in counted) == flops + scores


def test_model_flops_are_counted_as_said() -> None:
    gpt2 = WORKLOADS["C"]
    model = gpt2.model()
    weights = sum(spec.size for spec in model.specs if spec.decay) - gpt2.context * gpt2.n_embd
    assert gpt2.flops == (6 * weights + 12 * 12 * 768 * 64) * 256


def made() -> Result:
    """Two series with easy numbers."""
    return Result(
        benchmark="train",
        case="A",
        title="two peers",
        unit="seconds",
        series=[
            Series("bptool", [1.0, 2.0, 4.0], "ours"),
            Series("pytorch", [2.0, 3.0, 16.0], "theirs"),
            Series("products, tiled", [0.5, 1.0, 2.0], kind="limit"),
        ],
        rates={"fma": [1e9, 2e9, 1e9]},
        facts={"tokens": 10.0, "flops": 1e9},
        left_out={"jax": "not installed"},
    )


def test_tables_say_what_was_measured() -> None:
    headings, ours, theirs, _ = tables.grid_of(made())
    assert headings == ["", "ms", "min - max", "tokens/s", "of FMA peak", "over bptool's"]
    assert ours == ["bptool", "2000", "1000 - 4000", "5", "25.0%", "1.00 (1.00 - 1.00)"]
    assert theirs[-2:] == ["16.7%", "2.00 (1.50 - 4.00)"]
    assert "left out: jax, not installed" in list(tables.notes_of(made()))
    report = results.report(2, [made()], 61.0)
    summary = tables.markdown(tables.summary(report)).splitlines()
    assert summary[0].split(" | ")[3:5] == ["times PyTorch, eager", "of FMA peak"]
    row = "| A | 2000 (1000 - 4000) | 5 | 2.00 (1.50 - 4.00) | 25% | 50% |  |  |"
    assert summary[2] == row


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    written = results.report(2, [made()], 61.0)
    results.write(path, written)
    assert results.read(path) == written
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values["format_version"] == results.FORMAT_VERSION
    assert {"command", "date", "commit", "changed", "machine", "versions", "threads"} < set(values)
    assert values["results"][0]["series"][1]["ratios"] == [2.0, 1.5, 4.0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 2}', '{"format_version": 1}'])
def test_another_file_is_no_report(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="not a report of the benchmarks"):
        results.read(path)


def test_the_command_names_a_file_that_is_no_report(tmp_path: Path) -> None:
    assert "none.json: not a report" in run("table", str(tmp_path / "none.json"), code=2).stderr


def test_generating_beside_memory(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    sizes = ["--workload", "tiny", "--context", "64", "--tokens", "2", "--samples", "1,2"]
    run("generate", *sizes, "--pairs", "1", "--out", str(out))
    found = results.read(out).results
    assert [result.case for result in found] == [
        f"tiny, {samples}, {what}"
        for samples in ("1 sample", "2 samples")
        for what in ("a token", "the prompt")
    ]
    for result in found:
        assert is_positive(result)
        assert [series.name for series in result.series] == ["bptool", "pytorch"][: 1 + HAS_TORCH]
    assert found[0].rates["memory"]


def test_fine_tuning_beside_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import finetuning

    monkeypatch.setattr(finetuning, "SECONDS_A_TURN", 1e-9)
    found = finetuning.measure("tiny", n_turns=2, threads=2)
    assert [one.name for one in found.series] == ["pretraining", "sft", "sft, LoRA", "dpo"]
    assert all(len(one.samples) == 2 and min(one.samples) > 0 for one in found.series)
    rows = finetuning.packed_records(WORKLOADS["tiny"])
    assert len(rows) == WORKLOADS["tiny"].batch_size
    assert rows.filled > 0.5
    assert f"rows {rows.filled:.0%} full" in found.series[1].about


def test_rollouts_side_by_side_and_one_by_one() -> None:
    from benchmarks import rollouts

    sampled = rollouts.measure("tiny", prompts=3, tokens=2, n_turns=1, threads=2)
    assert [s.name for s in sampled.series] == ["batched", "one at a time", "no cache"]
    assert all(s.samples[0] > 0 for s in sampled.series)


def test_scaling_has_a_result_for_each_peer_and_the_machine() -> None:
    found = scaling.measure("tiny", [], 1, 2)
    assert [result.case for result in found] == ["tiny, bptool", "tiny, multiply-adds"]
    for result in found:
        assert is_positive(result)
        assert [series.name for series in result.series] == ["2 threads", "1 thread"]


def test_memory_is_that_of_the_process() -> None:
    result = memory.measure("tiny", [], 1)
    assert is_positive(result)
    assert 50e6 < result.series[0].samples[0] < 1e9


def test_a_start_ends_with_the_first_step(tmp_path: Path) -> None:
    kernels = Path(os.environ["NUMBA_CACHE_DIR"])
    assert 0 < startup.first_step_seconds(tmp_path, kernels) < float("inf")
    assert (tmp_path / "tokens").is_dir()


def test_tokenizers_cut_alike_and_batches_are_drawn() -> None:
    learning, encoding = data.tokenizing(1)
    assert is_positive(learning)
    assert encoding.series[0].name == "bptool"
    assert len(encoding.series) == 6
    assert all(len(series.cores) == 1 and series.cores[0] > 0 for series in encoding.series)
    assert "cores" in tables.grid_of(encoding)[0]
    assert "cores" not in tables.grid_of(data.batches("tiny", 1, 1))[0]
    drawn = data.batches("tiny", 1, 1)
    assert [series.name for series in drawn.series] == ["bptool", "numpy by hand", "the step"]


def test_products_and_optimizers_one_by_one() -> None:
    found = matmul.measure("tiny", 2, 2, "float64", ["head  y", "P^T"], 1)
    assert [result.title for result in found] == [
        "32 x 32 x 65, float64, 2 threads",
        "16 x 16 x 16, float64, 2 threads",
    ]
    assert all(map(is_positive, found))
    assert tables.rate_grid(found)[0][2:4] == ["tiled", "blas"]
    rules = optimizers.measure(["sgd", "lamb"], 0.1, 1, 2)
    assert all(map(is_positive, rules))
    assert [row[0] for row in tables.joined_grid(rules)[1:]] == ["sgd", "lamb"]
