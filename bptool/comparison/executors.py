"""Where jobs run: in processes of this machine, or over machines with MPI.

An executor takes jobs while fewer than ``n_slots`` run and gives their reports; how it does so is
its own affair. A job whose process dies is reported as ``lost``, and the executor goes on.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from bptool.comparison.jobs import Job, Report, run_job, run_job_text
from bptool.errors import ConfigError

PATIENCE_SECONDS = 5.0
"""How long a process may take to end after it has been told to."""
MPI_REMEDY = (
    "--mpi needs mpi4py and an MPI library: pip install 'bptool[mpi]', then start with "
    "mpiexec -n N python -m mpi4py.futures -m bptool compare-optimizers ... --mpi"
)


class Executor(Protocol):
    """What a study needs of whatever runs its jobs."""

    n_slots: int
    """Jobs that can run at once."""

    @property
    def pids(self) -> dict[str, int]:
        """Process of each job that runs, where it is of this machine."""

    def submit(self, job: Job) -> None:
        """Start a job; fewer than ``n_slots`` run."""

    def wait(self, seconds: float) -> list[Report]:
        """Reports that have come, at the latest after ``seconds``."""

    def close(self) -> None:
        """End what runs, without a report."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: str | None = None


class ProcessExecutor:
    """Persistent processes of this machine, started when first needed.

    They are spawned, not forked: a fork would copy this process's threads' locks but not the
    threads. A process ends by itself when this one is gone, however it went.
    """

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self._context = multiprocessing.get_context("spawn")
        # A new process must not look for modules in the working folder, which may be a stranger's.
        os.environ.setdefault("PYTHONSAFEPATH", "1")
        self._workers: list[_Worker] = []
        self._lost: deque[Report] = deque()

    @property
    def pids(self) -> dict[str, int]:
        return {w.job: w.process.pid for w in self._workers if w.job is not None}

    def submit(self, job: Job) -> None:
        worker = next((w for w in self._workers if w.job is None), None) or self._start()
        worker.job = job["name"]
        try:
            worker.pipe.send_bytes(json.dumps(job).encode())
        except OSError:  # it died while idle
            self._bury(worker)

    def wait(self, seconds: float) -> list[Report]:
        if self._lost:
            found = list(self._lost)
            self._lost.clear()
            return found
        reports: list[Report] = []
        busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        for pipe in wait(list(busy), timeout=seconds):
            worker = busy[pipe]  # type: ignore[index]
            try:
                report = json.loads(worker.pipe.recv_bytes())
            except (EOFError, OSError):
                self._bury(worker)
                continue
            if report["kind"] in ("done", "failed"):
                worker.job = None
            reports.append(report)
        reports += self._lost
        self._lost.clear()
        return reports

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(PATIENCE_SECONDS)
            worker.pipe.close()
        self._workers.clear()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join(PATIENCE_SECONDS)
        worker.pipe.close()
        self._workers.remove(worker)
        self._lost.append(
            {
                "name": worker.job,
                "kind": "lost",
                "error": f"its process ended with exit code {worker.process.exitcode}",
            }
        )


def _serve(pipe: Connection) -> None:
    """Do jobs as they come until the other end of the pipe is closed."""
    # Ctrl-C and a closed terminal reach the whole group; the study stops its trials itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    # Sleeps in the kernel, so it takes nothing from the steps.
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            job = json.loads(pipe.recv_bytes())
            pipe.send_bytes(
                json.dumps(run_job(job, lambda r: pipe.send_bytes(json.dumps(r).encode()))).encode()
            )


class MPIExecutor:
    """Processes of any machines that share this one's files, by ``mpi4py.futures``.

    Its workers cannot be watched or killed one by one: their reports come when a job is done.

    Raises:
        ConfigError: mpi4py or its MPI library is missing, or there is no process to work.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
            from mpi4py.futures import MPIPoolExecutor
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{MPI_REMEDY} ({reason})") from None
        if MPI.COMM_WORLD.Get_size() < 2:
            raise ConfigError(f"one MPI process alone has nobody to work for it; {MPI_REMEDY}")
        self._pool = MPIPoolExecutor()
        self.n_slots: int = self._pool.num_workers
        self._running: dict[Any, str] = {}

    @property
    def pids(self) -> dict[str, int]:
        return {}

    def submit(self, job: Job) -> None:
        self._running[self._pool.submit(run_job_text, json.dumps(job))] = job["name"]

    def wait(self, seconds: float) -> list[Report]:
        from concurrent.futures import FIRST_COMPLETED
        from concurrent.futures import wait as wait_for

        done, _ = wait_for(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        reports: list[Report] = []
        for future in done:
            name = self._running.pop(future)
            error = future.exception()
            if error is None:
                reports.append(json.loads(future.result()))
            else:
                reports.append({"name": name, "kind": "lost", "error": str(error)})
        return reports

    def close(self) -> None:
        self._pool.shutdown(wait=not self._running, cancel_futures=True)
