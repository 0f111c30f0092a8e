"""Files that earlier versions wrote are read as they were meant; see ``old_formats/README.md``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import training_runs as runs

from bptool.data.tokenfile import open_token_file
from bptool.data.tokenizers import load_tokenizer
from bptool.errors import DataError
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


def test_a_token_file_of_version_1_is_read_and_a_later_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.tokens"
    shutil.copy(OLD / "tokens-1.tokens", path)
    data = path.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + length])
    assert header["format_version"] == 1
    file = open_token_file(path, header["key"])
    tokenizer = load_tokenizer(OLD / "run-1" / "tokenizer.json")
    text = (OLD / "text.txt").read_text(encoding="utf-8")
    whole = tokenizer.decode(file.train) + tokenizer.decode(file.validation)
    assert (whole, len(file.train)) == (text, header["n_train"])
    del file
    changed = data.replace(b'"format_version": 1', b'"format_version": 9')
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"old\.tokens: unknown format_version; delete the file"):
        open_token_file(path, header["key"])
