"""``metrics.jsonl``: what a run measured, one JSON object a line, and reading it back.

The first line is a header. A line is written whole; one torn by a crash is dropped when the file
is read. Numbers are written so that they read back to the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

from bptool.errors import RunError
from bptool.files import append_whole, loads_strictly, read_replacing, write_text
from bptool.training.callback import Callback, Event, Reached, State
from bptool.training.events import Evaluated, StepDone
from bptool.training.run_folder import FORMAT_VERSION, writing

LINES_AT_ONCE = 16
"""Lines that are written together."""
HEADER = {"format_version": FORMAT_VERSION, "kind": "bptool metrics"}


class MetricsFile(Callback):
    """Appends steps and evaluations to ``metrics.jsonl``.

    Lines that cannot be written wait in memory for a disk that can take them: the run goes on, and
    :meth:`sync` says what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._waiting: list[bytes] = []
        self._size = 0

    def open(self) -> None:
        """Begin a file, or go on with one."""
        with writing(self.path):
            if not self.path.exists():
                write_text(self.path, json.dumps(HEADER) + "\n")
            self._file = open(self.path, "ab", buffering=0)
            self._size = self._file.tell()

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, Reached) and event.after == "rollback":
            self.rewind(event.step)
        if self._file is None or not isinstance(event, StepDone | Evaluated):
            return
        kind = "step" if isinstance(event, StepDone) else "evaluation"
        line = json.dumps({"kind": kind, **_finite(asdict(event))}) + "\n"
        self._waiting.append(line.encode())
        if kind == "evaluation" or len(self._waiting) % LINES_AT_ONCE == 0:
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        """Write what waits, whole or not at all."""
        if self._file is None or not self._waiting:
            return
        data = b"".join(self._waiting)
        append_whole(self._file, data, self._size)
        self._size += len(data)
        self._waiting.clear()

    def sync(self) -> None:
        """Put every line on the disk; before a checkpoint, so that none up to it can be lost.

        Raises:
            RunError: that cannot be done; the lines wait.
        """
        if self._file is not None:
            with writing(self.path):
                self._write()
                os.fsync(self._file.fileno())

    def rewind(self, step: int) -> None:
        """Drop what was written after the checkpoint of ``step``, while the file is open."""
        self.sync()
        self.close()
        rewind(self.path, step)
        self.open()

    def close(self) -> None:
        """Write and close; a disk that is full by now is not reported twice."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._write()
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: they become null. No statistics are left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "statistics":
            found |= {key: _finite(value)} if value else {}
        else:
            found[key] = None if isinstance(value, float) and not math.isfinite(value) else value
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, header left out; a torn last line is dropped."""
    try:
        lines = read_replacing(path).split("\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from None
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = loads_strictly(line)
        except ValueError:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number} is not JSON; restore the file from a copy") from None
        if not isinstance(record, dict) or (records and not _is_record(record)):
            raise RunError(f"{path}:{number} is not a record of metrics; restore the file")
        records.append(record)
    if not records or records[0].get("format_version") != FORMAT_VERSION:
        remedy = "restore it, or update bptool where it is of a later version"
        raise RunError(f"{path} does not begin with format_version {FORMAT_VERSION}; {remedy}")
    return records[1:]


def _is_record(record: dict[str, Any]) -> bool:
    return isinstance(record.get("step"), int) and record.get("kind") in ("step", "evaluation")


def rewind(path: Path, step: int) -> None:
    """Drop what was written after the checkpoint of ``step``, which is made before evaluating."""
    if not path.exists():
        return
    kept = [
        record
        for record in read_metrics(path)
        if record["step"] < step or (record["step"] == step and record["kind"] == "step")
    ]
    with writing(path):
        write_text(path, "".join(json.dumps(record) + "\n" for record in [HEADER, *kept]))
