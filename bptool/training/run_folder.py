"""A run folder: the names of its files, making it, opening it.

config.yaml      the resolved configuration
tokenizer.json   the tokenizer
manifest.json    versions, engine, vector width, workers, split, hashes
metrics.jsonl    one object a line: steps, evaluations
samples.txt      the sample of each evaluation
loss.png         the curves
checkpoints/     see ``checkpoint.py``
base/            frozen weights that adapters belong to, as a checkpoint
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptool.errors import RunError

FORMAT_VERSION = 1
_MAX_JSON_BYTES = 64 * 2**20
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def writing(place: Path, otherwise: str = "choose another folder with --out") -> Iterator[None]:
    """Turn an OSError inside the block into a RunError: ``place``, the reason, what would do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "free some space" if error.errno in _NO_SPACE else otherwise
        raise RunError(f"{place} cannot be written: {reason}; {remedy}") from None


class RunFolder:
    """Paths of a run's files. Makes nothing until :meth:`create`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.tokenizer = self.path / "tokenizer.json"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.txt"
        self.plot = self.path / "loss.png"
        self.checkpoints = self.path / "checkpoints"
        self.base = self.path / "base"

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.manifest.exists()

    def check_free(self) -> None:
        """Raise a RunError if the folder holds a run, or something that is not ours."""
        if self.holds_run():
            raise RunError(
                f"{self.path} already holds a run; go on with it by --resume, "
                "or choose another folder with --out"
            )
        require_empty(self.path, "is not empty and holds no run")

    def create(self) -> None:
        """Make the folder for a new run.

        Raises:
            RunError: it is not free, or cannot be made.
        """
        self.check_free()
        with writing(self.path):
            self.checkpoints.mkdir(parents=True)

    def discard(self) -> None:
        """Remove a folder whose run could not begin."""
        if not self.holds_run():
            shutil.rmtree(self.path, ignore_errors=True)

    def require_run(self) -> None:
        """Raise a RunError unless the folder holds a run."""
        if not self.path.exists():
            raise RunError(f"there is no run folder {self.path}; make one with `bptool train`")
        if not self.holds_run():
            raise RunError(
                f"{self.path} holds no run: it has no {self.manifest.name}; name the folder of one"
            )


def read_json(path: Path, what: str, version: int = FORMAT_VERSION) -> dict[str, Any]:
    """Read one of our JSON files; any damage, or a later ``format_version``, is a RunError."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise RunError(f"{path} is too large to be a {what}; restore it from a copy")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; restore it from a copy of the run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read as a {what} ({error}); restore it from a copy"
        ) from None
    if not isinstance(value, dict) or "format_version" not in value:
        raise RunError(f"{path} is not a {what} of bptool: it has no format_version")
    if value["format_version"] != version:
        raise RunError(
            f"{path} has format_version {value['format_version']!r}, this bptool reads {version}; "
            "update bptool"
        )
    return value


def require_empty(folder: Path, otherwise: str = "is not empty") -> None:
    """Raise a RunError where there is a file in the place of a folder, or anything in it."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another folder with --out")
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} {otherwise}; choose another folder with --out")


def free_name(folder: Path) -> Path:
    """``folder``, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    candidate, n = folder, 1
    while candidate.exists():
        n += 1
        candidate = folder.with_name(f"{folder.name}-{n}")
    return candidate
