"""``python -m benchmarks lr-find``: whether the rate that ``bptool lr-find`` suggests is good.

For each model, text and seed, a configuration is trained at rates of a grid a factor of 1.4 apart,
and at the rate that the finder suggests for it. A suggestion **holds** where the run at it ends
within 0.05 nats per token of the grid's best. It **diverged** where that run ends above guessing,
or not finite. No suggestion counts as a failure where a rate of the grid beats guessing by 0.2
nats. Guessing is the cross-entropy of the validation part under the frequencies of the training
tokens.

Results are appended to a file of JSON lines, one line per run, and what is there already is not
trained again: a benchmark that was stopped continues.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "window": 6, "n_embd": 12, "n_hidden": 64, "context": 32},
    "gpt2-1x32": {
        **{"name": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 32, "context": 32, "bias": False},
        **{"init_std": 0.05, "position_init": "sinusoidal"},
    },
    "gpt2-2x64": {"name": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "context": 64},
}
"""The second is initialized as ``bptool train TEXT`` does it, the third as GPT-2 was."""
TEXTS = ("data/stories.txt", "dataset:tinyshakespeare", "dataset:names")
STEPS, WARMUP_STEPS, BATCH_SIZE, EVAL_TOKENS = 400, 40, 8, 16384
N_SEEDS = 5
RATIO, FIRST, WIDEST = 1.4, 4e-3, 16
"""Neighbours of the grid; where it begins; rates to either side at most."""
CLEARLY_WORSE = 0.15
"""Nats above the best at which the grid ends on a side, two rates in a row."""
WITHIN, BEATS_GUESSING = 0.05, 0.2


class Setting(NamedTuple):
    """A model on a text, from a seed."""

    model: str
    text: str
    seed: int


def config_of(setting: Setting, rate: float = FIRST) -> Any:
    """The configuration of a setting, at a learning rate."""
    from bptool.config.load import resolve

    tokenizer = {"name": "bpe", "vocab_size": 512} if "stories" in setting.text else "char"
    return resolve(
        None,
        overrides={
            "model": MODELS[setting.model],
            "data": {"text": [setting.text], "tokenizer": tokenizer},
            "training": {
                **{"steps": STEPS, "batch_size": BATCH_SIZE, "workers": 1, "clip_norm": 1.0},
                **{"eval_interval": STEPS, "eval_tokens": EVAL_TOKENS},
                **{"seed": setting.seed, "data_seed": setting.seed},
            },
            "optimizer": {"name": "adamw", "learning_rate": rate, "weight_decay": 0.1},
            "schedule": {"name": "cosine", "warmup_steps": WARMUP_STEPS, "final_fraction": 0.1},
        },
    ).config


class Ledger:
    """What was measured, kept in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        self.losses: dict[tuple[Setting, float], float] = {}
        self.suggestions: dict[Setting, float | None] = {}
        self.guessing: dict[tuple[str, str], float] = {}
        for record in records:
            self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        setting = Setting(record["model"], record["text"], record["seed"])
        if record["kind"] == "run":
            loss = record["loss"]
            self.losses[setting, record["rate"]] = math.inf if loss is None else loss
        elif record["kind"] == "suggestion":
            self.suggestions[setting] = record["rate"]
        elif record["kind"] == "guessing":
            self.guessing[setting.model, setting.text] = record["loss"]

    def add(self, kind: str, setting: Setting, **values: Any) -> None:
        """Keep a result."""
        record = {"kind": kind, **setting._asdict(), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._take(record)


class Bench:
    """Trains what the ledger does not have yet."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._corpora: dict[tuple[str, str], Any] = {}

    def corpus(self, setting: Setting) -> Any:
        """The prepared text of a setting."""
        from bptool.data.corpus import prepare
        from bptool.training.setup import context_of

        key = setting.model, setting.text
        if key not in self._corpora:
            config = config_of(setting)
            self._corpora[key] = prepare(config.data, context_of(config))
        return self._corpora[key]

    def loss(self, setting: Setting, rate: float) -> float:
        """Validation loss at the end of a run; infinite where it was not finite."""
        from bptool.comparison.trial import run_trial

        if (setting, rate) not in self.ledger.losses:
            outcome = run_trial(config_of(setting, rate), self.corpus(setting))
            loss = outcome.final_loss
            known = loss is not None and math.isfinite(loss)
            self.ledger.add("run", setting, rate=rate, loss=loss if known else None)
        return self.ledger.losses[setting, rate]

    def grid(self, setting: Setting) -> dict[float, float]:
        """Loss at each rate of the grid, outwards from where it begins until the loss is clearly
        above the best on both sides."""
        losses = {FIRST: self.loss(setting, FIRST)}
        for direction in (1, -1):
            worse = 0
            for distance in range(1, WIDEST + 1):
                rate = float(f"{FIRST * RATIO ** (direction * distance):.4g}")
                losses[rate] = self.loss(setting, rate)
                clearly = losses[rate] > min(losses.values()) + CLEARLY_WORSE
                worse = worse + 1 if clearly else 0
                if worse == 2:
                    break
        return losses

    def suggestion(self, setting: Setting) -> float | None:
        """What the finder suggests for a configuration."""
        from bptool.training.lr_find import DEFAULT
        from bptool.training.lr_trials import find_rate

        if setting not in self.ledger.suggestions:
            found = find_rate(config_of(setting), DEFAULT, corpus=self.corpus(setting))
            self.ledger.add("suggestion", setting, rate=found.suggested, found=found.to_json())
        return self.ledger.suggestions[setting]

    def guessing(self, setting: Setting) -> float:
        """Loss of guessing on what the runs are judged by."""
        from bptool.training.health import guessing_loss

        key = setting.model, setting.text
        if key not in self.ledger.guessing:
            corpus = self.corpus(setting)
            judged = corpus.validation[1 : EVAL_TOKENS + 1]
            loss = guessing_loss(corpus.train, judged, corpus.tokenizer.vocab_size)
            self.ledger.add("guessing", setting, loss=loss)
        return self.ledger.guessing[key]


class Verdict(NamedTuple):
    """What a suggestion came to."""

    setting: Setting
    suggested: float | None
    loss: float
    best_rate: float
    best_loss: float
    guessing: float

    @property
    def holds(self) -> bool:
        """Whether the suggestion, or the refusal, is right."""
        if self.suggested is None:
            return self.best_loss > self.guessing - BEATS_GUESSING
        return self.loss <= self.best_loss + WITHIN

    @property
    def diverged(self) -> bool:
        return self.suggested is not None and not self.loss < self.guessing


def judge(bench: Bench, setting: Setting) -> Verdict:
    """Train what is missing, and say what the suggestion for a setting came to."""
    grid = bench.grid(setting)
    suggested = bench.suggestion(setting)
    loss = math.inf if suggested is None else bench.loss(setting, suggested)
    best = min(grid, key=lambda rate: grid[rate])
    return Verdict(setting, suggested, loss, best, grid[best], bench.guessing(setting))


def measure(path: Path, texts: Sequence[str], n_seeds: int) -> Iterator[Verdict]:
    """Judge the suggestions for each model, text and seed."""
    bench = Bench(Ledger(path))
    for seed in range(n_seeds):
        for text in texts:
            for model in MODELS:
                yield judge(bench, Setting(model, text, seed))


def line(verdict: Verdict) -> str:
    """A verdict as a row of a Markdown table."""
    setting, text = verdict.setting, Path(verdict.setting.text.rpartition(":")[2]).stem
    suggested = "none" if verdict.suggested is None else f"{verdict.suggested:.2g}"
    above = verdict.loss - verdict.best_loss
    word = "diverged" if verdict.diverged else "holds" if verdict.holds else "fails"
    return (
        f"| {setting.model} | {text} | {setting.seed} | {suggested} | {verdict.best_rate:.2g} "
        f"| {verdict.loss:.3f} | {verdict.best_loss:.3f} | {above:+.3f} | {word} |"
    )


HEAD = """| model | text | seed | suggested | best of the grid | its loss | the grid's | above | |
|---|---|---:|---:|---:|---:|---:|---:|---|"""


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many suggestions hold and diverge, and what they cost."""
    n, n_holds = len(verdicts), sum(verdict.holds for verdict in verdicts)
    n_diverged = sum(verdict.diverged for verdict in verdicts)
    costs = sorted(v.loss - v.best_loss for v in verdicts if v.suggested is not None)
    middle = f"{costs[len(costs) // 2]:+.3f}" if costs else "-"
    worst = f"{costs[-1]:+.3f}" if costs else "-"
    return (
        f"{n_holds} of {n} hold ({100 * n_holds / n:.0f} %), {n_diverged} diverged; above the "
        f"grid's best by {middle} nats per token in the median and {worst} at worst"
    )
