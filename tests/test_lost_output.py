"""A closed terminal, a reader that went away, a full disk behind the output: no work is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bptool.training.checkpoint import CheckpointStore
from bptool.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")
SMALL = {
    "model.name": "mlp",
    "model.context": 8,
    "training.batch_size": 4,
    "training.workers": 1,
    "training.eval_interval": 1000,
    "training.log_interval": 1,
    "sample.max_tokens": 4,
}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(60 * "the cat sat on the mat and saw the old dog run. ", encoding="utf-8")
    return path


def command(book: Path, out: Path, steps: int, *more: str) -> list[str]:
    words = [sys.executable, "-m", "bptool", "train", str(book), "--out", str(out), *more]
    settings = {**SMALL, "training.steps": steps}
    return words + [w for key, value in settings.items() for w in ("--set", f"{key}={value}")]


def environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}


def steps_saved(out: Path) -> int:
    last = CheckpointStore(RunFolder(out).checkpoints).index().last
    assert last is not None
    return int(last.rpartition("-")[2])


def in_the_middle(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 1,"):
            return
    raise AssertionError("it ended before its first steps")


def test_a_closed_terminal_saves(root: Path, book: Path, tmp_path: Path) -> None:
    pipe: Any = subprocess.PIPE
    with subprocess.Popen(
        command(book, tmp_path / "run", 10**7),
        env=environment(root),
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        in_the_middle(process)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
        process.send_signal(signal.SIGHUP)  # the shell's, after the system's
        output, errors = process.communicate()
    assert process.returncode == 129, errors
    assert steps_saved(tmp_path / "run") >= 1000
    assert "--resume" in output


def test_a_process_that_is_to_outlive_its_terminal_does(
    root: Path, book: Path, tmp_path: Path
) -> None:
    script = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
    script += "os.execv(sys.argv[1], sys.argv[1:])"
    pipe: Any = subprocess.PIPE
    words = [sys.executable, "-c", script, *command(book, tmp_path / "run", 3000)]
    with subprocess.Popen(
        words, env=environment(root), stdout=pipe, stderr=pipe, text=True
    ) as process:
        in_the_middle(process)
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert process.returncode == 0
    assert steps_saved(tmp_path / "run") == 3000


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["lines", "json"])
def test_a_reader_that_goes_away_ends_no_training(
    more: tuple[str, ...], root: Path, book: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        command(book, tmp_path / "run", 2000, *more),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors == b""
    assert steps_saved(tmp_path / "run") == 2000
    (line,) = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert line.endswith("standard output was lost (Broken pipe); work continues without it")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("redirection", [">/dev/full", ">/dev/full 2>/dev/full", ">&-", ">&- 2>&-"])
def test_an_output_that_takes_nothing_ends_no_training(
    redirection: str, root: Path, book: Path, tmp_path: Path
) -> None:
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(book, tmp_path / "run", 20)]
    ended = subprocess.run(words, env=environment(root), capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert steps_saved(tmp_path / "run") == 20


def test_a_message_that_nobody_reads_changes_no_exit_code(root: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bptool", "generate", str(tmp_path / "nothing")]
    with subprocess.Popen(words, env=environment(root), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 2
