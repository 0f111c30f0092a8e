"""Whatever fails of what a run asks of the disk: one clear line or a run that goes on, and a last
checkpoint that loads."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import training_runs as runs
from faults import WAYS, Faults, Way, check_goes_on, chosen, ended_clearly

from bptool import files
from bptool.cli.main import main
from bptool.training.checkpoint import CheckpointStore, is_whole
from bptool.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def begin(config: Path, run: Path) -> list[str]:
    return ["train", str(config), "--out", str(run), "--quiet"]


def small(tmp_path: Path) -> Path:
    """The configuration of a run of four steps, each second saved and evaluated."""
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2 | {"n_layer": 1}, steps=4)
    values["training"] |= {"eval_interval": 2, "checkpoint_interval": 2}
    return runs.write_config(tmp_path, values)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_fault_at_any_call(way: Way, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(tmp_path)
    none = Faults()
    assert none.run(begin(config, tmp_path / "unbroken")) == 0
    want = runs.left_behind(tmp_path / "unbroken")
    assert {"write", "flush", "fsync", "replace", "rename", "mkdir", "mkstemp"} <= set(none.calls)
    assert len(none.calls) > 100
    shutil.rmtree(tmp_path / "cache")
    run = tmp_path / "run"
    for faults in chosen(none.calls, [way]):
        capsys.readouterr()
        exit_code = faults.run(begin(config, run))
        what = ended_clearly(exit_code, capsys.readouterr().err, faults)
        check_goes_on(begin(config, run), run, want, what)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.rmtree(run)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(files.TEMPORARY_PREFIX)]


def test_a_slow_disk_changes_nothing(tmp_path: Path) -> None:
    config = small(tmp_path)
    assert Faults().run(begin(config, tmp_path / "fast")) == 0
    slow = Faults(seconds=0.01)
    assert slow.run(begin(config, tmp_path / "slow")) == 0
    assert len(slow.calls) > 100
    assert runs.left_behind(tmp_path / "slow") == runs.left_behind(tmp_path / "fast")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_slow_disk_saves(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path)
    none = Faults()
    assert none.run(begin(config, tmp_path / "unbroken")) == 0
    want = runs.left_behind(tmp_path / "unbroken")
    shutil.rmtree(tmp_path / "cache")
    saving = [n for n, call in enumerate(none.calls) if call == "mkdir"][-2:]
    for first in saving:
        for moment in range(first, first + 12, 4):
            run = tmp_path / f"run-{moment}"

            def send(at: int, moment: int = moment) -> None:
                if at == moment:
                    signal.raise_signal(number)

            capsys.readouterr()
            exit_code = Faults(seconds=0.001, at=send).run(begin(config, run))
            error = capsys.readouterr().err
            assert exit_code in (0, 128 + number), error
            store = CheckpointStore(RunFolder(run).checkpoints)
            assert is_whole(store.resolve("last")), error
            check_goes_on([], run, want, error)
            shutil.rmtree(tmp_path / "cache")


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
