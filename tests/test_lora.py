"""Low-rank adapters: against autograd, frozen weights, what they take, merging, real commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from safetensors.numpy import load_file

from bptool.config.lora_section import LoraConfig
from bptool.errors import ConfigError, RunError
from bptool.gradient_check.check import Effort, check
from bptool.gradient_check.model import draw_batch, draw_weights, model_function
from bptool.models.adapters import AdaptedGPT2, adapt
from bptool.models.base import Model
from bptool.models.gpt2 import GPT2, GPT2Config
from bptool.models.mlp import MLP, MLPConfig
from bptool.ops.dropout import MaskKey
from bptool.ops.matmul import blas_engine, tiled_engine
from bptool.recipes.fine_tuning import adapters, settle_sft
from bptool.training.machine import choose_engine
from bptool.training.measure import measure
from bptool.training.merge import merge_run
from bptool.training.setup import build
from bptool.training.step import Shards
from bptool.training.trained import open_run
from bptool.training.workers import WorkerTeam

N_VOCAB = 37
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 16}
VARIANTS = [
    ({}, LoraConfig(rank=3, alpha=6.0)),
    ({"tie_embeddings": False}, LoraConfig(rank=2, targets=["attention"], embeddings=True)),
    ({"bias": False}, LoraConfig(rank=4, targets=["mlp.c_fc"], embeddings=True)),
]
MODEL = runs.GPT2 | {"context": 48}


def adapted(size: dict[str, Any], lora: LoraConfig, dtype: str) -> tuple[AdaptedGPT2, Any]:
    """A model with adapters that do something, and their flat buffer."""
    plain = GPT2(GPT2Config(**SIZES | size), N_VOCAB)
    model = adapt(plain, lora, draw_weights(plain, 1).astype(dtype))
    return model, draw_weights(model, 2).astype(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize(("size", "lora"), VARIANTS)
def test_gradients_equal_autograd(
    size: dict[str, Any], lora: LoraConfig, dtype: str, tolerance: float
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    import torch_models

    model, weights = adapted(size, lora, dtype)
    tokens, targets = draw_batch(N_VOCAB, 3, 16, 5)
    n_targets = int((targets >= 0).sum())
    gradient = model.layout.allocate(dtype)
    acts = model.workspace(3, 16, dtype, blas_engine(dtype))
    found = model.loss_and_gradient(
        *(model.params(weights), model.gradients(gradient), acts, tokens, targets),
        *(1 / n_targets, MaskKey(0, 0, 0)),
    )

    def logits(config: Any, trained: Any, ids: Any) -> Any:
        tensors = {k: torch.tensor(v) for k, v in model.plain.layout.named(model.base).items()}
        for name, tensor in trained.items():
            if name.endswith("lora_a"):
                up, map_name = trained[f"{name[:-1]}b"], name.replace("lora_a", "weight")
                tensors[map_name] = tensors[map_name] + lora.alpha / lora.rank * up @ tensor
            elif not name.endswith("lora_b"):
                tensors[name] = tensor
        return torch_models.gpt2_logits(config, tensors, ids)

    named = model.layout.named(weights)
    loss, want = torch_models.loss_and_gradients(logits, model.config, named, tokens, targets)
    assert found.loss == pytest.approx(loss, rel=tolerance)
    ours = model.layout.named(gradient)
    assert ours.keys() == want.keys()
    assert any(name.endswith("lora_b") for name in ours)
    assert ("wte.weight" in ours) == lora.embeddings
    for name, g in want.items():
        assert np.linalg.norm(ours[name] - g) <= tolerance * np.linalg.norm(g), name
    merged = model.plain.params(model.merged(weights))
    plain = model.plain.loss(merged, acts, tokens, targets) / n_targets
    assert plain == pytest.approx(found.loss, rel=1e-5)


def test_gradients_hold_against_finite_differences() -> None:
    model, _ = adapted(*VARIANTS[0], dtype="float64")
    report = check(model_function(model, n_sequences=2, n_time=8), effort=Effort(4, 2))
    assert report.ok, report.failures()


@pytest.mark.parametrize("split", ["batch", "inside"])
def test_two_workers_find_what_one_finds(split: Any) -> None:
    model, weights = adapted(*VARIANTS[1], dtype="float64")
    tokens, targets = draw_batch(N_VOCAB, 4, 16, 5)
    found = []
    for n in (1, 2):
        team = WorkerTeam(n)
        shards = Shards(*(model, team, choose_engine("blas"), 4, 16), dtype=np.float64, split=split)
        loss = shards.loss_and_gradient(model.params(weights), tokens, targets, 40, 0, 1).loss
        team.run(shards.reduce)
        found.append((loss, shards.gradients[0].copy()))
        team.close()
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    assert np.linalg.norm(found[1][1] - found[0][1]) < 1e-12 * np.linalg.norm(found[0][1])


def test_new_adapters_change_nothing() -> None:
    model, _ = adapted(*VARIANTS[0], dtype="float32")
    weights = model.layout.allocate(np.float32)
    model.initialise(weights, 3)
    tokens, targets = draw_batch(N_VOCAB, 3, 16, 5)
    acts = model.workspace(3, 16, np.float32, tiled_engine(np.float32))
    plain = model.plain.loss(model.plain.params(model.base), acts, tokens, targets)
    assert model.loss(model.params(weights), acts, tokens, targets) == plain
    down = model.layout.named(weights)["h.0.mlp.c_proj.lora_a"]
    assert down.std() == pytest.approx(128**-0.5, rel=0.15)


@pytest.fixture(scope="module")
def places(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A pretrained run, and records."""
    folder = tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        text, data = folder / "text.txt", folder / "chat.jsonl"
        names = ("ann", "bob", "cat", "dan")
        text.write_text(
            20 * (" ".join(f"{n} sees a hat. who? {n}" for n in names) + "\n"), encoding="utf-8"
        )
        records = [
            {"prompt": f"{names[i % 4]} sees a hat. who?", "completion": names[i % 4]}
            for i in range(40)
        ]
        data.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        runs.train(runs.config_of(runs.settings(text, MODEL)), folder / "base")
    return folder / "base", data


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def request(places: tuple[Path, Path], out: Path, lora: str | None, *sets: str) -> Any:
    return settle_sft(
        places[0],
        data=[str(places[1])],
        validation=[],
        template=None,
        epochs=4.0,
        skip_bad=False,
        checkpoint="best",
        sets=["training.batch_size=2", "training.eval_interval=4", *sets],
        out=out,
        lora=lora,
    )


