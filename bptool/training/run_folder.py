"""A run folder: the names of its files, making it, opening it.

config.yaml      the resolved configuration
tokenizer.json   the tokenizer
manifest.json    versions, engine, vector width, workers, split, hashes
metrics.jsonl    one object a line: steps, evaluations
samples.txt      the sample of each evaluation
held-out.jsonl   which records of preferences or prompts were held out, and what for
loss.png         the curves
checkpoints/     see ``checkpoint.py``
base/            frozen weights that adapters belong to, as a checkpoint
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptool.errors import DamagedError, RunError
from bptool.files import (
    NO_FILE_LEFT,
    TEMPORARY_PREFIX,
    loads_strictly,
    read_bounded,
    remove_leftovers,
    sync_folder,
)

FORMAT_VERSION = 1
_MAX_JSON_BYTES = 4 * 2**20
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def writing(place: Path, otherwise: str = "choose another folder with --out") -> Iterator[None]:
    """Turn an OSError inside the block into a RunError: ``place``, the reason, what would do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "free some space" if error.errno in _NO_SPACE else otherwise
        if error.errno in NO_FILE_LEFT:
            remedy = "end what holds them, or raise `ulimit -n`"
        raise RunError(f"{place} cannot be written: {reason}; {remedy}") from None


class RunFolder:
    """Paths of a run's files. Makes nothing until :meth:`begin`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.tokenizer = self.path / "tokenizer.json"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.txt"
        self.plot = self.path / "loss.png"
        self.held_out = self.path / "held-out.jsonl"
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

    def begin(self) -> RunFolder:
        """Make a folder beside this one in which a new run is put together; :meth:`finish` gives it
        this name once it holds all that a run needs, so that a kill leaves a run or none.

        Raises:
            RunError: the folder is not free, or cannot be made.
        """
        self.check_free()
        made = RunFolder(self.path.with_name(f"{TEMPORARY_PREFIX}{self.path.name}"))
        with writing(self.path):
            shutil.rmtree(made.path, ignore_errors=True)  # of a process that was killed
            try:
                made.checkpoints.mkdir(parents=True)
            except OSError:
                made.discard()
                raise
        return made

    def finish(self, made: RunFolder) -> None:
        """Take the place of what :meth:`begin` made."""
        self.check_free()
        with writing(self.path):
            sync_folder(made.path)
            if self.path.exists():
                self.path.rmdir()  # empty: it is free
            made.path.rename(self.path)
            sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what :meth:`begin` made."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed; only under the run's lock."""
        for folder in (self.path, self.checkpoints):
            remove_leftovers(folder)

    def require_run(self) -> None:
        """Raise a RunError unless the folder holds a run."""
        if not self.path.exists():
            raise RunError(f"there is no run folder {self.path}; make one with `bptool train`")
        if not self.holds_run():
            raise RunError(
                f"{self.path} holds no run: it has no {self.manifest.name}; name the folder of one"
            )
        files = (self.config, self.tokenizer, self.manifest, self.metrics, self.samples, self.plot)
        for path in (*files, self.held_out, self.checkpoints, self.checkpoints / "index.json"):
            require_inside(path, self.path)


def run_of(place: Path) -> RunFolder | None:
    """The run whose folder, or whose ``config.yaml``, ``place`` is, if there is one."""
    folder = RunFolder(place if place.is_dir() else place.parent)
    if place.is_dir():
        return folder if folder.holds_run() else None
    is_whole = folder.holds_run() and folder.tokenizer.exists() and folder.checkpoints.is_dir()
    return folder if place.name == folder.config.name and is_whole else None


def require_inside(path: Path, folder: Path) -> None:
    """Raise a RunError where ``path`` is a link that leads out of ``folder``, as a stranger's might
    to a file of the user's."""
    if path.is_symlink() or path.parent.is_symlink():
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # a link to itself
            inside = False
        if not inside:
            raise RunError(f"{path} leads out of {folder}; put the file itself in its place")


def read_json_and_bytes(
    path: Path, what: str, versions: tuple[int, ...]
) -> tuple[dict[str, Any], bytes]:
    """Read one of our JSON files of any of ``versions``, the newest last, and its bytes; any
    damage, or a later ``format_version``, is a RunError."""
    try:
        data = read_bounded(path, _MAX_JSON_BYTES)
        value = loads_strictly(data)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing; restore it from a copy of the run") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DamagedError(
            f"{path} cannot be read as a {what} ({reason}); restore it from a copy"
        ) from None
    if not isinstance(value, dict) or "format_version" not in value:
        raise DamagedError(f"{path} is not a {what} of bptool: it has no format_version")
    version = value["format_version"]
    if not isinstance(version, int) or version not in versions:
        raise RunError(
            f"{path} has format_version {ascii(version)[:40]}, this bptool reads "
            f"{' and '.join(map(str, versions))}; update bptool"
        )
    return value, data


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
