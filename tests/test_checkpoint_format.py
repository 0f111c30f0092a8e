"""A model computed from the files of its run alone, by a program written from docs/run-folder.md.

Nothing of bptool computes there: :class:`Outsider` reads the files, encodes, runs the forward at
float64 and adds up the loss. What it comes to is compared with what bptool does.
"""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
import yaml

from bptool.cli.main import main
from bptool.data.batches import evaluation_windows
from bptool.models.base import Array
from bptool.ops.matmul import blas_engine
from bptool.training.trained import open_run

GPT2 = {
    **{"name": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 12, "context": 7, "init_std": 0.4},
    **{"dropout": 0.1, "stochastic_depth": 0.1},
}
MLP = {"name": "mlp", "window": 3, "n_embd": 5, "n_hidden": 11, "n_layer": 3, "context": 7}
BPE = {"name": "bpe", "vocab_size": 290, "special_tokens": ["<|end|>"]}
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {"model": GPT2},
    "gpt2 untied, without biases": {
        "model": {**GPT2, "tie_embeddings": False, "bias": False, "activation": "gelu_tanh"}
    },
    "gpt2 with a score head": {
        "model": {**GPT2, "activation": "relu", "score_head": True},
        "data": {"tokenizer": BPE},
    },
    "gpt2, averaged": {"model": GPT2, "averaging": {"name": "ema"}, "data": {"tokenizer": "byte"}},
    "schedule-free": {"model": GPT2, "optimizer": {"name": "schedule-free-adamw"}},
    "mlp": {"model": MLP},
    "mlp of one layer": {"model": {**MLP, "n_layer": 1, "window": 9, "activation": "gelu"}},
    "mlp, relu": {"model": {**MLP, "activation": "relu"}, "data": {"tokenizer": BPE}},
    "mlp, sigmoid": {"model": {**MLP, "activation": "sigmoid"}},
}
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
MISREADINGS = ("q and k", "k and v", "heads", "gelu", "positions")
_erf = np.vectorize(math.erf, otypes=[float])


def tensors_in(path: Path) -> dict[str, Array]:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, about in header.items():
        assert about["dtype"] == "F32"
        first, stop = about["data_offsets"]
        array = np.frombuffer(data[start + first : start + stop], "<f4")
        found[name] = array.reshape(about["shape"]).astype(np.float64)
    return found