def test_base_weights_stay_and_the_rest_is_small(places: Any, tmp_path: Path) -> None:
    asked = request(places, tmp_path / "run", "rank=2,alpha=4,targets=attention")
    assert asked.config.lora.embeddings  # the template brings new tokens
    runs.train(asked.config, tmp_path / "run")
    kept = load_file(tmp_path / "run/base/weights.safetensors")
    parent = open_run(places[0])
    for name, tensor in parent.model.layout.named(parent.weights).items():
        assert np.array_equal(kept[name][: len(tensor)], tensor), name
    pieces = build(
        request(places, tmp_path / "x", "rank=2", "lora.embeddings=false", "model.dropout=0").config
    )
    try:
        assert isinstance(pieces.model, AdaptedGPT2)
        before = pieces.model.base.copy()
        losses = [pieces.lesson.step(i, 0.03).result.loss for i in range(1, 21)]
        assert losses[-1] < losses[0]
        assert np.array_equal(pieces.model.base, before)
        # 2 (I + O) a map: attention 3C and C outputs, mlp 4C and C, of C = 16
        n = 2 * 2 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)
        assert pieces.model.n_trained == n
        most = n + 16 * 8  # padding to cache lines
        assert pieces.step.shards.gradients[0].size <= most
        assert all(slot.size <= most for slot in pieces.step.slots.values())
        assert pieces.step.weights.size <= most
        assert pieces.sizes.gradients_bytes <= 2 * 4 * most
    finally:
        pieces.close()
    checkpoint = open_run(tmp_path / "run").step
    files = tmp_path / f"run/checkpoints/step-{checkpoint:08d}"
    names = load_file(files / "weights.safetensors").keys()
    assert {n.rpartition(".")[2] for n in names if n.startswith("h.")} == {"lora_a", "lora_b"}


