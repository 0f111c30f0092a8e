"""``metrics.jsonl``: what a run measured, one JSON object a line, and reading it back.

The first line is a header. A line is written whole; one torn by a crash is dropped when the file
is read. Numbers are written so that they read back to the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from bptool.errors import RunError
from bptool.files import write_text
from bptool.training.events import Evaluated, Event, StepDone
from bptool.training.run_folder import FORMAT_VERSION

HEADER = {"format_version": FORMAT_VERSION, "kind": "bptool metrics"}


class MetricsFile:
    """A listener that appends steps and evaluations to ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def open(self) -> None:
        """Begin a file, or go on with one."""
        if not self.path.exists():
            write_text(self.path, json.dumps(HEADER) + "\n")
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def __call__(self, event: Event) -> None:
        if self._file is None or not isinstance(event, StepDone | Evaluated):
            return
        kind = "step" if isinstance(event, StepDone) else "evaluation"
        try:
            self._file.write(json.dumps({"kind": kind, **_finite(asdict(event))}) + "\n")
            if kind == "evaluation":
                self._file.flush()
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Flush and close; a disk that is full by now is not reported twice."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: they become null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, header left out; a torn last line is dropped."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number} is not JSON; restore the file from a copy") from None
        if not isinstance(record, dict):
            raise RunError(f"{path}:{number} is not a record of metrics")
        records.append(record)
    if not records or records[0].get("format_version") != FORMAT_VERSION:
        raise RunError(f"{path} does not begin with format_version {FORMAT_VERSION}")
    return records[1:]


def rewind(path: Path, step: int) -> None:
    """Drop what was written after the checkpoint of ``step``, which is made before evaluating."""
    if not path.exists():
        return
    kept = [
        record
        for record in read_metrics(path)
        if record.get("step", 0) < step or (record["step"] == step and record["kind"] == "step")
    ]
    write_text(path, "".join(json.dumps(record) + "\n" for record in [HEADER, *kept]))
