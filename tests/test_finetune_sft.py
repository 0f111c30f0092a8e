"""Supervised fine-tuning: through the lesson, a resume, uneven micro-batches, and real commands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.data.tokenizers import load_tokenizer
from bptool.errors import ConfigError, RunError
from bptool.models.base import grow_vocabulary
from bptool.models.mlp import MLP, MLPConfig
from bptool.models.presets import GPT2, GPT2Config
from bptool.recipes.fine_tuning import settle_sft
from bptool.recipes.training import settle
from bptool.training import begin
from bptool.training.events import (
    Evaluated,
    Notice,
    Sampled,
    StepDone,
    TrainingFinished,
    TrainingStarted,
)
from bptool.training.lessons.records import Records, epoch_rows
from bptool.training.measure import measure
from bptool.training.run_folder import RunFolder
from bptool.training.setup import build
from bptool.training.trained import open_run

NAMES = ("ann", "bob", "cat", "dan")
MODEL = runs.GPT2 | {"context": 48}


def write_records(path: Path, n: int = 60) -> Path:
    values = []
    for i in range(n):
        name, thing = NAMES[i % 4], ("hat", "big red hen", "tree")[i % 3]
        values.append({"prompt": f"{name} sees a {thing}. who?", "completion": name})
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A pretrained run, and records."""
    folder = tmp_path_factory.mktemp("sft")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        text = folder / "text.txt"
        words = " ".join(
            f"{n} sees a {t}. who? big red hen" for n in NAMES for t in ("hat", "tree")
        )
        text.write_text(20 * f"{words}\n", encoding="utf-8")
        config = runs.config_of(runs.settings(text, MODEL))
        runs.train(config, folder / "base")
    return folder / "base", write_records(folder / "chat.jsonl")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def request(places: tuple[Path, Path], out: Path, sets: list[str] | None = None, **changes: Any):
    run, data = places
    options: dict[str, Any] = {
        "data": [str(data)],
        "validation": [],
        "template": None,
        "epochs": 2.0,
        "skip_bad": False,
        "checkpoint": "best",
        "sets": ["training.batch_size=2", "training.eval_interval=4", *(sets or [])],
        "out": out,
    }
    return settle_sft(run, **options | changes)


