"""A Llama does by the real commands what a GPT-2 does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from safetensors.numpy import load_file

SIZE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 16, "context": 48}
MODEL: dict[str, Any] = {"name": "llama", **SIZE, "dropout": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Iterator[Path]:
    """A trained run ``base``, records and preferences, in a folder with a cache of its own."""
    path = tmp_path_factory.mktemp("llama")
    runs.write_finetuning(path, **{**MODEL, "n_head": 4})
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, path / "cache")
        yield path


def bptool(*arguments: object, code: int = 0) -> str:
    process = runs.process(*map(str, arguments))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return output


def test_trains_and_resumes_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    config = runs.write_config(tmp_path, runs.settings(folder / "text.txt", MODEL, steps=4))
    bptool("train", config, "--out", tmp_path / "run", "--quiet")
    weights = load_file(tmp_path / "run/checkpoints/step-00000004/weights.safetensors")
    assert weights["model.layers.1.self_attn.k_proj.weight"].shape == (8, 16)
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    found = json.loads(bptool("verify-resume", config, "--json"))
    assert found["same"], found


def test_generates(folder: Path) -> None:
    options = ("--prompt", "ann sees", "--max-tokens", "12", "--seed", "1")
    one, two = (bptool("generate", folder / "base", *options) for _ in range(2))
    assert one == two
    assert one.strip()


def test_its_gradients_are_checked(folder: Path) -> None:
    config = runs.write_config(folder, runs.settings(folder / "text.txt", MODEL))
    found = json.loads(bptool("gradcheck", config, "--json", "--set", "model.context=8"))
    assert found["failures"] == []
    names = {tensor["name"] for tensor in found["model"]["tensors"]}
    assert "model.layers.0.self_attn.q_proj.weight" in names
    bptool("gradcheck", config, "--objective", "dpo", "--set", "model.context=8")


def test_adapts_and_learns_preferences(folder: Path, tmp_path: Path) -> None:
    data, pairs = folder / "records.jsonl", folder / "pairs.jsonl"
    options = ("--epochs", "1", "--quiet")
    adapted, preferred = tmp_path / "lora", tmp_path / "dpo"
    lora = ("--lora", "rank=2,targets=qkv+up")
    bptool("finetune", "sft", folder / "base", "--data", data, *lora, *options, "--out", adapted)
    bptool("merge", adapted, "--out", tmp_path / "merged")
    texts = {bptool("generate", path, "--prompt", "bob") for path in (adapted, tmp_path / "merged")}
    assert len(texts) == 1
    bptool("finetune", "dpo", folder / "base", "--data", pairs, *options, "--out", preferred)
    reward = tmp_path / "reward"
    bptool("finetune", "reward", folder / "base", "--data", pairs, *options, "--out", reward)
    names = load_file(next(reward.glob("checkpoints/*/weights.safetensors")))
    assert "score.weight" in names


def test_plans_and_profiles(folder: Path) -> None:
    config = runs.write_config(folder, runs.settings(folder / "text.txt", MODEL))
    plan = json.loads(bptool("train", config, "--plan", "--json"))
    assert plan["memory_bytes"] > plan["activations_bytes"] > 0
    lines = json.loads(bptool("profile", config, "--json"))["lines"]
    names = {line["name"] for line in lines}
    assert {"rotary positions", "rotary positions, backward", "activation"} <= names
