"""``bptool train``, ``generate`` and ``eval`` from end to end on a small text."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.config.load import resolve
from bptool.data.batches import count_windows
from bptool.training.machine import choose_engine
from bptool.training.run_folder import RunFolder
from bptool.training.trained import open_run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``text.txt``, ``config.yaml`` and the finished run ``run``."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        patch.chdir(folder)
        values = runs.settings(runs.write_text(folder, 1500), runs.GPT2, steps=30)
        runs.write_config(folder, values)
        assert main(["train", "config.yaml", "--out", "run", "--quiet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    runs.make_quick(monkeypatch, home / "cache")
    monkeypatch.chdir(home)


Shown = pytest.CaptureFixture[str]


def output(capsys: Shown, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_training_from_a_text_alone_picks_a_model_and_a_folder(
    capsys: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = runs.write_text(tmp_path, 400)
    small = [
        *("--set", "training.steps=2", "--set", "model.n_embd=16", "--set", "model.n_head=2"),
        *("--set", "model.n_layer=1", "--set", "training.eval_tokens=50"),
    ]
    for name in ("text", "text-2"):
        printed = output(capsys, "train", str(text), *small)
        assert f"run folder: {Path('runs') / name}" in printed
        assert (tmp_path / "runs" / name / "manifest.json").exists()
    more = tmp_path / "more.txt"
    more.write_text("zebra\n" * 30, encoding="utf-8")
    output(capsys, "train", str(text), str(more), *small, "--quiet", "--out", "both")
    texts = resolve(tmp_path / "both" / "config.yaml").config.data.text
    assert texts == [str(text), str(more)]


def test_text_options_take_the_place_of_the_configurations(capsys: Shown, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("zebra and yak.\n" * 60, encoding="utf-8")
    out = tmp_path / "run"
    arguments = ["--text", str(other), "--set", "training.steps=2", "--out", str(out), "--quiet"]
    output(capsys, "train", "config.yaml", *arguments)
    assert resolve(out / "config.yaml").config.data.text == [str(other)]
    assert "zebra" not in output(capsys, "train", "config.yaml", "--plan", "--json")


def test_quiet_is_one_line_and_json_one_object_a_line(capsys: Shown, tmp_path: Path) -> None:
    arguments = ["train", "config.yaml", "--set", "training.steps=3", "--out"]
    quiet = output(capsys, *arguments, str(tmp_path / "a"), "--quiet")
    assert quiet.count("\n") == 1
    assert quiet.startswith("Trained 3 steps in ")
    lines = output(capsys, *arguments, str(tmp_path / "b"), "--json").splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events[0] == "training_started"
    assert events[-1] == "training_finished"
    assert events.count("step_done") == 3
    assert main([*arguments, str(tmp_path / "c"), "--quiet", "--json"]) == 2
    assert not (tmp_path / "c").exists()


def test_a_plan_says_what_a_run_takes_and_makes_nothing(capsys: Shown, tmp_path: Path) -> None:
    arguments = ["train", "config.yaml", "--out", str(tmp_path / "run"), "--plan"]
    plan = json.loads(output(capsys, *arguments, "--json"))
    model = open_run(Path("run")).model
    assert plan["n_parameters"] == model.n_parameters
    assert plan["flops_per_token"] == model.flops_per_token(8)
    assert plan["tokens_per_step"] == 48
    assert plan["seconds_per_step"] == pytest.approx(sum(plan["step_seconds"].values()))
    run = plan["run_seconds"]
    assert run["steps"] == pytest.approx(30 * plan["seconds_per_step"])
    assert set(run) == {"start", "steps", "evaluations", "samples", "checkpoints", "end"}
    assert all(seconds > 0 for seconds in run.values())
    assert plan["expected_seconds"] == pytest.approx(sum(run.values()))
    assert plan["memory_bytes"] > 12 * model.n_parameters + plan["activations_bytes"]
    assert plan["epochs"] == pytest.approx(30 * 48 / plan["n_train_tokens"])
    table = output(capsys, *arguments)
    for word in ("parameters", "memory", "MFLOP a token", "GFLOP/s", "30 steps"):
        assert word in table
    assert not (tmp_path / "run").exists()


def test_the_same_seed_writes_the_same_text(capsys: Shown) -> None:
    arguments = ["generate", "run", "--prompt", "the cat", "--max-tokens", "40"]
    first, second = (output(capsys, *arguments) for _ in range(2))
    assert first == second
    assert first.startswith("the cat")
    assert len(first) == len("the cat") + 40 + 1
    assert output(capsys, *arguments, "--seed", "1") != first
    greedy = [*arguments, "--temperature", "0"]
    assert output(capsys, *greedy) == output(capsys, *greedy, "--seed", "1")
    assert output(capsys, *greedy) == output(capsys, *arguments, "--top-k", "1")


def test_many_samples_and_json_agree_with_one(capsys: Shown) -> None:
    arguments = ["generate", "run", "--prompt", "the ", "--max-tokens", "30", "--seed", "7"]
    one = output(capsys, *arguments)
    three = output(capsys, *arguments, "--num-samples", "3")
    assert three.count("--- sample ") == 3
    assert f"--- sample 1 of 3 ---\n{one}\n" in three
    found = json.loads(output(capsys, *arguments, "--num-samples", "3", "--json"))
    assert set(found) == {"prompt", "seed", "step", "weights", "samples"}
    assert (found["prompt"], found["seed"]) == ("the ", 7)
    texts = [sample["text"] for sample in found["samples"]]
    assert len(set(texts)) == 3
    assert one == f"the {texts[0]}\n"
    assert all(f"the {text}\n" in three for text in texts)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_prompt_comes_from_standard_input_too(
    capsys: Shown, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat" + end), "ascii"))
    piped = output(capsys, "generate", "run", "--prompt", "-")
    assert piped == output(capsys, "generate", "run", "--prompt", "the cat")


def test_a_text_ends_before_a_string_that_stops_it(
    capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["generate", "run", "--prompt", "the ", "--max-tokens", "40", "--num-samples", "3"]
    free = [s["text"] for s in json.loads(output(capsys, *arguments, "--json"))["samples"]]
    stops = [free[0][5:8], free[1][10:12]]
    given = [word for stop in stops for word in ("--stop", stop)]
    held = [s["text"] for s in json.loads(output(capsys, *arguments, "--json", *given))["samples"]]

    def cut(text: str) -> str:
        """At the string that comes to its end first."""
        ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
        return text[: min(ends)[1]] if ends else text

    assert held == [cut(text) for text in free]
    assert held[0] != free[0]
    one = output(capsys, *arguments, "--num-samples", "1", "--stop", stops[0])
    assert one == f"the {cut(free[0]) if stops[1] not in free[0] else one[4:-1]}\n"
    assert main([*arguments, "--stop", ""]) == 2
    assert "--stop is empty" in capsys.readouterr().err


def test_writing_goes_on_past_the_context_and_may_be_empty(capsys: Shown) -> None:
    long = "the cat sees the dog " * 3
    text = output(capsys, "generate", "run", "--prompt", long, "--max-tokens", "100")
    assert text.startswith(long)
    assert len(text) == len(long) + 101
    assert output(capsys, "generate", "run", "--prompt", "cat", "--max-tokens", "0") == "cat\n"
    assert len(output(capsys, "generate", "run", "--max-tokens", "5")) == 6


def test_more_samples_than_fit_are_refused(capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptool.training.machine.total_memory_bytes", lambda: 10**6)
    assert main(["generate", "run", "--num-samples", "4096"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --num-samples 4096 needs ")
    assert said.count("\n") == 1


def test_control_characters_are_not_sent_to_a_terminal(
    capsys: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = tmp_path / "odd.txt"
    text.write_bytes(b"ab\x1b[31m\x07" * 100)
    arguments = ["--text", str(text), "--set", "training.steps=2", "--quiet"]
    run = str(tmp_path / "run")
    output(capsys, "train", "config.yaml", *arguments, "--out", run)
    generate = ["generate", run, "--prompt", "a\x1b[31m", "--max-tokens", "40"]
    assert "\x1b" in output(capsys, *generate)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    printed = output(capsys, *generate)
    assert not {"\x1b", "\x07"} & set(printed)
    assert printed.startswith(r"a\x1b[31m")


def recomputed(run: Path, tokens: Any) -> float:
    """Mean loss over ``tokens`` in float64, window by window, from the weights as saved."""
    opened = open_run(run)
    weights = opened.weights.astype(np.float64)
    aligned = opened.model.layout.allocate(np.float64)
    aligned[:] = weights
    context = opened.model.context
    engine = choose_engine("auto").make(np.float64)
    space = opened.model.workspace(1, context, np.float64, engine)
    losses = []
    for i in range(count_windows(len(tokens), context)):
        window = np.asarray(tokens[i * context : (i + 1) * context + 1], np.int32)
        inputs, targets = np.zeros((1, context), np.int32), np.full((1, context), -1, np.int32)
        inputs[0, : len(window) - 1], targets[0, : len(window) - 1] = window[:-1], window[1:]
        losses.append(opened.model.loss(opened.model.params(aligned), space, inputs, targets))
    return math.fsum(losses) / (len(tokens) - 1)


def test_eval_is_the_mean_over_the_whole_split(capsys: Shown, home: Path) -> None:
    found = json.loads(output(capsys, "eval", "run", "--json"))
    keys = {"val_loss", "perplexity", "bits_per_byte", "n_tokens", "step", "weights"}
    assert set(found) == keys
    opened = open_run(home / "run")
    text = (home / "text.txt").read_text(encoding="utf-8")
    tokens = opened.tokenizer.encode(text[int(len(text) * 0.9) :])
    assert found["n_tokens"] == len(tokens) - 1
    assert found["val_loss"] == pytest.approx(recomputed(home / "run", tokens), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["val_loss"]))
    assert found["bits_per_byte"] == pytest.approx(found["val_loss"] / math.log(2))
    assert found["step"] == opened.step
    table = output(capsys, "eval", "run")
    assert f"{found['val_loss']:.4f}" in table
    assert "nanoGPT" not in table


def test_eval_of_another_text_reads_the_whole_of_it(capsys: Shown, home: Path) -> None:
    other = home / "other.txt"
    other.write_text("the big dog likes a red tree,\n" * 20, encoding="utf-8")
    found = json.loads(output(capsys, "eval", "run", "--text", "other.txt", "--json"))
    tokens = open_run(home / "run").tokenizer.encode(other.read_text(encoding="utf-8"))
    assert found["n_tokens"] == len(tokens) - 1
    assert found["val_loss"] == pytest.approx(recomputed(home / "run", tokens), rel=1e-5)
    twice = ["--text", "other.txt", "--text", "other.txt"]
    found = json.loads(output(capsys, "eval", "run", *twice, "--json"))
    assert found["n_tokens"] == 2 * len(tokens) - 1


def test_nanogpts_estimate_stands_beside_the_whole_split(capsys: Shown) -> None:
    found = json.loads(output(capsys, "eval", "run", "--json", "--nanogpt-estimator"))
    assert (found["nanogpt_batches"], found["nanogpt_batch_size"]) == (200, 6)
    deviation = found["nanogpt_standard_deviation"]
    assert 0 < deviation < 0.05
    assert abs(found["nanogpt_estimate"] - found["val_loss"]) < 6 * deviation + 0.05
    again = json.loads(output(capsys, "eval", "run", "--json", "--nanogpt-estimator"))
    assert again == found
    assert "±" in output(capsys, "eval", "run", "--nanogpt-estimator")


def test_best_and_last_are_different_checkpoints(capsys: Shown, tmp_path: Path) -> None:
    values = runs.settings(Path("text.txt").absolute(), runs.GPT2, steps=6, eval_interval=2)
    runs.train(runs.config_of(values), tmp_path / "run")
    index = tmp_path / "run" / "checkpoints" / "index.json"
    state = json.loads(index.read_text(encoding="utf-8"))
    runs.resume(tmp_path / "run", ["training.steps=7", "training.eval_interval=100"], stop_at=7)
    run = RunFolder(tmp_path / "run")
    found = json.loads(output(capsys, "eval", str(run.path), "--json", "--last"))
    assert found["step"] == 7
    if state["best"] == "step-00000006":
        best = json.loads(output(capsys, "eval", str(run.path), "--json"))
        assert best["step"] in (6, 7)


def test_a_run_of_whole_documents_writes_and_measures(capsys: Shown, tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_text("\n\n".join(f"the cat sees {n} dogs." for n in range(120)), encoding="utf-8")
    values = runs.settings(text, runs.GPT2, steps=3)
    values["data"] |= {"tokenizer": {"name": "byte"}, "split": {"by": "document"}}
    path = runs.write_config(tmp_path, values)
    run = str(tmp_path / "run")
    output(capsys, "train", str(path), "--out", run, "--quiet")
    opened = open_run(Path(run))
    assert opened.tokenizer.special_tokens == {"<|endoftext|>": 256}
    found = json.loads(output(capsys, "generate", run, "--json", "--max-tokens", "30"))
    assert found["prompt"] == ""
    assert "<|endoftext|>" not in found["samples"][0]["text"]
    assert json.loads(output(capsys, "eval", run, "--json"))["n_tokens"] > 100
    one = tmp_path / "one.txt"
    one.write_text("the cat sees a dog.\n\nthe cat sees 3 dogs.", encoding="utf-8")
    # two stories between three ends of text
    found = json.loads(output(capsys, "eval", run, "--json", "--text", str(one)))
    assert found["n_tokens"] == 19 + 20 + 3 - 1
    assert found["bits_per_byte"] == pytest.approx(
        found["val_loss"] * found["n_tokens"] / math.log(2) / 39
    )
