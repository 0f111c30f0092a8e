"""From text to a model that answers: ``python docs/demo_chat.py [chat|rlhf] [--out FOLDER]``.

Runs the commands that a user would type, one after the other, and shows each. ``chat`` pretrains on
the bundled stories, fine-tunes on questions and answers, collects judgements of a rule that stands
in for a reviewer, moves the model toward them by DPO, and talks with it. ``rlhf`` goes on from
there with a reward model, PPO and GRPO. At the end a table says what each stage changed, on
questions about stories that no stage has seen.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CHAT = ROOT / "data" / "chat"
JUDGE = ROOT / "data" / "judge.py"
HELD_OUT = CHAT / "held_out_prompts.jsonl"
MARK = "made-by-the-demo.txt"
CONSOLE = Console(highlight=False)
MAX_TOKENS = "32"


@dataclass
class Stage:
    """What a stage left behind."""

    name: str
    run: Path
    seconds: float
    loss: str = "-"
    kl: str = "-"
    against: dict[str, Any] | None = None
    """What evaluate-preference said of it against the SFT run."""


def bptool(*arguments: str | Path, stdin: str | None = None) -> float:
    """Run a command as a user would, shown before it; returns its seconds."""
    words = [str(a) for a in arguments]
    shown = " ".join(w.replace(f"{ROOT}/", "") for w in words)
    CONSOLE.print(f"\n[bold cyan]$ bptool {shown}[/]", soft_wrap=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "bptool", *words]
    subprocess.run(command, cwd=ROOT, input=stdin, text=True, check=True)
    return time.monotonic() - start


def output_of(*arguments: str | Path) -> dict[str, Any]:
    """The JSON object that a command prints."""
    command = [sys.executable, "-m", "bptool", *map(str, arguments)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    value: dict[str, Any] = json.loads(found.stdout)
    return value


def compare(run: Path, other: Path) -> dict[str, Any]:
    """How the answers of ``run`` fare against those of ``other``."""
    judged = ("--prompts", HELD_OUT, "--judge", JUDGE, "--max-tokens", MAX_TOKENS)
    return output_of("evaluate-preference", run, other, *judged, "--json")


def loss_before(run: Path) -> float:
    """The loss on held-out records of the weights that a fine-tuning run began with."""
    from bptool.config.load import resolve
    from bptool.training.setup import build

    pieces = build(resolve(run / "config.yaml").config)
    try:
        return pieces.lesson.evaluate(pieces.step.params).evaluation.loss
    finally:
        pieces.close()


def last_kl(run: Path) -> str:
    """The KL divergence from the start in nats an answer, at the run's last evaluation."""
    for line in reversed((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        for name, value in json.loads(line).get("statistics", {}).items():
            if name.startswith("KL") and "k3" in name and value is not None:
                return f"{value:.2f}"
    return "-"


def chat(out: Path) -> list[Stage]:
    """Pretraining, fine-tuning, judgements, DPO, and a conversation."""
    pretrained, sft, dpo = out / "pretrained", out / "sft", out / "dpo"
    judgements = out / "judgements.jsonl"
    seconds = bptool("train", ROOT / "configs" / "quickstart.yaml", "--out", pretrained)
    stages = [Stage("pretrained", pretrained, seconds)]

    records = ("--data", CHAT / "train.jsonl", "--validation", CHAT / "held_out.jsonl")
    seconds = bptool("finetune", "sft", pretrained, *records, "--epochs", "6", "--out", sft)
    after = output_of("eval", sft, "--json")["val_loss"]
    stages[0].loss = f"{loss_before(sft):.3f}"
    stages.append(Stage("SFT", sft, seconds, loss=f"{after:.3f}"))
    stages[0].against = compare(pretrained, sft)

    CONSOLE.print("\nA rule stands in for a reviewer here; a person would leave --judge out.")
    asked = ("--prompts", CHAT / "prompts.jsonl", "--limit", "300", "--max-tokens", MAX_TOKENS)
    bptool("feedback", sft, *asked, "--judge", JUDGE, "--out", judgements)
    learnt = ("--data", judgements, "--beta", "0.3", "--epochs", "2")
    seconds = bptool("finetune", "dpo", sft, *learnt, "--out", dpo)
    stages.append(Stage("DPO", dpo, seconds, kl=last_kl(dpo), against=compare(dpo, sft)))

    with HELD_OUT.open(encoding="utf-8") as file:
        questions = [json.loads(next(file))["prompt"].replace("\n\n", " ") for _ in range(3)]
    for question in questions:
        CONSOLE.print(f"\n[dim]> {question}[/]", soft_wrap=True)
    bptool("chat", dpo, "--temperature", "0", stdin="\n/reset\n".join(questions) + "\n")
    return stages


def rlhf(out: Path) -> list[Stage]:
    """A reward model, and two ways to follow it, from what ``chat`` left."""
    sft, reward, ppo, grpo = (out / name for name in ("sft", "reward", "ppo", "grpo"))
    prompts = ("--prompts", CHAT / "prompts.jsonl", "--max-tokens", MAX_TOKENS)
    more = out / "more-judgements.jsonl"
    bptool("feedback", sft, *prompts, "--seed", "1", "--judge", JUDGE, "--out", more)
    judged = ("--data", out / "judgements.jsonl", "--data", more)
    held_out = ("--set", "data.split.validation_fraction=0.25")
    bptool("finetune", "reward", sft, *judged, *held_out, "--out", reward)
    stages = []
    for name, run, rewarded in (("PPO", ppo, reward), ("GRPO", grpo, JUDGE)):
        asked = ("--reward", rewarded, *prompts, "--out", run)
        seconds = bptool("finetune", name.lower(), sft, *asked)
        stages.append(Stage(name, run, seconds, kl=last_kl(run), against=compare(run, sft)))
    return stages


def table(stages: list[Stage]) -> Table:
    """What each stage changed."""
    found = Table(
        title="Questions about stories that no stage has seen", title_justify="left", box=None
    )
    found.add_column("stage", no_wrap=True)
    for heading in ("time", "loss", "right", "beats SFT", "95 %", "KL", "tokens"):
        found.add_column(heading, justify="right", no_wrap=True)
    baseline = next((s.against for s in stages if s.against), None)
    for stage in stages:
        seen, side = (stage.against, 0) if stage.against else (baseline, 1)
        assert seen is not None
        right, tokens = seen["correct"][side], seen["tokens an answer"][side]
        won = interval = "-"
        if stage.against:
            low, high = stage.against["interval_95"]
            won = f"{100 * stage.against['win_rate']:.1f} %"
            interval = f"{100 * low:.1f} to {100 * high:.1f}"
        found.add_row(
            *(stage.name, f"{stage.seconds:.0f} s", stage.loss, f"{100 * right:.1f} %"),
            *(won, interval, stage.kl, f"{tokens:.1f}"),
        )
    return found


def main() -> int:
    """Run the stages that were asked for, and say what they did."""
    parser = argparse.ArgumentParser(description="From text to a model that answers.")
    parser.add_argument("what", choices=("chat", "rlhf"), nargs="?", default="chat")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "demo-chat")
    options = parser.parse_args()
    out: Path = options.out
    start = time.monotonic()
    if options.what == "chat":
        if out.exists() and any(out.iterdir()):
            print(f"{out} is there already; move or remove it")
            return 2
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text("The next 'make demo-chat' removes this folder.\n", "utf-8")
        stages = chat(out)
    elif not (out / "judgements.jsonl").exists():
        print(f"{out} has no judgements yet; run 'make demo-chat' first")
        return 2
    else:
        stages = rlhf(out)
    CONSOLE.print()
    CONSOLE.print(table(stages))
    minutes = (time.monotonic() - start) / 60
    CONSOLE.print(
        "loss: nats a trained token of held-out answers; right: the judge finds the fact in the "
        "answer; beats SFT: by the judge, a tie counts half; KL: nats an answer from the start (k3)"
    )
    CONSOLE.print(f"All of it took {minutes:.1f} minutes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
