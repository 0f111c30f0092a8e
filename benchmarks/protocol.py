"""Peers run in processes of their own and answer one JSON line a request.

A request is ``{"steps": n}``; the answer is ``{"seconds": [...], "loss": x}``. The first answer,
without a request, tells that the peer is ready: ``{"loss": initial, "about": text}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Workload


def batch(workload: Workload) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The tokens and targets that every peer trains on."""
    generator = np.random.default_rng(11)
    shape = (workload.batch_size, workload.context)
    tokens = generator.integers(0, workload.vocab_size, shape)
    return tokens, generator.integers(0, workload.vocab_size, shape)


def serve(first_loss: float, about: str, step: Callable[[], float]) -> None:
    """The peer's side: time the steps that are asked for until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the standard error
    answers.write(json.dumps({"loss": first_loss, "about": about}) + "\n")
    answers.flush()
    for line in sys.stdin:
        seconds, loss = [], float("nan")
        for _ in range(json.loads(line)["steps"]):
            start = time.perf_counter()
            loss = step()
            seconds.append(time.perf_counter() - start)
        answers.write(json.dumps({"seconds": seconds, "loss": loss}) + "\n")
        answers.flush()


class Peer:
    """The benchmark's side of one peer."""

    def __init__(self, name: str, workload: str, threads: int, weights: Path) -> None:
        self.name = name
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        }
        command = [sys.executable, "-m", "benchmarks.peers", name, workload, str(threads)]
        self._process = subprocess.Popen(
            [*command, str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        ready = self._read()
        self.first_loss: float = ready["loss"]
        self.about: str = ready["about"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark: {self.name} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, steps: int) -> list[float]:
        """Seconds of each of ``steps`` training steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self._process.stdin.flush()
        seconds: list[float] = self._read()["seconds"]
        return seconds

    def close(self) -> None:
        """End the peer."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
