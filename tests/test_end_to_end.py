"""One run from a text to an answer, through real processes: the shortest proof that all holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import training_runs as runs

pytestmark = pytest.mark.quick


def bptool(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "BPTOOL_CACHE_DIR": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bptool", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_text_becomes_a_model_that_resumes_evaluates_and_writes(tmp_path: Path) -> None:
    runs.write_config(tmp_path, runs.settings(runs.write_text(tmp_path), runs.GPT2))
    bptool(tmp_path, "train", "config.yaml", "--out", "whole", "--quiet")
    assert "a resume changes nothing" in bptool(tmp_path, "verify-resume", "config.yaml")
    assert json.loads(bptool(tmp_path, "eval", "whole", "--json"))["val_loss"] < 4
    written = json.loads(bptool(tmp_path, "generate", "whole", "--max-tokens", "12", "--json"))
    assert len(written["samples"][0]["text"]) > 0
