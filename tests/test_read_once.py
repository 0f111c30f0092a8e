"""Fine-tuning opens its parent once, and reads, tokenizes and packs what it learns from once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from bptool.cli.main import main


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often the parent's weights and the records are read, in a folder with a run ``base``."""
    runs.write_finetuning(tmp_path)
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    seen: Counter[str] = Counter()

    def count(name: str) -> None:
        module, _, function = name.rpartition(".")
        real = getattr(__import__(module, fromlist=[function]), function)

        def counting(*arguments: Any, **named: Any) -> Any:
            seen[function] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(name, counting)

    count("bptool.training.trained.read_weights")
    count("bptool.training.setup.prepare_records")
    count("bptool.training.fine_tuning.prepare_preferences")
    return seen


def test_sft_reads_once(counts: Counter[str]) -> None:
    assert main(["finetune", "sft", "base", "--data", "records.jsonl", "--quiet"]) in (0, 3)
    assert counts == {"read_weights": 1, "prepare_records": 1}


def test_sft_of_adapters_reads_once(counts: Counter[str]) -> None:
    options = ["--data", "records.jsonl", "--lora", "rank=2", "--quiet"]
    assert main(["finetune", "sft", "base", *options]) in (0, 3)
    assert counts == {"read_weights": 1, "prepare_records": 1}


def test_preference_training_reads_once(
    counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # which opens the finished run anew
    monkeypatch.setattr("bptool.cli.finetune.reliability.show_reliability", lambda *a: None)
    options = ["--data", "pairs.jsonl", "--epochs", "1", "--quiet"]
    assert main(["finetune", "dpo", "base", *options]) in (0, 3)
    assert counts == {"read_weights": 1, "prepare_preferences": 1}
