"""``python -m benchmarks memory``: the most memory that training takes, each peer on its own.

Counted is what the process has resident at its peak: interpreter, libraries, weights, gradients,
moments, activations, and what compiling took where it happens in the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.protocol import CannotRun, Contender
from benchmarks.results import Result, Series
from benchmarks.workloads import WORKLOADS

STEPS = 3


def measure(workload: str, peers: Sequence[str], threads: int) -> Result:
    """Peak bytes of each after a few steps, one process after the other."""
    series, left_out = [], {}
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.safetensors")
        for name in ("bptool", *peers):
            try:
                peer = Contender(
                    name, {"workload": workload, "threads": threads, "weights": weights}
                )
            except CannotRun as error:
                left_out[name] = str(error)
                continue
            peer.run("train", STEPS)
            series.append(Series(name, [float(peer.peak_bytes())], peer.about))
            peer.close()
    about = WORKLOADS[workload].about
    return Result("memory", workload, about, "bytes", series, left_out=left_out)
