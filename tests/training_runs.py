"""Small runs for the tests: their text, their configurations, and what they left behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bptool.config.load import resolve
from bptool.config.schema import RunConfig
from bptool.plugins import name_rules
from bptool.training import measurements
from bptool.training.begin import resume_run, start_run
from bptool.training.checkpoint import CheckpointStore
from bptool.training.cost import KernelRate, Overhead, PassRate, Rates
from bptool.training.events import Event, StepDone
from bptool.training.metrics import read_metrics
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import reseal
from bptool.training.small_run import SmallRun

GPT2 = {"name": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "context": 8, "dropout": 0.2}
MLP = {"name": "mlp", "window": 3, "n_embd": 5, "n_hidden": 12, "n_layer": 2, "context": 8}
TIMINGS = {"seconds"}
NAMES = ("ann", "bob", "cat", "dan")
RULES = "def reward(prompt, answer):\n    return answer.count('a') / max(len(answer), 1)\n"


def seal(run: Path, **more: Any) -> None:
    """Give a run of an earlier version the hashes of its files, and its manifest ``more``."""
    folder = RunFolder(run)
    reseal(folder, json.loads(folder.manifest.read_text(encoding="utf-8")) | more)


def write_text(folder: Path, n_words: int = 400) -> Path:
    """A text of simple sentences, always the same."""
    draw = random.Random(1)
    words = "the a cat dog sees likes red big and house.\n tree,".split(" ")
    path = folder / "text.txt"
    text = " ".join(draw.choice(words) for _ in range(n_words))
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def settings(text: Path, model: dict[str, Any], **training: Any) -> dict[str, Any]:
    """A configuration as plain values; ``training`` changes its section."""
    section = {
        "steps": 12,
        "batch_size": 6,
        "workers": 2,
        "eval_interval": 5,
        "checkpoint_interval": 3,
        "eval_tokens": 64,
        "seed": 3,
        "clip_norm": 1.0,
    }
    return {
        "model": dict(model),
        "data": {"text": [str(text)], "sampling": "epoch"},
        "training": section | training,
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 1},
        "sample": {"max_tokens": 12},
    }


def config_of(values: dict[str, Any], sets: Sequence[str] = ()) -> RunConfig:
    return resolve(None, sets, values).config


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    """The configuration as a file (JSON is YAML)."""
    path = folder / "config.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def write_finetuning(folder: Path, **model: Any) -> Path:
    """``folder`` with a pretrained run ``base``, and the records, preferences, prompts and rules to
    fine-tune it by; ``model`` changes its model."""
    asked = [f"{n} sees a {t}. who?" for n in NAMES for t in ("hat", "tree", "dog", "hen")]
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch, folder / "cache")
        text = folder / "text.txt"
        text.write_text(20 * f"{' '.join(asked)} big red\n", encoding="utf-8")
        model = GPT2 | {"context": 48, "dropout": 0.1} | model
        train(config_of(settings(text, model, steps=3)), folder / "base")
    records = [{"prompt": a, "completion": a[:3]} for a in asked]
    pairs = [{"prompt": a, "chosen": a[:3], "rejected": "hat"} for a in asked]
    for name, values in (("records", records), ("pairs", pairs)):
        lines = "".join(json.dumps(v) + "\n" for v in values)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    return folder


class Recorder:
    """Keeps events, and asks the run to stop after a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.stop_at = stop_at
        self.stop: Callable[[], None] = lambda: None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepDone) and event.step == self.stop_at:
            self.stop()


def train(config: RunConfig, folder: Path, stop_at: int | None = None) -> Recorder:
    """Start a run and train it to its end, or until stopped after a step."""
    return _run(start_run, config, folder, stop_at)


def resume(folder: Path, sets: Sequence[str] = (), stop_at: int | None = None) -> Recorder:
    """Go on with a run."""
    return _run(resume_run, resolve(RunFolder(folder).config, sets).config, folder, stop_at)


def _run(begin: Any, config: RunConfig, folder: Path, stop_at: int | None) -> Recorder:
    recorder = Recorder(stop_at)
    if config.rollouts is not None and not Path(config.rollouts.reward).is_dir():
        name_rules("--reward", Path(config.rollouts.reward))
    training = begin(config, RunFolder(folder), [recorder])
    recorder.stop = training.request_stop
    try:
        training.run()
    finally:
        training.pieces.close()
    return recorder


def measured(folder: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl`` without timings."""
    records = read_metrics(RunFolder(folder).metrics)
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]


def left_behind(folder: Path) -> dict[str, Any]:
    """All that two runs with the same bits share: metrics, samples, hashes of the checkpoints."""
    run = RunFolder(folder)
    index = CheckpointStore(run.checkpoints).index()
    files = sorted(path for path in run.checkpoints.rglob("*") if path.is_file())
    hashes = {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    samples = run.samples.read_text(encoding="utf-8") if run.samples.exists() else ""
    return {"metrics": measured(folder), "samples": samples, "index": index, "hashes": hashes}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, to show that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def make_quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A cache of its own, and neither a measured peak nor a plot, which take most of the time."""
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(cache))
    monkeypatch.setattr("bptool.training.run.machine.measure_peak_flops", lambda run_on_all: 1e9)
    monkeypatch.setattr("bptool.training.run.plot_losses", lambda *arguments: None)
    make_plans_quick(monkeypatch)


def make_plans_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up figures in place of the measurement that plans are made from."""
    passes, nothing = PassRate(((1.0, 1e-9),)), Overhead(1.0, 0.0)

    def rates(kind: Any, *arguments: Any) -> Rates:
        kernels = {
            operation.kernel: KernelRate(1e-11, 1e-10, 1e-9)
            for reference in kind.references()
            for operation in reference.model.operations(1, reference.model.context)
        }
        overheads = dict.fromkeys(("batch", "inside"), nothing)
        return Rates(kernels, passes, passes, passes, overheads, 1e-5, 1e-10, 0.01, 1e-9)

    monkeypatch.setattr(measurements, "measure_rates", rates)
    monkeypatch.setattr(measurements, "measure_update", lambda *arguments: passes)
    small = SmallRun(200_000_000, 1.0, 2.0)
    monkeypatch.setattr(measurements, "run_small", lambda *arguments: small)


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """``bptool`` as a process of its own."""
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "bptool", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": root, "PYTHONIOENCODING": "utf-8"},
        **options,
    )
