"""Short runs of every method of fine-tuning, from one small pretrained run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from bptool.cli.finetune.request import settle_preferences, settle_rollouts, settle_sft

NAMES = ("ann", "bob", "cat", "dan")
RULES = "def reward(prompt, answer):\n    return answer.count('a') / max(len(answer), 1)\n"
STEPS = 6
METHODS = ("sft", "lora", "dpo", "ipo", "kto", "reward", "ppo", "grpo")


def make_base(folder: Path) -> Path:
    """Put a pretrained run, records, preferences, prompts and rules into a folder."""
    asked = [f"{n} sees a {t}. who?" for n in NAMES for t in ("hat", "tree", "dog", "hen")]
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        text = folder / "text.txt"
        text.write_text(20 * f"{' '.join(asked)} big red\n", encoding="utf-8")
        model = runs.GPT2 | {"context": 48, "dropout": 0.1}
        runs.train(runs.config_of(runs.settings(text, model, steps=3)), folder / "base")
    records = [{"prompt": a, "completion": a[:3]} for a in asked]
    pairs = [{"prompt": a, "chosen": a[:3], "rejected": "hat"} for a in asked]
    for name, values in (("records", records), ("pairs", pairs)):
        lines = "".join(json.dumps(v) + "\n" for v in values)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    return folder


def settled(base: Path, method: str, out: Path, more: Sequence[str] = ()) -> Any:
    """The configuration of a short run by ``method``; ``more`` changes settings."""
    sets = [
        f"training.steps={STEPS}",
        "training.batch_size=4",
        "training.eval_tokens=96",
        "model.dropout=0.1",
        *more,
    ]
    common: dict[str, Any] = {"validation": [], "checkpoint": "best", "sets": sets, "out": out}
    learnt: dict[str, Any] = {"epochs": 2.0, "skip_bad": False, **common}
    run = base / "base"
    if method in ("sft", "lora"):
        lora = "rank=2" if method == "lora" else None
        data = [str(base / "records.jsonl")]
        return settle_sft(run, data=data, template=None, lora=lora, **learnt).config
    if method in ("ppo", "grpo"):
        shape = {"prompts": 4, "max_tokens": 6, **({"answers": 2} if method == "grpo" else {})}
        asked = {"prompts": [str(base / "prompts.txt")], "reward": str(base / "rules.py")}
        return settle_rollouts(run, method, steps=STEPS, rollouts=shape, **asked, **common).config
    data = [str(base / "pairs.jsonl")]
    return settle_preferences(run, {"name": method}, data=data, **learnt).config
