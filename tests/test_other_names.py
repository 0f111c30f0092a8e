"""Names that other tools have for settings lead to ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from bptool.config.load import resolve
from bptool.config.other_names import REASONS, SETTINGS, UNITS
from bptool.config.report import spot_at
from bptool.errors import ConfigError

WHOLE = {
    "model": {"name": "gpt2"},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "cosine"},
    "objective": {"name": "dpo"},
    "data": {"tokenizer": {"name": "bpe"}},
}


@pytest.mark.parametrize("key", sorted(set(SETTINGS.values())))
def test_every_name_leads_to_a_setting_that_there_is(key: str) -> None:
    path = tuple(key.removesuffix(".name").split("."))
    assert spot_at(path, WHOLE) is not None


def test_no_name_is_explained_twice() -> None:
    assert not SETTINGS.keys() & REASONS.keys()
    assert SETTINGS.keys() >= UNITS.keys()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_iters=8", "--set max_iters=8: unknown key; bptool calls it training.steps"),
        ("training.max_steps=8", "bptool calls it training.steps"),
        ("optimizer.LR=8", "bptool calls it optimizer.learning_rate"),
        ("model.block-size=8", "bptool calls it model.context"),
        (
            "training.eval_iters=8",
            "bptool calls it training.eval_tokens, in tokens, not in batches",
        ),
        ("min_lr=8", "schedule.final_fraction, as a share of the learning rate"),
        ("batch_size=8", "it belongs in 'training'"),
        ("training.learning_rate=8", "it belongs in 'optimizer'"),
        ("device=cpu", "bptool has no such setting: bptool trains on the CPU"),
        ("training.num_train_epochs=3", "bptool finetune has --epochs"),
        ("training.stepz=8", "did you mean 'steps'?"),
    ],
)
def test_a_setting_by_the_name_of_another_tool(setting: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("text", encoding="utf-8")
    overrides = {"data": {"text": [str(tmp_path / "t.txt")]}, "training": {"steps": 1}}
    with pytest.raises(ConfigError) as caught:
        resolve(None, [setting], {**overrides, "model": {"name": "gpt2"}})
    assert words in str(caught.value)
