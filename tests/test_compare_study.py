"""A study while it runs: workers that are killed, a study that is killed, and one that goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.kill_study import (
    PATIENCE_SECONDS,
    STUDY,
    end,
    final_tables,
    finish,
    kill_worker,
    start,
    write_study,
)
from bptool.cli.main import main
from bptool.comparison.events import Event, TrialFinished, TrialRetried, TrialStarted
from bptool.comparison.executors import ProcessExecutor
from bptool.comparison.ground import survey
from bptool.comparison.plan import make_plan
from bptool.comparison.results import ResultsFolder
from bptool.comparison.study import Study
from bptool.config.load import read_study
from bptool.errors import RunError
from bptool.training.lock import STUDY_LOCK

posix = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    write_study(path)
    return path


def small_study(folder: Path, out: str) -> tuple[Study, ResultsFolder]:
    file = read_study(
        folder / STUDY,
        [],
        {"optimizers": ["adamw", "sgd"], "tuning": {"trials": 1}, "final": {"seeds": 2}},
    )
    ground = survey(file)
    plan = make_plan(file.config, ground.workloads)
    results = ResultsFolder(folder / out)
    results.create(plan, ground.about)
    return Study(plan, ground, results, ProcessExecutor(1)), results


@posix
def test_a_trial_whose_process_is_killed_is_tried_again_then_failed(folder: Path) -> None:
    study, results = small_study(folder, "killed-workers")
    seen: list[Event] = []
    doomed: list[str] = []

    def kill(event: Event) -> None:
        seen.append(event)
        if isinstance(event, TrialStarted):
            name = event.trial.name
            once = name.startswith("tuning") and "sgd" in name
            always = name.startswith("final") and name.endswith("sgd-0-seed0")
            if always or (once and name not in doomed):
                doomed.append(name)
                assert event.pid is not None
                os.kill(event.pid, signal.SIGKILL)

    assert study.run([kill]) is False
    retried = [event.trial.name for event in seen if isinstance(event, TrialRetried)]
    assert sorted(retried) == sorted(set(doomed))
    ended = {e.record.name: e.record for e in seen if isinstance(e, TrialFinished)}
    lost = [record for record in ended.values() if record.status == "failed"]
    assert [record.name for record in lost] == [doomed[-1]]
    assert "exit code -9" in lost[0].error
    assert len(ended) == study.plan.n_trials
    # What failed says nothing about the optimizer: the study goes on with it.
    kept = results.read()
    again = Study(kept.plan, study.ground, results, ProcessExecutor(1), kept.records, kept.timings)
    assert again.run([]) is False
    assert {record.status for record in results.read().records} == {"completed"}


def test_a_torn_last_line_is_cut_off(folder: Path, tmp_path: Path) -> None:
    study, results = small_study(folder, "torn")
    study.executor.close()
    whole = results.results.read_bytes()
    results.results.write_bytes(whole + b'{"kind": "trial", "na')
    assert results.read().records == ()
    assert results.results.read_bytes() == whole
    results.results.write_bytes(whole + b"{}garbage\n")
    with pytest.raises(RunError, match=r"results.jsonl:2: not a JSON object"):
        results.read()
    header = json.loads(whole)
    for plugins in ("p.py", [3], ["p" * 5000]):
        results.results.write_text(json.dumps(header | {"plugins": plugins}) + "\n", "utf-8")
        with pytest.raises(RunError, match=r"results.jsonl:1: plugins is no list of names"):
            results.read()
    with pytest.raises(RunError, match="no study is here"):
        ResultsFolder(tmp_path).read()
    with pytest.raises(RunError, match="go on with it by --resume"):
        results.require_free()


@posix
def test_no_child_outlives_a_killed_study_and_resuming_changes_nothing(folder: Path) -> None:
    finish(start(folder, "whole"))
    expected = final_tables(folder / "whole")
    assert expected[0]["optimizers"][0]["final"] is not None
    kills = ((2, signal.SIGKILL, False), (7, signal.SIGTERM, False), (12, signal.SIGINT, True))
    for lines, number, group in kills:
        process = start(folder, "broken")
        results = folder / "broken" / "results.jsonl"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if results.exists() and results.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.01)
        if lines == 7:
            kill_worker(signal.SIGKILL)(process)
        assert end(process, number, group) == []
    finish(start(folder, "broken"))
    assert final_tables(folder / "broken") == expected
    lines_ = (folder / "broken" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    names = [line["name"] for line in map(json.loads, lines_) if line["kind"] == "trial"]
    assert len(names) == len(set(names))
    assert all(
        dataclasses.asdict(r)["status"] == "completed"
        for r in ResultsFolder(folder / "broken").read().records
    )


@posix
def test_a_stopped_study_reports_what_it_has_and_says_how_to_go_on(folder: Path) -> None:
    process = start(folder, "stopped")
    results = folder / "stopped" / "results.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if results.exists() and results.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 143
    assert "trials are done; go on with: bptool compare-optimizers --resume stopped" in err
    assert json.loads((folder / "stopped.json").read_text(encoding="utf-8"))["interrupted"]


def test_two_processes_never_work_in_one_study(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, results = small_study(folder, "held")
    study.executor.close()
    before = results.results.read_bytes()
    with open(results.results, "ab") as file:  # as if its process were in the middle of a line
        file.write(b'{"kind"')
    assert main(["compare-optimizers", "--resume", str(results.path)]) == 2
    assert "is in use: process" in capsys.readouterr().err
    assert results.results.read_bytes() == before + b'{"kind"'
    results.release()
    assert not (results.path / STUDY_LOCK).exists()


def test_what_a_killed_process_left_half_written_goes_on_a_resume(folder: Path) -> None:
    study, results = small_study(folder, "half")
    study.executor.close()
    results.release()
    for place in (results.path, results.trials):
        (place / ".writing-abc").write_text("half")
    again = ResultsFolder(results.path)
    assert again.hold() == ""
    again.release()
    assert sorted(path.name for path in results.path.rglob("*")) == ["results.jsonl", "trials"]


def test_a_study_killed_before_its_first_line_is_begun_again(folder: Path) -> None:
    out = folder / "early"
    (out / "trials").mkdir(parents=True)
    (out / STUDY_LOCK).write_text("")
    (out / ".writing-abc").write_text("half")
    with pytest.raises(RunError, match="is begun again by the command that began it"):
        ResultsFolder(out).require_study()
    study, results = small_study(folder, "early")
    study.executor.close()
    results.release()
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", "trials"]
    (folder / "taken" / "trials").mkdir(parents=True)
    (folder / "taken" / "trials" / "mine.yaml").write_text("")
    with pytest.raises(RunError, match="is not empty"):
        ResultsFolder(folder / "taken").require_free()
