"""What :mod:`benchmarks.reliability.kill` kills: a command of each kind, and what it reads."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

CONFIG = """
model: {name: gpt2, n_layer: 2, n_head: 2, n_embd: 16, context: 32, dropout: 0.1}
data: {text: book.txt, tokenizer: char}
training: {steps: 400, batch_size: 8, eval_interval: 100, checkpoint_interval: 20,
           eval_tokens: 256, workers: 2}
optimizer: {name: adamw, learning_rate: 0.01}
sample: {max_tokens: 16}
"""
PREPARE = """
model: {name: mlp, window: 2, n_embd: 4, n_hidden: 8, context: 8}
data: {text: long.txt, tokenizer: {name: bpe, vocab_size: 512}}
training: {steps: 20, batch_size: 4, eval_tokens: 64, workers: 1}
sample: {max_tokens: 0}
"""
RULES = "def reward(prompt, answer):\n    return answer.count('a') / max(len(answer), 1)\n"
WORDS = "the a cat dog sees likes red big and house tree, sat mat.\n".split(" ")


@dataclass(frozen=True)
class Kind:
    """Something to kill.

    Attributes:
        begin: the command that starts a run in the folder ``{out}``.
        parents: runs that it starts from or is rewarded by.
        resume: the one that goes on with it.
    """

    name: str
    begin: tuple[str, ...]
    parents: tuple[str, ...] = ()
    resume: tuple[str, ...] = ("train", "{out}", "--resume", "--quiet")


RULED = ("train", "{out}", "--resume", "--quiet", "--reward", "rules.py")
QUIET = ("--out", "{out}", "--quiet")
OFTEN = ("--set", "training.checkpoint_interval=5")
SHORT = (*OFTEN, "--set", "sample.max_tokens=8", *QUIET)
RECORDS = ("--data", "records.jsonl", "--epochs", "20")
PAIRS = ("--data", "pairs.jsonl", "--epochs", "12")
ASKED = ("--prompts", "prompts.txt", "--prompts-per-step", "4", "--max-tokens", "8")
PARENTS = {
    "parent": ("train", "config.yaml", "--set", "training.steps=100", *QUIET),
    "judge": ("finetune", "reward", "parent", "--data", "pairs.jsonl", "--epochs", "2", *QUIET),
}
"""Runs that are made first and never killed."""
_FROM = ("parent",)
_ALL = (
    Kind("train", ("train", "config.yaml", *QUIET)),
    Kind("prepare", ("train", "prepare.yaml", *QUIET)),
    Kind("from", ("train", "more.txt", "--from", "parent", *SHORT), _FROM),
    Kind("sft", ("finetune", "sft", "parent", *RECORDS, *SHORT), _FROM),
    Kind("lora", ("finetune", "sft", "parent", "--lora", "rank=2", *RECORDS, *SHORT), _FROM),
    Kind("reward", ("finetune", "reward", "parent", *PAIRS, *SHORT), _FROM),
    Kind("dpo", ("finetune", "dpo", "parent", *PAIRS, *SHORT), _FROM),
    Kind(
        "ppo",
        ("finetune", "ppo", "parent", "--reward", "judge", "--steps", "30", *ASKED, *SHORT),
        ("parent", "judge"),
    ),
    Kind(
        "grpo",
        ("finetune", "grpo", "parent", "--reward", "rules.py", "--steps", "30", *ASKED, *SHORT),
        _FROM,
        RULED,
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
COMPARE = "compare"
"""The kind that is a study, not a run."""


def write_inputs(folder: Path) -> None:
    """Write texts, configurations, records, preferences, prompts and rules, always the same."""
    draw = random.Random(3)
    for name, n in (("book.txt", 3000), ("more.txt", 2000), ("long.txt", 300_000)):
        text = " ".join(draw.choice(WORDS) for _ in range(n))
        (folder / name).write_text(text, encoding="utf-8")
    for name, text in (("config.yaml", CONFIG), ("prepare.yaml", PREPARE), ("rules.py", RULES)):
        (folder / name).write_text(text, encoding="utf-8")
    asked = [f"{draw.choice(WORDS)} {draw.choice(WORDS)}".replace("\n", "") for _ in range(60)]
    (folder / "prompts.txt").write_text("\n".join(dict.fromkeys(asked)) + "\n", encoding="utf-8")
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(120):
            record = {"prompt": draw.choice(WORDS), "completion": draw.choice(WORDS)}
            file.write(json.dumps(record) + "\n")
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for prompt in asked:
            pair = {"prompt": prompt, "chosen": "a cat sat", "rejected": draw.choice(WORDS)}
            file.write(json.dumps(pair) + "\n")
