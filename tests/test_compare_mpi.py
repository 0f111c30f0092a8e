"""A study over MPI's processes comes to the tables of one over this machine's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_study import children_of, final_tables, finish, start, write_study

# Open MPI refuses by default to run as root, and more processes than there are cores.
PERMISSIONS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
LAUNCHER = ("mpiexec", "-n", "3", sys.executable, "-m", "mpi4py.futures")


def works() -> bool:
    """Whether MPI can start processes here; its library must not be loaded into this one."""
    if shutil.which("mpiexec") is None:
        return False
    command = ["mpiexec", "-n", "2", sys.executable, "-c", "from mpi4py import MPI"]
    tried = subprocess.run(
        command, capture_output=True, env={**os.environ, **PERMISSIONS}, check=False
    )
    return tried.returncode == 0


@pytest.fixture(autouse=True)
def permissions(monkeypatch: pytest.MonkeyPatch) -> None:
    if not works():
        pytest.skip("mpi4py with an MPI library and mpiexec is not here")
    for name, value in PERMISSIONS.items():
        monkeypatch.setenv(name, value)


def test_a_study_over_mpi_comes_to_the_same_tables_and_goes_on_after_a_killed_rank(
    tmp_path: Path,
) -> None:
    write_study(tmp_path)
    finish(start(tmp_path, "processes"))
    process = start(tmp_path, "mpi", *LAUNCHER)
    results = tmp_path / "mpi" / "results.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if results.exists() and results.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.02)
    kept = results.read_bytes().count(b"\n")
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    process.communicate(timeout=60)  # mpiexec ends the other ranks
    assert process.returncode != 0
    assert results.read_bytes().count(b"\n") >= kept > 3
    finish(start(tmp_path, "mpi", *LAUNCHER))
    assert final_tables(tmp_path / "mpi") == final_tables(tmp_path / "processes")


def test_a_lone_process_is_told_how_to_start(tmp_path: Path) -> None:
    write_study(tmp_path)
    process = start(tmp_path, "lone", sys.executable)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: one MPI process alone has nobody to work for it; --mpi needs")
    assert err.count("\n") == 1
    assert not (tmp_path / "lone").exists()
