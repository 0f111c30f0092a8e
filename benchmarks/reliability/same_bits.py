"""Compares what two versions of bptool compute, bit for bit, by many short runs on this machine.

    python -m benchmarks.reliability.same_bits BEFORE [AFTER] [--only NAME ...] [--keep FOLDER]

``BEFORE`` and ``AFTER`` are commits, or folders that hold a checkout; without ``AFTER`` the
checkout that this file lies in is taken as it is. Each version runs from a worktree of its own with
an empty kernel cache, and both run the same commands on the same inputs: pretraining in all its
kinds, fine-tuning, a study, the learning-rate finder, gradient checks in float64, generation and
resumption, some of them with two workers. Every setting that a machine could decide is stated.

What is compared: every number of ``metrics.jsonl`` but the times, samples, every tensor of every
checkpoint, the tables of studies, the answers of commands with ``--json``, and which files there
are. For each run that differs the first step and the tensors that differ are named, and the exit
code is 1. Nothing is stored, since bits depend on the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.reliability.kinds import write_inputs

ROOT = Path(__file__).resolve().parent.parent.parent
TIMES = frozenset({
    "seconds", "created", "finished", "elapsed_seconds", "tokens_per_second", "files", "date",
    "versions", "commit", "sha256", "seal", "tensors", "flops_utilization", "pid", "peak_bytes",
    "compile_seconds",
})  # fmt: skip
"""Keys whose values may differ between two runs of one version."""

GPT2 = """
model: {name: gpt2, n_layer: 3, n_head: 2, n_embd: 32, context: 24, bias: true, activation: gelu,
        init_std: 0.02, position_init: normal, tie_embeddings: true, dropout: 0.1,
        stochastic_depth: 0.1}
"""
MLP = """
model: {name: mlp, window: 4, n_embd: 8, n_hidden: 24, n_layer: 2, context: 24, activation: tanh,
        dropout: 0.1}
"""
COMMON = """
data: {text: book.txt, tokenizer: char, sampling: random,
       split: {by: position, validation_fraction: 0.1}}
training: {steps: 20, batch_size: 6, micro_batch_size: 6, eval_interval: 10, eval_tokens: 480,
           checkpoint_interval: 10, workers: 1, split: batch, engine: tiled, seed: 3,
           clip_norm: 1.0, log_interval: 1}
