"""A model's list of operations adds up to its step; the profile says what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.models.mlp import MLP, MLPConfig
from bptool.models.presets import GPT2, GPT2Config, Llama, LlamaConfig
from bptool.ops.logit_terms import LogitTerms
from bptool.training.machine import choose_engine
from bptool.training.parts import build_model
from bptool.training.step import Shards
from bptool.training.workers import WorkerTeam

N_VOCAB, N_TIME, N_SEQUENCES = 19, 8, 3
GPT2_SIZE: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": N_TIME}
DROPPED: dict[str, Any] = {
    "dropout": {"embedding": 0.25, "attention": 0.25, "residual": 0.25, "hidden": 0.25},
    "stochastic_depth": 0.5,
}
TERMS = LogitTerms(0.1, 0.01)
MODELS = {
    "gpt2": (GPT2(GPT2Config(**GPT2_SIZE, **DROPPED), N_VOCAB), ()),
    "untied": (GPT2(GPT2Config(**GPT2_SIZE, tie_embeddings=False), N_VOCAB), ("embed_tokens",)),
    "llama": (
        Llama(LlamaConfig(**GPT2_SIZE, **DROPPED, n_kv_head=1, qk_norm=True), N_VOCAB),
        ("embed_tokens",),
    ),
    "mlp": (
        MLP(
            MLPConfig(window=3, n_embd=5, n_hidden=12, n_layer=3, context=N_TIME, dropout=0.25),
            N_VOCAB,
        ),
        (),
    ),
    "one layer": (MLP(MLPConfig(n_layer=1, context=N_TIME), N_VOCAB), ()),
}


@pytest.mark.parametrize("name", MODELS)
def test_operations_add_up_to_the_models_flops(name: str) -> None:
    model, looked_up = MODELS[name]
    found = sum(o.count * o.flops for o in model.operations(N_SEQUENCES, N_TIME, TERMS))
    without_product = sum(
        spec.size for spec in model.specs if not spec.decay or spec.field in looked_up
    )
    per_token = model.flops_per_token(N_TIME) - 6 * without_product
    assert found == per_token * N_SEQUENCES * N_TIME


@pytest.mark.parametrize("name", MODELS)
def test_operations_run_alone_and_the_forwards_rewrite_the_logits(name: str) -> None:
    model, _ = MODELS[name]
    generator = np.random.default_rng(0)
    tokens, targets = generator.integers(0, N_VOCAB, (2, N_SEQUENCES, N_TIME)).astype(np.int32)
    weights = model.layout.allocate(np.float32)
    model.initialise(weights, 3)
    params = model.params(weights)
    with WorkerTeam(1) as team:
        shards = Shards(model, team, choose_engine("auto"), N_SEQUENCES, N_TIME)
        shards.loss_and_gradient(params, tokens, targets, tokens.size, 0, 1)
        shard = shards.shard(0, params)
        operations = model.operations(N_SEQUENCES, N_TIME, TERMS)
        assert len({o.name for o in operations}) == len(operations)
        for operation in operations:
            assert operation.bytes > 0
            for i in range(operation.count):
                operation.run(shard, i)
        shards.loss(params, tokens, targets)
        expected = shard.work.acts.logits.copy()
        shard.work.acts.logits[:] = np.nan
        # Each reads what the whole forward left, so that additions to the stream stay out.
        left_out = ("backward", "dropout", "residual", "depth")
        for operation in operations:
            if not any(word in operation.name for word in left_out):
                for i in range(operation.count):
                    operation.run(shard, i)
    np.testing.assert_allclose(shard.work.acts.logits, expected, rtol=1e-5, atol=1e-6)


def vocabulary(text: Path) -> int:
    """Characters of a text, as the tokenizer has them."""
    return len(set(text.read_text(encoding="utf-8")))


@pytest.mark.parametrize("split", ["batch", "inside"])
@pytest.mark.parametrize("model", [runs.GPT2, runs.MLP], ids=["gpt2", "mlp"])
def test_profile_names_the_difference(
    model: dict[str, Any], split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = runs.settings(runs.write_text(tmp_path), model, micro_batch_size=2, split=split)
    config = str(runs.write_config(tmp_path, values))
    assert main(["profile", config, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_workers"] == 2
    total = sum(line["seconds"] for line in found["lines"])
    assert found["sum_seconds"] == pytest.approx(total)
    assert found["step_seconds"] == pytest.approx(total + found["difference_seconds"])
    for line in found["lines"]:
        assert line["bound"] == "bytes" or line["flops"] > 0
        assert line["share_of_limit"] == pytest.approx(line["limit_seconds"] / line["seconds"])
    lines = {line["name"]: line for line in found["lines"]}
    assert lines["cross-entropy"]["calls"] == 3  # micro-batches of two rows, of six
    assert lines["optimizer"]["calls"] == 1
    assert ("gradients added" in lines) == (split == "batch")
    own = build_model(runs.config_of(values), vocabulary(tmp_path / "text.txt"))
    assert lines["gradient norm"]["bytes"] == 4 * own.layout.size
    cleared = lines["gradients to zero"]["bytes"] / (2 if split == "batch" else 1)
    assert 0 < cleared < lines["gradient norm"]["bytes"]  # most are stored by products
    assert sum(line["flops"] for line in found["lines"]) == sum(
        o.count * o.flops for o in own.operations(6, own.context)
    )


def test_profile_lists_all_that_is_on_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = runs.write_text(tmp_path)
    found = []
    on = runs.settings(
        *(text, runs.GPT2 | DROPPED),
        **{"clip_norm": None, "clip_adaptive": 0.1, "label_smoothing": 0.1, "z_loss": 0.01},
    ) | {"averaging": "ema", "regularizers": ["l2", "gradient-noise", "max-norm"]}
    for values in (on, runs.settings(text, runs.GPT2 | {"dropout": 0.0})):
        assert main(["profile", str(runs.write_config(tmp_path, values)), "--json"]) == 0
        lines = json.loads(capsys.readouterr().out)["lines"]
        assert all(line["seconds"] > 0 for line in lines)
        found.append({line["name"] for line in lines})
    assert found[1] < found[0]
    assert found[0] - found[1] == {
        *("dropout, embedding", "dropout, residual", "dropout, hidden", "stochastic depth"),
        *("label smoothing and z-loss", "penalties on weights", "clipping of units"),
        *("changes of the gradient", "constraints", "average of the weights"),
    }


@pytest.mark.parametrize("optimizer", ["nadam", "adafactor"])
def test_profile_runs_rules_with_numbers_or_shapes_of_their_own(
    optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.MLP) | {"optimizer": {"name": optimizer}}
    assert main(["profile", str(runs.write_config(tmp_path, values)), "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    moved = lines["optimizer"]["bytes"] / lines["gradient norm"]["bytes"]
    slots = (moved - 3) / 2
    assert slots == pytest.approx(2, rel=0.01) if optimizer == "nadam" else 0 < slots < 1