class Outsider:
    """What the files of a run say.

    Args:
        misread: one of ``MISREADINGS``, to show that the comparison would notice it.
    """

    def __init__(self, run: Path, misread: str = "") -> None:
        self.misread = misread
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        self.model, lora = config["model"], config.get("lora")
        self.tokenizer = json.loads((run / "tokenizer.json").read_text(encoding="utf-8"))
        index = json.loads((run / "checkpoints/index.json").read_text(encoding="utf-8"))
        folder = run / "checkpoints" / (index["best"] or index["last"])
        average = folder / "average.safetensors"
        self.w = tensors_in(average if average.exists() else folder / "weights.safetensors")
        if lora is not None:
            self.w = tensors_in(run / "base/weights.safetensors") | self.w
            for name in [name for name in self.w if name.endswith(".lora_a")]:
                a, b = self.w.pop(name), self.w.pop(f"{name[:-1]}b")
                place = name.replace("lora_a", "weight")
                self.w[place] = self.w[place] + lora["alpha"] / lora["rank"] * b @ a
        self.pieces = self._pieces()

    def _pieces(self) -> list[bytes]:
        """The bytes of each id; none of special tokens."""
        kind = self.tokenizer["tokenizer"]
        if kind == "char":
            pieces = [c.encode() for c in self.tokenizer["characters"]]
        else:
            pieces = [bytes([i]) for i in range(256)]
        self.made = []
        for left, right in self.tokenizer.get("merges", []):
            piece = pieces[left] + pieces[right]
            if piece not in pieces:
                pieces.append(piece)
            self.made.append(pieces.index(piece))
        return pieces + [b""] * len(self.tokenizer["special_tokens"])

    def encode(self, text: str) -> list[int]:
        if self.tokenizer["tokenizer"] == "char":
            return [self.tokenizer["characters"].index(c) for c in text]
        if self.tokenizer["tokenizer"] == "byte":
            return list(text.encode())
        merges = {tuple(pair): rank for rank, pair in enumerate(self.tokenizer["merges"])}
        found: list[int] = []
        for word in WORD.findall(text):
            ids = list(word.encode())
            while len(ids) > 1:
                pairs = pairwise(ids)
                rank, place = min((merges.get(p, math.inf), i) for i, p in enumerate(pairs))
                if rank == math.inf:
                    break
                ids[place : place + 2] = [self.made[int(rank)]]
            found += ids
        return found

    def linear(self, x: Array, name: str) -> Array:
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w.get(f"{name}.bias", 0.0)

    def act(self, x: Array) -> Array:
        kind = self.model["activation"]
        if self.misread == "gelu" and kind in ("gelu", "gelu_tanh"):
            kind = "gelu_tanh" if kind == "gelu" else "gelu"
        if kind == "gelu":
            return x * (1 + _erf(x / math.sqrt(2))) / 2
        if kind == "gelu_tanh":
            return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        if kind == "sigmoid":
            return 1 / (1 + np.exp(-x))
        return np.maximum(x, 0) if kind == "relu" else np.tanh(x)

    def attention(self, qkv: Array) -> Array:
        n, n_head = len(qkv), self.model["n_head"]
        q, k, v = np.split(qkv, 3, axis=1)
        if self.misread == "q and k":
            q, k = k, q
        if self.misread == "k and v":
            k, v = v, k
        if self.misread == "heads":  # the heads' numbers one by one in turn
            order = np.arange(q.shape[1]).reshape(-1, n_head).T.ravel()
            q, k, v = q[:, order], k[:, order], v[:, order]
        heads = []
        for one_q, one_k, one_v in zip(
            *(np.split(x, n_head, axis=1) for x in (q, k, v)), strict=True
        ):
            scores = one_q @ one_k.T / math.sqrt(one_q.shape[1])
            scores[np.triu_indices(n, 1)] = -np.inf
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(p / p.sum(axis=1, keepdims=True) @ one_v)
        return np.concatenate(heads, axis=1)

    def logits(self, window: list[int]) -> Array:
        if self.model["name"] == "mlp":
            table, n_before = self.w["embedding.weight"], self.model["window"] - 1
            ids = [len(table) - 1] * n_before + window
            x = np.stack([table[ids[t : t + n_before + 1]].ravel() for t in range(len(window))])
            x = self.act(self.linear(x, "input"))
            for layer in range(self.model["n_layer"] - 1):
                x = self.act(self.linear(x, f"hidden.{layer}"))
            return self.linear(x, "output")
        first = 1 if self.misread == "positions" else 0
        n = len(window)
        x = self.w["wte.weight"][window] + np.roll(self.w["wpe.weight"], -first, axis=0)[:n]
        for layer in range(self.model["n_layer"]):
            h = f"h.{layer}"
            qkv = self.linear(self.norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")
            x = x + self.linear(self.attention(qkv), f"{h}.attn.c_proj")
            inner = self.linear(self.norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
            x = x + self.linear(self.act(inner), f"{h}.mlp.c_proj")
        head = self.w["wte.weight"] if self.model["tie_embeddings"] else self.w["lm_head.weight"]
        return self.norm(x, "ln_f") @ head.T

    def logprobs(self, ids: list[int]) -> Array:
        """Of each of ``ids`` but the first."""
        context, found = self.model["context"], []
        for first in range(0, len(ids) - 1, context):
            window, targets = ids[first : first + context], ids[first + 1 : first + context + 1]
            logits = self.logits(window[: len(targets)])
            largest = logits.max(axis=1)
            log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
            found.append(logits[np.arange(len(targets)), targets] - log_sum)
        return np.concatenate(found)

    def evaluate(self, text: str) -> dict[str, float]:
        ids = self.encode(text)
        total = -float(self.logprobs(ids).sum())
        n_bytes = sum(len(self.pieces[i]) for i in ids[1:])
        n = len(ids) - 1
        return {
            "val_loss": total / n,
            "n_tokens": n,
            "bits_per_byte": total / (math.log(2) * n_bytes),
        }


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text to train on, and another one to measure on."""
    folder = tmp_path_factory.mktemp("format")
    text = runs.write_text(folder).read_text(encoding="utf-8") + " cafés 12, 1999!\n"
    (folder / "text.txt").write_text(2 * text, encoding="utf-8")
    (folder / "other.txt").write_text(text[8:400] + text[-12:].strip(), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _quick(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.make_quick(monkeypatch, places / "cache")


def measured(run: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", str(run), "--text", str(text), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def trained(folder: Path, name: str, places: Path) -> Path:
    values = runs.settings(places / "text.txt", {}, steps=8, checkpoint_interval=4)
    for section, changes in CASES[name].items():
        whole = section in ("model", "averaging", "optimizer")
        values[section] = changes if whole else {**values[section], **changes}
    values["training"]["eval_interval"] = 4
    runs.train(runs.config_of(values), folder / "run")
    return folder / "run"


def logprobs_of_bptool(run: Path, ids: list[int]) -> Array:
    """Of each of ``ids`` but the first, by the program that evaluates."""
    opened = open_run(run)
    model, context = opened.model, opened.model.context
    acts = model.workspace(1, context, np.float32, blas_engine(np.float32))
    found = []
    for tokens, targets, n in evaluation_windows(np.array(ids), context, 1):
        model.loss(opened.params, acts, tokens, targets)
        found.append(model.token_logprobs(acts)[:n].copy())
    return np.concatenate(found)


@pytest.mark.parametrize("name", CASES)
def test_a_program_written_from_the_document_computes_what_eval_does(
    name: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text = trained(tmp_path, name, places), places / "other.txt"
    want = measured(run, text, capsys)
    found = Outsider(run).evaluate(text.read_text(encoding="utf-8"))
    assert found["n_tokens"] == want["n_tokens"]

    for key in ("val_loss", "bits_per_byte"):
        assert abs(found[key] - want[key]) <= 1e-5, key
    ids = Outsider(run).encode(text.read_text(encoding="utf-8"))
    off = Outsider(run).logprobs(ids) - logprobs_of_bptool(run, ids)
    assert np.abs(off).max() <= 1e-5


def test_adapters_are_added_to_the_base_as_the_document_says(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, data = trained(tmp_path, "gpt2, averaged", places), tmp_path / "records.jsonl"
    record = json.dumps({"prompt": "a", "completion": "cat"})
    data.write_text(20 * f"{record}\n", encoding="utf-8")
    words = ["finetune", "sft", str(base), "--data", str(data), "--quiet", "--epochs", "3"]
    words += ["--set", "optimizer.learning_rate=0.05", "--out", str(tmp_path / "tuned")]
    for targets in ("attention", "mlp"):
        lora = f"rank=3,alpha=5,targets={targets}"
        out = [*words[:-1], str(tmp_path / targets)]
        assert main([*out, "--lora", lora, "--skip-bad"]) == 0
        assert Outsider(tmp_path / targets).w["h.0.attn.c_attn.weight"].shape == (36, 12)
        want = measured(tmp_path / targets, places / "other.txt", capsys)
        found = Outsider(tmp_path / targets).evaluate((places / "other.txt").read_text("utf-8"))
        assert found["n_tokens"] == want["n_tokens"]
        assert abs(found["val_loss"] - want["val_loss"]) <= 1e-5
        before = measured(base, places / "other.txt", capsys)
        assert abs(before["val_loss"] - want["val_loss"]) > 1e-3, "the adapters add something"


def test_the_comparison_would_notice_a_misreading(places: Path, tmp_path: Path) -> None:
    run, text = trained(tmp_path, "gpt2", places), places / "other.txt"
    ids = Outsider(run).encode(text.read_text(encoding="utf-8"))
    want = logprobs_of_bptool(run, ids)
    for misread in MISREADINGS:
        assert np.abs(Outsider(run, misread).logprobs(ids) - want).max() > 1e-4, misread