optimizer: {name: adamw, learning_rate: 0.005, weight_decay: 0.1}
schedule: {name: cosine, warmup_steps: 3}
sample: {max_tokens: 24}
"""
STUDY = """
workloads: [{name: small, config: gpt2.yaml}]
optimizers: [adamw, lion]
ruleset: tuned
tuning: {trials: 2}
final: {seeds: 2}
"""


@dataclass(frozen=True)
class Run:
    """A command, the folder that it leaves or that its answer is kept in, and what must come first.

    ``{out}`` in ``words`` stands for the run's own folder; a name of another run, for that run's.
    """

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()


def _train(name: str, config: str, *settings: str) -> Run:
    sets = [word for setting in settings for word in ("--set", setting)]
    return Run(name, ("train", f"{config}.yaml", *sets, "--out", "{out}", "--quiet"))


def _tune(name: str, method: str, *words: str, parent: str = "base", after: str = "") -> Run:
    options = ("--set", "training.workers=1", "--set", "training.checkpoint_interval=4")
    needs = (parent, after) if after else (parent,)
    return Run(
        name, ("finetune", method, parent, *words, *options, "--out", "{out}", "--quiet"), needs
    )


_RECORDS = ("--data", "records.jsonl", "--epochs", "2")
_PAIRS = ("--data", "pairs.jsonl", "--epochs", "2")
_ASKED = (
    *("--prompts", "prompts.txt", "--prompts-per-step", "4", "--max-tokens", "6"),
    *("--steps", "8"),
)

RUNS = (
    _train("base", "gpt2", "model.dropout=0", "model.stochastic_depth=0"),
    _train("dropout", "gpt2"),
    _train("accumulation", "gpt2", "training.micro_batch_size=2"),
    _train("two-workers", "gpt2", "training.workers=2"),
    _train("inside", "gpt2", "training.workers=2", "training.split=inside"),
    _train("accumulation-inside", "gpt2", "training.workers=2", "training.split=inside",
           "training.micro_batch_size=3"),
    _train("bpe", "gpt2", "data.tokenizer={name: bpe, vocab_size: 300}"),
    _train("bytes-documents", "gpt2", "data.tokenizer=byte",
           "data.split={by: document, separator: \"\\n\", validation_fraction: 0.1}"),
    _train("relu-untied", "gpt2", "model.activation=relu", "model.tie_embeddings=false",
           "model.bias=false"),
    _train("gelu-tanh", "gpt2", "model.activation=gelu_tanh", "model.position_init=sinusoidal"),
    _train("muon", "gpt2", "optimizer={name: muon, learning_rate: 0.01}"),
    _train("soap", "gpt2", "optimizer={name: soap, learning_rate: 0.003}"),
    _train("schedule-free", "gpt2", "optimizer={name: schedule-free-adamw, learning_rate: 0.003}"),
    _train("adafactor", "gpt2", "optimizer={name: adafactor, learning_rate: 0.003}"),
    _train("regularised", "gpt2", "regularizers=[{name: l1, strength: 1e-5},"
           " {name: l2, strength: 1e-4}, {name: max-norm, norm: 1.0}, {name: gradient-noise}]"),
    _train("ema", "gpt2", "averaging=ema"),
    _train("z-loss", "gpt2", "training.z_loss=1e-4", "training.label_smoothing=0.1"),
    _train("epochs", "gpt2", "data.sampling=epoch"),
    _train("early-stopping", "gpt2", "training.early_stopping.patience=1",
           "training.eval_interval=2", "optimizer.learning_rate=0.3"),
    _train("mlp", "mlp"),
    _train("mlp-relu-two-workers", "mlp", "training.workers=2", "model.activation=relu",
           "optimizer={name: nesterov, learning_rate: 0.1}"),
    Run("resumed", ("train", "stopped", "--resume", "--set", "training.steps=20", "--quiet"),
        ("stopped",)),
    _tune("sft", "sft", *_RECORDS),
    _tune("sft-lora", "sft", "--lora", "rank=2", *_RECORDS),
    _tune("reward", "reward", *_PAIRS),
    _tune("dpo", "dpo", *_PAIRS),
    _tune("dpo-lora", "dpo", *_PAIRS, parent="sft-lora"),
    _tune("ipo", "dpo", "--loss", "ipo", *_PAIRS),
    _tune("kto", "dpo", "--loss", "kto", *_PAIRS),
    _tune("ppo", "ppo", "--reward", "rules.py", *_ASKED),
    _tune("ppo-judged", "ppo", "--reward", "reward", *_ASKED, after="reward"),
    _tune("grpo", "grpo", "--reward", "rules.py", *_ASKED),
    Run("generate", ("generate", "base", "--num-samples", "3", "--max-tokens", "40", "--top-k",
                     "12", "--seed", "5", "--json"), ("base",)),
    Run("generate-lora", ("generate", "sft-lora", "--prompt", "a cat", "--max-tokens", "16",
                          "--json"), ("sft-lora",)),
    Run("generate-mlp", ("generate", "mlp", "--max-tokens", "24", "--json"), ("mlp",)),
    Run("eval", ("eval", "base", "--json"), ("base",)),
    Run("gradcheck-gpt2", ("gradcheck", "gpt2.yaml", "--json")),
    Run("gradcheck-mlp", ("gradcheck", "mlp.yaml", "--json")),
    Run("lr-find", ("lr-find", "gpt2.yaml", "--steps", "90", "--json")),
    Run("study", ("compare-optimizers", "study.yaml", "--processes", "1", "--out", "{out}",
                  "--quiet")),
)  # fmt: skip
STOPPED = _train("stopped", "gpt2", "training.steps=10")


def _write_inputs(folder: Path) -> None:
    write_inputs(folder)
    for name, text in (("gpt2.yaml", GPT2 + COMMON), ("mlp.yaml", MLP + COMMON)):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")


@contextlib.contextmanager
def _checkout(version: str, folder: Path) -> Iterator[Path]:
    """A folder with the code of ``version``, a commit or a folder."""
    if Path(version).is_dir():
        yield Path(version).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), version], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def _run_all(code: Path, folder: Path, runs: Sequence[Run]) -> None:
    """Make ``runs`` in ``folder`` with the package of ``code``."""
    folder.mkdir()
    _write_inputs(folder)
    environment = {
        **os.environ,
        "PYTHONPATH": str(code),
        "NUMBA_CACHE_DIR": str(folder / "kernels"),
        "BPTOOL_CACHE_DIR": str(folder / "cache"),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }
    for run in runs:
        words = [word.replace("{out}", run.name) for word in run.words]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "bptool", *words],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
        (folder / f"{run.name}.code").write_text(str(done.returncode), encoding="utf-8")
        if "--json" in words:
            (folder / f"{run.name}.json").write_text(done.stdout, encoding="utf-8")
        print(f"  {run.name}: {time.monotonic() - began:.1f} s", flush=True)
        if done.returncode not in (0, 3):
            raise SystemExit(
                f"bptool {' '.join(words)}: exit code {done.returncode}\n{done.stderr}"
            )


def _without_times(value: Any, folder: Path) -> Any:
    """``value`` of JSON without times, and with the folder of the run made anonymous."""
    match value:
        case dict():
            return {k: _without_times(v, folder) for k, v in value.items() if k not in TIMES}
        case list():
            return [_without_times(item, folder) for item in value]
        case str():
            return value.replace(str(folder), "FOLDER")
    return value


def _lines(path: Path, folder: Path) -> list[Any]:
    return [
        _without_times(json.loads(line), folder)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def _differing_keys(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
        return ", ".join(f"{k}: {a.get(k)!r:.60} and {b.get(k)!r:.60}" for k in keys[:4])
    return f"{a!r:.120} and {b!r:.120}"


def _different_json(a: Path, b: Path, folders: tuple[Path, Path]) -> Iterator[str]:
    """The first line or step in which two files of JSON, or of JSON Lines, differ."""
    left, right = (_lines(p, f) for p, f in zip((a, b), folders, strict=True))
    for number, (x, y) in enumerate(zip(left, right, strict=False), 1):
        if x != y:
            place = f"step {x['step']}" if isinstance(x, dict) and "step" in x else f"line {number}"
            yield f"{a.name}, {place}: {_differing_keys(x, y)}"
            return
    if len(left) != len(right):
        yield f"{a.name}: {len(left)} and {len(right)} lines"


def _different_tensors(a: Path, b: Path) -> Iterator[str]:
    left, right = load_file(a), load_file(b)
    place = f"{a.parent.name}/{a.name}"
    if left.keys() != right.keys():
        yield f"{place}: tensors {sorted(left.keys() ^ right.keys())} are in one only"
    for name in left:
        if name in right and left[name].tobytes() != right[name].tobytes():
            if left[name].shape == right[name].shape and left[name].dtype.kind == "f":
                largest = np.max(np.abs(left[name].astype("f8") - right[name].astype("f8")))
                yield f"{place}: {name} differs by up to {largest:.3g}"
            else:
                yield f"{place}: {name} differs"


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip


def differences(name: str, before: Path, after: Path) -> Iterator[str]:
    """What differs of one run between two folders in which it was made."""
    folders = before, after
    for suffix in (".code", ".json"):
        a, b = (folder / f"{name}{suffix}" for folder in folders)
        if a.exists():
            yield from _different_json(a, b, folders)
    a, b = (folder / name for folder in folders)
    if not a.is_dir():
        return
    here, there = _files(a), _files(b)
    for path in sorted(here ^ there):
        yield f"{path} is {'no longer there' if path in here else 'new'}"
    common = sorted(here & there, key=lambda path: (path.count("/"), path))
    for path in common:
        match Path(path).suffix, Path(path).name:
            case ".safetensors", _:
                yield from _different_tensors(a / path, b / path)
            case _, "state.json" | "metrics.jsonl" | "results.jsonl" | "held-out.jsonl":
                yield from _different_json(a / path, b / path, folders)
            case ".txt", "samples.txt":
                if (a / path).read_bytes() != (b / path).read_bytes():
                    yield f"{path} differs"


def _selected(only: Sequence[str]) -> list[Run]:
    """The runs named, and before them those that they start from."""
    every = {run.name: run for run in (STOPPED, *RUNS)}
    if unknown := sorted(set(only) - every.keys()):
        raise SystemExit(f"no such run: {', '.join(unknown)}; there are {', '.join(every)}")
    wanted: dict[str, Run] = {}

    def add(name: str) -> None:
        for parent in every[name].after:
            add(parent)
        wanted.setdefault(name, every[name])

    for name in only or every:
        add(name)
    return list(wanted.values())


def main() -> None:
    """Make the runs with both versions and say what differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.same_bits")
    parser.add_argument("before", help="a commit, or a folder with a checkout")
    parser.add_argument("after", nargs="?", default=str(ROOT), help="the same; by default this one")
    parser.add_argument("--only", nargs="+", default=[], help="names of runs")
    parser.add_argument("--keep", type=Path, help="a new folder for what the runs leave")
    arguments = parser.parse_args()
    runs = _selected(arguments.only)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        made = []
        for label in ("before", "after"):
            version = getattr(arguments, label)
            print(f"{label}: {version}", flush=True)
            code = stack.enter_context(_checkout(version, folder / f"code-{label}"))
            _run_all(code, folder / label, runs)
            made.append(folder / label)
        n_different = 0
        for run in runs:
            found = list(differences(run.name, *made))
            n_different += bool(found)
            for line in found[:6]:
                print(f"{run.name}: {line}")
            if len(found) > 6:
                print(f"{run.name}: and {len(found) - 6} more")
    print(f"{len(runs) - n_different} of {len(runs)} runs are equal bit for bit")
    raise SystemExit(1 if n_different else 0)


if __name__ == "__main__":
    main()
