"""Whatever fails of what a run asks of the disk: one clear line or a run that goes on, and a last
checkpoint that loads."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest
import training_runs as runs
from faults import Faults

from bptool import files
from bptool.cli.main import main
from bptool.training.checkpoint import CheckpointStore, is_whole
from bptool.training.run_folder import RunFolder

EVERY = int(os.environ.get("BPTOOL_FAULTS_EVERY", "12"))
"""One of so many calls fails; 1 takes minutes and leaves none out but the first few."""
LAYERS = {
    "no space from then on": (errno.ENOSPC, True),
    "an I/O error once": (errno.EIO, False),
    "read-only from then on": (errno.EROFS, True),
    "permission denied once": (errno.EACCES, False),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def _train(config: Path, run: Path, faults: Faults) -> int:
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        return main(["train", str(config), "--out", str(run), "--quiet"])


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_fault_at_any_write(
    layer: tuple[int, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lasting = layer
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=4, eval_interval=2)
    values["training"]["checkpoint_interval"] = 2
    config = runs.write_config(tmp_path, values)
    none = Faults()
    assert _train(config, tmp_path / "unbroken", none) == 0
    want = runs.left_behind(tmp_path / "unbroken")
    assert {"write", "fsync", "replace", "mkdir", "mkstemp"} <= set(none.calls)
    assert len(none.calls) > 60
    shutil.rmtree(tmp_path / "cache")
    # some calls, others for each layer
    first = 2 * sorted(LAYERS.values()).index(layer)
    for number in range(first, len(none.calls), EVERY):
        run = tmp_path / f"run-{number}"
        capsys.readouterr()
        exit_code = _train(config, run, Faults(number, code, lasting))
        error = capsys.readouterr().err
        what = (number, none.calls[number], error)
        assert exit_code in (0, 2), what
        assert "Traceback" not in error, what
        assert error.count("error: ") == (exit_code == 2), what
        if run.exists():
            store = CheckpointStore(RunFolder(run).checkpoints)
            if store.index().last is not None:
                assert is_whole(store.resolve("last")), what
            assert main(["train", str(run), "--resume", "--quiet"]) == 0, what
            left = runs.left_behind(run)
            assert left["metrics"] == want["metrics"], what
            last = f"checkpoints/{want['index'].last}/weights.safetensors"
            assert left["hashes"][last] == want["hashes"][last], what
            assert not list(run.rglob(f"{files.TEMPORARY_PREFIX}*")), what
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(files.TEMPORARY_PREFIX)]


def test_a_slow_disk_changes_nothing(tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=4, eval_interval=2)
    config = runs.write_config(tmp_path, values)
    assert _train(config, tmp_path / "fast", Faults()) == 0
    slow = Faults(seconds=0.01)
    assert _train(config, tmp_path / "slow", slow) == 0
    assert len(slow.calls) > 60
    assert runs.left_behind(tmp_path / "slow") == runs.left_behind(tmp_path / "fast")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=4)
    runs.train(runs.config_of(values), tmp_path / "run", stop_at=2)
    (tmp_path / "run").chmod(0o500)
    try:
        assert main(["train", str(tmp_path / "run"), "--resume", "--quiet"]) == 2
    finally:
        (tmp_path / "run").chmod(0o700)
    assert main(["train", str(tmp_path / "run"), "--resume", "--quiet"]) == 0