def test_a_model_learns_to_answer_and_to_stop(places: Any, tmp_path: Path) -> None:
    asked = request(places, tmp_path / "sft", epochs=25.0)
    recorder = runs.train(asked.config, asked.folder.path)
    judged = [event.val_loss for event in recorder.events if isinstance(event, Evaluated)]
    assert judged[-1] < 0.2 * judged[0]
    samples = [event for event in recorder.events if isinstance(event, Sampled)]
    last = samples[-1]
    assert last.prompt.split()[0] == last.text.strip()  # the name, and nothing after it
    opened = open_run(asked.folder.path)
    assert opened.config.chat is not None
    assert "<|end|>" in opened.tokenizer.special_tokens
    manifest = json.loads((asked.folder.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["start"]["run"] == str(places[0].absolute())
    again = measure(opened, [])
    best = min(judged)
    assert again.whole.loss == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("stop_at", [3, 6])
def test_stopped_and_resumed_equals_unbroken(places: Any, tmp_path: Path, stop_at: int) -> None:
    sets = ["training.steps=10", "model.dropout=0.1"]
    first = request(places, tmp_path / "unbroken", sets)
    runs.train(first.config, tmp_path / "unbroken")
    runs.train(first.config, tmp_path / "resumed", stop_at=stop_at)
    runs.resume(tmp_path / "resumed")
    assert runs.left_behind(tmp_path / "resumed") == runs.left_behind(tmp_path / "unbroken")


def test_what_it_started_from_may_be_gone_once_there_is_a_checkpoint(
    places: Any, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(places[0], base)
    asked = request((base, places[1]), tmp_path / "run", ["training.steps=8"])
    runs.train(asked.config, tmp_path / "unbroken")
    runs.train(asked.config, tmp_path / "run", stop_at=4)
    shutil.rmtree(base)
    runs.resume(tmp_path / "run")
    assert runs.left_behind(tmp_path / "run") == runs.left_behind(tmp_path / "unbroken")


def test_before_its_first_checkpoint_it_needs_the_very_weights(places: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(places[0], base)
    asked = request((base, places[1]), tmp_path / "run", ["training.steps=8"])
    training = begin.start_run(asked.config, RunFolder(tmp_path / "run"))
    training.pieces.close()
    runs.resume(base, ["training.steps=16"])
    with pytest.raises(RunError, match="has been trained on since"):
        runs.resume(tmp_path / "run")


def test_micro_batches_of_uneven_masks_equal_the_one_large_batch(
    places: Any, tmp_path: Path
) -> None:
    gradients, losses = [], []
    for micro, workers in ((8, 1), (2, 1), (4, 2)):
        sets = [f"training.micro_batch_size={micro}", f"training.workers={workers}"]
        asked = request(places, tmp_path / "run", ["training.batch_size=8", *sets])
        pieces = build(asked.config)
        try:
            lesson = pieces.lesson
            assert isinstance(lesson, Records)
            rows, packed = lesson.rows(1), lesson.records.train
            arrays = [x[rows] for x in (packed.tokens, packed.targets, packed.starts)]
            arrays[1][1, 5:] = -1  # rows count by their targets, of which they have few or many
            n = int((arrays[1] >= 0).sum())
            found = pieces.step.compute_gradient(*arrays[:2], n, 0, 1, arrays[2])
            losses.append(found.loss)
            gradients.append(pieces.step.shards.gradients[0].copy())
        finally:
            pieces.close()
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss == pytest.approx(losses[0], rel=1e-6)
        norm = np.linalg.norm(gradients[0])
        assert np.linalg.norm(gradient - gradients[0]) < 1e-6 * norm


def test_every_row_is_drawn_once_an_epoch() -> None:
    drawn = np.concatenate([epoch_rows(7, 3, step, 5) for step in range(1, 15)])
    for epoch in range(6):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert drawn[:7].tolist() != drawn[7:14].tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_new_ids_start_like_the_others_and_old_ones_stay(tied: bool) -> None:
    pairs: list[tuple[Any, Any]] = []
    for n in (11, 14):
        gpt2 = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=8, context=4, tie_embeddings=tied), n)
        pairs.append((gpt2, MLP(MLPConfig(window=2, n_embd=6, n_hidden=5, context=4), n)))
    for old, new in zip(*pairs, strict=True):
        weights = old.layout.allocate(np.float32)
        old.initialise(weights, 1)
        grown = new.layout.named(grow_vocabulary(old, weights, new, seed=2))
        for name, was in old.layout.named(weights).items():
            now = grown[name]
            if now.shape == was.shape:
                assert np.array_equal(now, was)
                continue
            assert np.array_equal(now[:11], was[:11])
            assert np.array_equal(now[14:], was[11:])  # what stands for no token stays last
            added = now[11:14]
            near = np.abs(added - was[:11].mean(axis=0)) <= 0.6 * was[:11].std(axis=0) + 1e-7
            assert near.all()
            if added.ndim > 1:
                assert len(np.unique(added.round(6), axis=0)) == 3


def test_texts_go_on_with_the_tokenizer_of_a_run(places: Any, tmp_path: Path) -> None:
    values = runs.settings(tmp_path / "more.txt", MODEL) | {"start": {"run": str(places[0])}}
    (tmp_path / "more.txt").write_text(60 * "dan sees ann. who? a red hat\n", encoding="utf-8")
    recorder = runs.train(runs.config_of(values), tmp_path / "more")
    first = next(event for event in recorder.events if isinstance(event, StepDone))
    assert first.loss < 2.5  # new weights begin at the logarithm of the vocabulary, near 3
    tokenizers = [load_tokenizer(run / "tokenizer.json") for run in (places[0], tmp_path / "more")]
    assert tokenizers[0].to_json() == tokenizers[1].to_json()


def test_train_from_a_run(places: Any, tmp_path: Path) -> None:
    run, _ = places
    more, odd = tmp_path / "more.txt", tmp_path / "odd.txt"
    more.write_text(60 * "dan sees ann. who? a red hat\n", encoding="utf-8")
    odd.write_text(60 * "dan sees $5 here\n", encoding="utf-8")
    config = settle([str(more)], [], [], None, False, start=run).config
    parent = open_run(run).config
    assert config.model == parent.model
    assert config.start is not None
    assert config.start.run == str(run.absolute())
    rates = [c.optimizer.config.learning_rate for c in (config, parent)]
    assert rates[0] == 0.5 * rates[1]
    assert config.training.steps == parent.training.steps == 12  # fewer than three passes
    again = settle([str(more)], [], ["training.batch_size=full"], None, False, start=run).config
    assert again.training.steps == 3
    out = tmp_path / "out"
    process = runs.process("train", str(more), "--from", str(run), "--out", str(out), "--json")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    steps = [e for e in map(json.loads, said.splitlines()) if e["event"] == "step_done"]
    assert steps[0]["loss"] < 2.5
    itself = runs.write_config(tmp_path, runs.settings(more, MODEL, steps=2))
    named = settle([str(itself)], [], [], None, False, start=run).config
    assert named.start == config.start
    assert named.training.steps == 2
    for arguments, message in (
        ((str(odd), "--from", str(run)), "'$'"),
        ((str(more), "--from", str(tmp_path / "none")), "there is no run folder"),
        ((str(out), "--resume", "--from", str(run)), "leave --from away"),
    ):
        refused = runs.process("train", *arguments, cwd=tmp_path)
        _, errors = refused.communicate(timeout=300)
        assert refused.returncode == 2, errors
        assert message in errors
    assert not (tmp_path / "runs").exists()


def test_a_model_of_other_sizes_is_refused(places: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model of .* has .* of shape"):
        request(places, tmp_path / "run", ["model.n_layer=1"])
    with pytest.raises(ConfigError, match="--epochs 0 is not a number above 0"):
        request(places, tmp_path / "run", epochs=0.0)


def test_what_was_left_out_is_said(places: Any, tmp_path: Path) -> None:
    data = tmp_path / "mixed.jsonl"
    long = json.dumps({"prompt": 30 * "big hen", "completion": "ann"})
    data.write_text(
        places[1].read_text(encoding="utf-8") + f'{{"bad": 1}}\n{long}\n', encoding="utf-8"
    )
    asked = request((places[0], data), tmp_path / "run", ["training.steps=1"], skip_bad=True)
    recorder = runs.train(asked.config, tmp_path / "run")
    said = [event.text for event in recorder.events if isinstance(event, Notice)]
    left_out = "1 of no known form, 1 longer than the model's context of 48 tokens"
    assert said == [f"2 records were left out: {left_out}"]
    started = next(e for e in recorder.events if isinstance(e, TrainingStarted))
    assert re.fullmatch(r"57 records, \d+ tokens trained on; 3 records, .*", started.material)
    finished = next(e for e in recorder.events if isinstance(e, TrainingFinished))
    assert finished.left_out == said[0]


def test_the_command(places: Any, tmp_path: Path) -> None:
    run, data = places
    out = tmp_path / "out"
    arguments = ["finetune", "sft", str(run), "--data", str(data), "--out", str(out)]
    process = runs.process(*arguments, "--epochs", "1", "--quiet")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Best validation loss" in said
    assert "<|end|>" in load_tokenizer(out / "tokenizer.json").special_tokens
    evaluated = runs.process("eval", str(out), "--json")
    found = json.loads(evaluated.communicate(timeout=300)[0])
    assert found["n_tokens"] > 0
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "x"}\n', encoding="utf-8")
    refused = runs.process("finetune", "sft", str(run), "--data", str(broken))
    _, errors = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert f"{broken}:1: completion is missing" in errors
    assert not (tmp_path / "runs").exists()
    for command in ("lr-find", "profile"):
        other = runs.process(command, str(out / "config.yaml"), cwd=tmp_path)
        _, errors = other.communicate(timeout=300)
        assert (other.returncode, "trains on records" in errors) == (2, True), errors
