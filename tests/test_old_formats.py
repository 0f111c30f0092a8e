"""Files that earlier versions wrote are read as they were meant; see ``old_formats/README.md``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import training_runs as runs

from bptool.training.checkpoint import CheckpointStore
from bptool.training.trained import open_run

OLD = Path(__file__).parent / "old_formats"
VAL_LOSS_OF_THE_WHOLE_RUN = 2.892535
"""That the version which wrote ``run-1`` found at step 12 of the same run unbroken."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def test_a_run_of_version_1_is_opened_and_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    run = tmp_path / "old" / "run-1"
    assert (open_run(run).step, open_run(run, last=True).step) == (5, 6)
    assert np.isfinite(open_run(run).weights).all()
    runs.resume(run)
    records = runs.measured(run)
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 13))
    found = [r["val_loss"] for r in records if r["kind"] == "evaluation"][-1]
    assert found == pytest.approx(VAL_LOSS_OF_THE_WHOLE_RUN, abs=1e-4)
    index = CheckpointStore(run / "checkpoints").index()
    assert index.last == "step-00000012"
