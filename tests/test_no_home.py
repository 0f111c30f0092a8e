"""Where no folder of the user's can be written, all caches are in one temporary folder, which one
line tells of and which is gone when the command ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bptool import caches
from bptool.errors import BptoolWarning, DataError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="HOME is not what Windows goes by")
NOWHERE = "/proc/none"
OURS = {"NUMBA_CACHE_DIR", "BPTOOL_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"}


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """That of a process without a home, with a folder of its own for temporary files."""
    (tmp_path / "temporary").mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in OURS | {caches.TEMPORARY}}
    here = {"HOME": NOWHERE, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(root)}
    return kept | here


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "t.txt"
    path.write_text(40 * "the owl and the fox went to the sea. ", encoding="utf-8")
    return path


def test_a_run_whose_home_is_a_file(
    environment: dict[str, str], book: Path, tmp_path: Path, root: Path
) -> None:
    (tmp_path / "home").write_text("in the way", encoding="utf-8")
    environment["HOME"] = str(tmp_path / "home")
    small = ["model.name=mlp", "training.steps=2", "training.batch_size=2"]
    command = [sys.executable, "-m", "bptool", "train", str(book), "--quiet"]
    command += ["--out", str(tmp_path / "run"), *(word for one in small for word in ("--set", one))]
    pipe = subprocess.PIPE
    modes = set()
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        while process.poll() is None:
            for kernels in (tmp_path / "temporary").glob("bptool-*/kernels"):
                modes.add(kernels.parent.stat().st_mode & 0o777)
            time.sleep(0.02)
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert modes == {0o700}
    assert output.count("\n") == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"warning: no cache folder of your own ({tmp_path / 'home'}")
    assert (tmp_path / "run" / "loss.png").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_command_that_fails_leaves_nothing_either(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text(40 * "a", encoding="utf-8")
    command = [sys.executable, "-m", "bptool", "data", "prepare", str(tmp_path / "t.txt")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    warning, error = ended.stderr.splitlines()[-2:]
    assert f"warning: no cache folder of your own ({NOWHERE}: No such" in warning
    assert "one character over and over" in error
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_for_kernels_that_cannot_be_made(environment: dict[str, str], book: Path) -> None:
    environment |= {"NUMBA_CACHE_DIR": str(book / "kernels"), "BPTOOL_CACHE_DIR": str(book.parent)}
    command = [sys.executable, "-m", "bptool", "train", str(book)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {book / 'kernels'}")
    assert "(Not a directory); set NUMBA_CACHE_DIR to a folder" in line


PARENT = """
import os, subprocess, sys
from bptool.caches import user_cache
place = user_cache("tokens")
child = "from bptool.caches import user_cache; print(user_cache('tokens'))"
ended = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
assert ended.stdout.strip() == str(place) and not ended.stderr, ended
if os.fork() == 0:
    sys.exit()  # runs what was registered for the end
os.wait()
assert place.is_dir(), "removed by a process that did not make it"
"""


def test_processes_started_from_here_share_the_folder_and_leave_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("BptoolWarning: ") == 1
    assert not list((tmp_path / "temporary").iterdir())


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system knows none, so that ``~`` stays as it is."""
    monkeypatch.setenv(caches.TEMPORARY, str(tmp_path / "gone"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(BptoolWarning, match=r"\(~/\.cache/bptool: no home folder\)"):
        folder = caches.user_cache("tokens")
    assert folder.is_relative_to(tmp_path)
    assert not (tmp_path / "~").exists()
    assert caches.user_cache("kernels").parent == folder.parent


def test_not_even_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setenv(caches.TEMPORARY, "")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(DataError, match=r"No usable temporary.*; set HOME or TMPDIR") as caught:
        caches.user_cache("tokens")
    assert "\n" not in str(caught.value)
