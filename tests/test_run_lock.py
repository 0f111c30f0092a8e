"""Two processes never train in one folder, and a lock whose process has ended holds nobody up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import training_runs as runs

from bptool.errors import RunError
from bptool.training import begin, lock
from bptool.training.lock import RUN_LOCK, FolderLock
from bptool.training.run_folder import RunFolder

HOLD = (
    "import sys; from pathlib import Path; from bptool.training.lock import RUN_LOCK, FolderLock; "
    "FolderLock(Path(sys.argv[1]), RUN_LOCK).acquire(); print('held', flush=True); sys.stdin.read()"
)


def _holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    root = str(Path(__file__).resolve().parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    ours = FolderLock(tmp_path, RUN_LOCK)
    with pytest.raises(RunError, match=rf"is in use: process {process.pid} on .* works in it"):
        ours.acquire()
    process.kill()
    process.communicate()
    assert (tmp_path / RUN_LOCK).exists()
    ours.acquire()
    assert f"process {process.pid} on" in ours.notice
    assert "has ended since" in ours.notice
    ours.release()
    assert not (tmp_path / RUN_LOCK).exists()


def test_a_lock_is_taken_and_given_back_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        ours = FolderLock(tmp_path, RUN_LOCK)
        ours.acquire()
        with pytest.raises(RunError, match="is in use"):
            FolderLock(tmp_path, RUN_LOCK).acquire()
        ours.release()
        ours.release()
        assert (ours.notice, list(tmp_path.iterdir())) == ("", [])


def _leave(folder: Path, **changes: object) -> None:
    (folder / RUN_LOCK).write_text(json.dumps(lock._ourselves() | changes), encoding="utf-8")


def test_a_lock_from_before_the_system_started_is_stale(tmp_path: Path) -> None:
    _leave(tmp_path, boot="an earlier one", process=1)
    ours = FolderLock(tmp_path, RUN_LOCK)
    ours.acquire()
    ours.release()
    assert "before this system started" in ours.notice


def test_a_lock_of_another_host_is_not_judged(tmp_path: Path) -> None:
    _leave(tmp_path, boot="its own", host="elsewhere", process=7)
    with pytest.raises(
        RunError, match=r"process 7 on 'elsewhere' .* if it has ended, remove .*lock"
    ):
        FolderLock(tmp_path, RUN_LOCK).acquire()
    assert (tmp_path / RUN_LOCK).exists()
    (tmp_path / RUN_LOCK).unlink()
    FolderLock(tmp_path, RUN_LOCK).acquire()


def test_another_name_of_the_same_system_is_the_same_host(tmp_path: Path) -> None:
    if lock._ourselves()["boot"] is None:
        pytest.skip("this system does not name its start")
    _leave(tmp_path, host="a container that is gone", process=7)
    ours = FolderLock(tmp_path, RUN_LOCK)
    ours.acquire()
    ours.release()
    assert "process 7" in ours.notice


@pytest.mark.skipif(os.name == "nt", reason="asks for a process by a signal")
def test_without_locks_of_the_file_system_the_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr("bptool.files.lock", unsupported)
    if lock._ourselves()["boot"] is None:
        pytest.skip("this system does not name its start")
    _leave(tmp_path, process=os.getppid())
    with pytest.raises(RunError, match="is in use"):
        FolderLock(tmp_path, RUN_LOCK).acquire()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    _leave(tmp_path, process=ended.pid)
    FolderLock(tmp_path, RUN_LOCK).acquire()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"process": "x"}', b"[" * 4000])
def test_a_damaged_lock_file_holds_nobody_up(content: bytes, tmp_path: Path) -> None:
    (tmp_path / RUN_LOCK).write_bytes(content)
    ours = FolderLock(tmp_path, RUN_LOCK)
    if content.startswith(b'{"process'):
        with pytest.raises(RunError, match=r"process x on"):
            ours.acquire()
        return
    ours.acquire()
    ours.release()
    assert not (tmp_path / RUN_LOCK).exists()


def test_a_run_in_use_is_neither_resumed_nor_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=3))
    training = begin.start_run(config, RunFolder(tmp_path / "run"))
    with pytest.raises(RunError, match="is in use"):
        runs.resume(tmp_path / "run")
    training.run()
    training.pieces.close()
    assert not (tmp_path / "run" / RUN_LOCK).exists()
    process = _holder(tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    recorder = runs.resume(tmp_path / "run")
    assert any("its lock is taken over" in str(event) for event in recorder.events)
    assert not (tmp_path / "run" / RUN_LOCK).exists()