@pytest.mark.parametrize("averaged", [False, True])
def test_merged_says_the_same(places: Any, tmp_path: Path, averaged: bool) -> None:
    sets = ["averaging.name=ema"] if averaged else []
    asked = request(places, tmp_path / "run", "rank=4", *sets)
    recorder = runs.train(asked.config, tmp_path / "run")
    evaluated = [e for e in recorder.events if type(e).__name__ == "Evaluated"]
    own = [e.average_val_loss if averaged else e.val_loss for e in evaluated]
    merged = merge_run(tmp_path / "run", tmp_path / "merged")
    for path in (tmp_path / "run", tmp_path / "merged"):
        opened = open_run(path)
        assert measure(opened, []).whole.loss == pytest.approx(min(own), rel=1e-5)
        assert (opened.kind == "average") == averaged
    a, b = (open_run(path) for path in (tmp_path / "run", merged.folder.path))
    assert np.array_equal(a.weights, b.weights)
    assert b.config.lora is None
    assert not (tmp_path / "merged/base").exists()
    with pytest.raises(RunError, match="has no adapters to merge"):
        merge_run(tmp_path / "merged", tmp_path / "again")
    with pytest.raises(RunError, match="no optimizer state to go on with"):
        runs.resume(tmp_path / "merged")
    with pytest.raises(RunError, match="already holds a run"):
        merge_run(tmp_path / "run", tmp_path / "merged")
    further = request((tmp_path / "merged", places[1]), tmp_path / "next", "rank=1")
    assert not further.config.lora.embeddings
    build(further.config).close()


@pytest.mark.parametrize("stop_at", [3, 8])
def test_stopped_and_resumed_equals_unbroken(places: Any, tmp_path: Path, stop_at: int) -> None:
    asked = request(places, tmp_path / "unbroken", "rank=2", "training.steps=12")
    runs.train(asked.config, tmp_path / "unbroken")
    runs.train(asked.config, tmp_path / "resumed", stop_at=stop_at)
    runs.resume(tmp_path / "resumed")
    assert runs.left_behind(tmp_path / "resumed") == runs.left_behind(tmp_path / "unbroken")


def test_a_damaged_base_is_found(places: Any, tmp_path: Path) -> None:
    asked = request(places, tmp_path / "run", "rank=2", "training.steps=4")
    runs.train(asked.config, tmp_path / "run")
    file = tmp_path / "run/base/weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match=r"base.weights\.safetensors is damaged"):
        open_run(tmp_path / "run")


def test_what_lora_is_given() -> None:
    assert adapters("rank=4, alpha=8.5,targets=attention+mlp.c_fc,embeddings=true") == {
        "rank": 4,
        "alpha": 8.5,
        "targets": ["attention", "mlp.c_fc"],
        "embeddings": True,
    }
    with pytest.raises(ConfigError, match="--lora: found 'rank', need key=value"):
        adapters("rank")


def test_what_cannot_be_adapted_is_refused(places: Any, tmp_path: Path) -> None:
    mlp: Model = MLP(MLPConfig(window=2, n_embd=6, n_hidden=5, context=4), 11)
    with pytest.raises(ConfigError, match="'mlp' takes no adapters"):
        adapt(mlp, LoraConfig(), mlp.layout.allocate(np.float32))
    with pytest.raises(ConfigError, match=r"lora.rank 17 is above n_embd 16"):
        build(request(places, tmp_path / "run", "rank=17").config)
    with pytest.raises(ConfigError, match=r"(?s)lora.targets.*attention"):
        request(places, tmp_path / "run", "targets=atention")
    with pytest.raises(ConfigError, match=r"need start\.run"):
        runs.config_of(runs.settings(tmp_path / "text.txt", MODEL) | {"lora": {"rank": 2}})


def test_the_commands(places: Any, tmp_path: Path) -> None:
    run, data = places
    out, merged = tmp_path / "out", tmp_path / "merged"
    options = ("--data", str(data), "--epochs", "1", "--quiet", "--out", str(out))
    process = runs.process("finetune", "sft", str(run), *options, "--lora", "rank=2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    process = runs.process("merge", str(out), "--out", str(merged), "--json")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = json.loads(said)
    assert found["run_dir"] == str(merged)
    texts = []
    for path in (out, merged):
        process = runs.process("generate", str(path), "--prompt", "ann", "--max-tokens", "8")
        texts.append(process.communicate(timeout=300)[0])
    assert texts[0] == texts[1] != ""
    for arguments, message in (
        (("finetune", "sft", str(run), "--data", str(data), "--lora", "rank"), "need key=value"),
        (("finetune", "sft", str(run), "--data", str(data), "--lora", "rank=0"), "lora.rank"),
        (("merge", str(run), "--out", str(tmp_path / "no")), "has no adapters"),
        (("merge", str(tmp_path / "none"), "--out", str(tmp_path / "no")), "no run folder"),
        (("profile", str(out / "config.yaml")), "trains on records"),
    ):
        refused = runs.process(*arguments, cwd=tmp_path)
        _, errors = refused.communicate(timeout=300)
        assert refused.returncode == 2, errors
        assert message in errors
    assert not (tmp_path / "no").exists()
    assert not (tmp_path / "runs").exists()
