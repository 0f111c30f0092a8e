"""Every method of fine-tuning, stopped after each step and gone on with: the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from bptool.cli.finetune.request import settle_preferences, settle_rollouts, settle_sft
from bptool.training.verify_resume import verify_resume

NAMES = ("ann", "bob", "cat", "dan")
RULES = "def reward(prompt, answer):\n    return answer.count('a') / max(len(answer), 1)\n"
STEPS = 6
METHODS = ("sft", "lora", "dpo", "ipo", "kto", "reward", "ppo", "mix", "grpo")


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    """A folder with a pretrained run, records, preferences, prompts and rules."""
    folder: Path = tmp_path_factory.mktemp("resume")
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


def settled(base: Path, method: str, out: Path) -> Any:
    """The configuration of a short run by ``method``."""
    sets = [
        f"training.steps={STEPS}",
        "training.batch_size=4",
        "training.eval_tokens=96",
        "model.dropout=0.1",
    ]
    common: dict[str, Any] = {"validation": [], "checkpoint": "best", "sets": sets, "out": out}
    learnt: dict[str, Any] = {"epochs": 2.0, "skip_bad": False, **common}
    run = base / "base"
    if method in ("sft", "lora"):
        lora = "rank=2" if method == "lora" else None
        data = [str(base / "records.jsonl")]
        return settle_sft(run, data=data, template=None, lora=lora, **learnt).config
    if method == "mix":
        sets += [f"rollouts.mix_text=[{base / 'text.txt'}]", "rollouts.mix_weight=0.5"]
        method = "ppo"
    if method in ("ppo", "grpo"):
        shape = {"prompts": 4, "max_tokens": 6, **({"answers": 2} if method == "grpo" else {})}
        asked = {"prompts": [str(base / "prompts.txt")], "reward": str(base / "rules.py")}
        return settle_rollouts(run, method, steps=STEPS, rollouts=shape, **asked, **common).config
    data = [str(base / "pairs.jsonl")]
    return settle_preferences(run, {"name": method}, data=data, **learnt).config


@pytest.mark.parametrize("method", METHODS)
def test_stopped_after_each_step_and_resumed(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    config = settled(base, method, tmp_path / "run")
    assert max(config.model.config.dropout_sites()) > 0
    stops = [*((step,) for step in range(1, STEPS)), tuple(range(1, STEPS))]
    for found in verify_resume(config, STEPS, stops):
        assert found.differences == [], found.stops
