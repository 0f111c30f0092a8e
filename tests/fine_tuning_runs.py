"""Short runs of every method of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptool.recipes.fine_tuning import settle_preferences, settle_rollouts, settle_sft

STEPS = 6
METHODS = ("sft", "lora", "dpo", "ipo", "kto", "reward", "ppo", "mix", "grpo")


def settled(base: Path, method: str, out: Path, more: Sequence[str] = ()) -> Any:
    """The configuration of a short run by ``method``, from what ``write_finetuning`` put into
    ``base``; ``more`` changes settings."""
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
    if method == "mix":
        sets += [f"rollouts.mix_text=[{base / 'text.txt'}]", "rollouts.mix_weight=0.5"]
        method = "ppo"
    if method in ("ppo", "grpo"):
        shape = {"prompts": 4, "max_tokens": 6, **({"answers": 2} if method == "grpo" else {})}
        asked: dict[str, Any] = {"prompts": [str(base / "prompts.txt")], "skip_bad": False}
        asked |= {"reward": str(base / "rules.py"), "steps": STEPS, "rollouts": shape}
        return settle_rollouts(run, method, **asked, **common).config
    data = [str(base / "pairs.jsonl")]
    return settle_preferences(run, {"name": method}, data=data, **learnt).config
