"""What a benchmark found, and the one JSON file that every benchmark writes."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bptool.files import write_json

FORMAT_VERSION = 1
PACKAGES = ("bptool", "numba", "llvmlite", "numpy", "scipy", "tokenizers", "torch", "jax", "mkl")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Series:
    """One thing that was measured: a peer, a setting, or a limit that no peer can beat."""

    name: str
    samples: list[float]
    """One for each turn; samples of equal places were taken side by side."""
    about: str = ""
    kind: Literal["peer", "limit"] = "peer"
    cores: list[float] = field(default_factory=list)
    """CPU seconds a second of each turn, where they were counted."""


@dataclass(frozen=True)
class Result:
    """What was compared on one case.

    Attributes:
        benchmark: the command that measured it. case: the workload, product or rule.
        title: a few words on the case.
        unit: of every sample.
        series: the first is what the others are compared with.
        rates: limits that are rates, turn by turn: ``fma`` in FLOP/s, ``memory`` in bytes/s.
        facts: of one sample: ``tokens``, ``flops`` (as the model counts them), ``bytes``.
        left_out: what was to be measured and could not, and why.
    """

    benchmark: str
    case: str
    title: str
    unit: Literal["seconds", "bytes"]
    series: list[Series]
    rates: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Series | None:
        """The series called ``name``."""
        return next((one for one in self.series if one.name == name), None)

    def ratios(self, series: Series) -> list[float]:
        """Each sample over that of the first series in the same turn."""
        return ratios(series.samples, self.series[0].samples)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients turn by turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


@dataclass(frozen=True)
class Report:
    """Everything that a run of the benchmarks found, and where."""

    command: list[str]
    date: str
    commit: str
    changed: bool
    """Whether files differed from the commit."""
    machine: dict[str, Any]
    versions: dict[str, str]
    threads: int
    seconds: float
    """That it all took."""
    results: list[Result]


def report(threads: int, results: list[Result], seconds: float) -> Report:
    """``results`` with the machine, the versions and the commit of this process."""
    from bptool.training.machine import describe, total_memory_bytes

    changes = _git("status", "--porcelain")
    return Report(
        command=sys.argv[1:],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_git("rev-parse", "HEAD"),
        changed=bool(changes),
        machine={**describe(), "memory_bytes": total_memory_bytes()},
        versions=dict(_versions()),
        threads=threads,
        seconds=seconds,
        results=results,
    )


def _git(*words: str) -> str:
    """What git says, or nothing where there is none."""
    try:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        return ""


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def write(path: Path, found: Report) -> None:
    """Write a report, every sample and every ratio, to ``path``."""
    values = {"format_version": FORMAT_VERSION, **asdict(found)}
    for kept, result in zip(values["results"], found.results, strict=True):
        for one, series in zip(kept["series"], result.series, strict=True):
            one["ratios"] = result.ratios(series)
    write_json(path, values)


def read(path: Path) -> Report:
    """Read what :func:`write` wrote.

    Raises:
        ValueError: the file is not such a report; the message names it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format_version") != FORMAT_VERSION:
            raise ValueError("its format_version is another")
        return Report(**{**values, "results": [_result(one) for one in values["results"]]})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a report of the benchmarks ({error})") from None


def _result(values: Mapping[str, Any]) -> Result:
    series = [Series(**{k: v for k, v in s.items() if k != "ratios"}) for s in values["series"]]
    return Result(**{**values, "series": series})
