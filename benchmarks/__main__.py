"""``python -m benchmarks --workloads A,B --peers pytorch --pairs 10``: who trains faster here.

Each peer is a process of its own with the same number of threads. They run in turn (A B A B), so
that a change of the machine's speed meets both, and the ratio is taken pair by pair. Before a
workload is timed, all peers must agree on the loss of the same weights and batch.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.protocol import Peer
from benchmarks.workloads import WORKLOADS

SECONDS_A_TURN = 1.0
LOSS_TOLERANCE = 1e-4


def measure(name: str, peers: list[str], pairs: int, threads: int) -> dict[str, Any]:
    """Time one workload; medians, spread and pairwise ratios against bptool."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        running = [Peer(peer, name, threads, weights) for peer in ["bptool", *peers]]
        try:
            for peer in running[1:]:
                if not abs(peer.first_loss - running[0].first_loss) <= LOSS_TOLERANCE:
                    raise SystemExit(
                        f"benchmark: on {name} {peer.name} has loss {peer.first_loss}, "
                        f"bptool {running[0].first_loss}: not the same model"
                    )
            warm = {peer.name: statistics.median(peer.run(4)[1:]) for peer in running}
            steps = {k: max(1, round(SECONDS_A_TURN / seconds)) for k, seconds in warm.items()}
            medians: dict[str, list[float]] = {peer.name: [] for peer in running}
            for _ in range(pairs):
                for peer in running:
                    medians[peer.name].append(statistics.median(peer.run(steps[peer.name])))
        finally:
            for peer in running:
                peer.close()
    ours = medians["bptool"]
    return {
        "workload": name,
        "loss": running[0].first_loss,
        "peers": [
            {
                "name": peer.name,
                "about": peer.about,
                "seconds": medians[peer.name],
                "ratios": [b / a for a, b in zip(ours, medians[peer.name], strict=True)],
            }
            for peer in running
        ],
    }


def show(console: Console, result: dict[str, Any], peak: float) -> None:
    """A table of one workload."""
    workload = WORKLOADS[result["workload"]]
    table = Table(title=f"{result['workload']}: {workload.about}")
    for column in ("", "ms a step", "min - max", "tokens/s", "of matmul peak", "time / bptool's"):
        table.add_column(column, justify="left" if not column else "right")
    for peer in result["peers"]:
        seconds, ratios = peer["seconds"], sorted(peer["ratios"])
        median = statistics.median(seconds)
        table.add_row(
            peer["name"],
            f"{median * 1e3:.1f}",
            f"{min(seconds) * 1e3:.1f} - {max(seconds) * 1e3:.1f}",
            f"{workload.tokens / median:,.0f}",
            f"{workload.flops / median / peak:.0%}",
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})",
        )
    console.print(table)


def main(
    workloads: Annotated[str, typer.Option(help=f"Of {', '.join(WORKLOADS)}.")] = "A,A64,B,C,L",
    peers: Annotated[str, typer.Option(help="pytorch, pytorch-compile.")] = "pytorch",
    pairs: Annotated[int, typer.Option(help="Turns of each peer.", min=1)] = 10,
    threads: Annotated[int, typer.Option(help="0: every core.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file with every figure.")] = None,
) -> None:
    """Time training steps of bptool and its peers in turn."""
    from bptool.training.machine import choose_engine, describe, measure_peak_flops, usable_cores
    from bptool.training.workers import WorkerTeam

    threads = threads or usable_cores()
    with WorkerTeam(threads) as team:
        peak = measure_peak_flops(choose_engine("auto"), team.run)
    console = Console()
    console.print(f"{threads} threads, matmul peak {peak / 1e9:.0f} GFLOP/s")
    results = []
    for name in workloads.split(","):
        results.append(measure(name, [p for p in peers.split(",") if p], pairs, threads))
        show(console, results[-1], peak)
    if out is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        about = {"python": platform.python_version(), "machine": describe(), "commit": commit}
        report = {**about, "threads": threads, "matmul_peak_flops": peak, "results": results}
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
