"""Whatever fails of what a study asks of the disk: one clear line or a study that goes on, no trial
that ended is lost, and the tables of a study that met nothing in the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from faults import Faults, chosen, ended_clearly

from benchmarks.kill_study import STUDY, tables, write_study
from bptool.cli import comparison_session
from bptool.comparison import plots
from bptool.comparison.jobs import Job, Report, run_job
from bptool.comparison.results import ResultsFolder

SETTINGS = ("optimizers=[adamw, sgd]", "tuning.trials=2", "final.seeds=2", "timing_steps=5")
N_TRIALS = 8


class Here:
    """An executor that does each job in this process, where the layer of faults is."""

    n_slots = 1

    def __init__(self) -> None:
        self._reports: list[Report] = []

    @property
    def pids(self) -> dict[str, int]:
        return {}

    def submit(self, job: Job) -> None:
        self._reports.append(run_job(job))

    def wait(self, seconds: float) -> list[Report]:
        found, self._reports = self._reports, []
        return found

    def close(self) -> None:
        self._reports.clear()


@pytest.fixture(autouse=True)
def _inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_study(tmp_path, steps=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(comparison_session, "_executor", lambda *arguments: Here())
    # drawing takes most of the time, and its bytes go through the same function
    monkeypatch.setattr(plots, "_png", lambda figure: b"a picture")


def begin(out: str) -> list[str]:
    sets = [f"--set={setting}" for setting in SETTINGS]
    return ["compare-optimizers", STUDY, *sets, "--out", out, "--json"]


def test_a_fault_at_any_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = Faults()
    assert none.run(begin("whole")) == 0
    want = tables(capsys.readouterr().out)
    files = {path.name for path in Path("whole").iterdir()}
    assert {"write", "flush", "fsync", "replace", "mkdir", "mkstemp", "open"} <= set(none.calls)
    slow = Faults(seconds=0.002)
    assert slow.run(begin("slow")) == 0
    assert tables(capsys.readouterr().out) == want
    out = Path("study")
    for faults in chosen(none.calls):
        shutil.rmtree(tmp_path / "cache")
        exit_code = faults.run(begin("study"))
        what = ended_clearly(exit_code, capsys.readouterr().err, faults)
        kept = records(out)
        has_begun = (out / "results.jsonl").exists()
        resume = ["compare-optimizers", "--resume", "study", "--json"]
        assert Faults().run(resume if has_begun else begin("study")) == 0, what
        assert tables(capsys.readouterr().out) == want, what
        assert {n: r for n, r in records(out).items() if n in kept} == kept, what
        assert len(records(out)) == N_TRIALS, what
        assert {path.name for path in out.iterdir()} == files, what
        assert not faults.leftovers(out), what
        shutil.rmtree(out)


def records(folder: Path) -> dict[str, Any]:
    """The trials that ended, as a study that goes on reads them."""
    if not (folder / "results.jsonl").exists():
        return {}
    found = ResultsFolder(folder).read().records
    return {record.name: record for record in found if record.status != "failed"}
