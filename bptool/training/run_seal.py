"""The manifest as a file, and the hashes in it of the files beside it.

The manifest is sealed (``seal.py``) and holds the SHA-256 of ``config.yaml`` and ``tokenizer.json``
under ``files``, and under ``settings`` what the first of them said, so that a change can be named.
That finds damage and forgotten edits. It proves no origin: whoever can write the folder can write
the manifest too.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bptool import consent
from bptool.config.dump import to_yaml
from bptool.config.load import flatten, resolve
from bptool.config.schema import RunConfig
from bptool.errors import BptoolWarning, ConfigError, DamagedError, RunError
from bptool.files import write_text
from bptool.training.lock import RUN_LOCK, FolderLock
from bptool.training.run_folder import RunFolder, writing
from bptool.training.seal import read_sealed, write_sealed
from bptool.training.tensor_file import sha256_of

OF_THE_FILES = ("format_version", "files", "settings")
"""Keys of a manifest that are about the run's files and not about what was trained."""
_TRIES = 3
"""Readings of a run whose configuration another process is writing."""
_MOST_NAMED, _MOST_SHOWN = 5, 60


class Change(NamedTuple):
    """A file that is not as the run wrote it."""

    path: Path
    was: str
    now: str
    """SHA-256 of both, in hexadecimal digits."""
    what: str
    """The difference in words, where it can be told."""


def write_manifest(folder: RunFolder, about: dict[str, Any], config: RunConfig) -> None:
    """Write the manifest of a new run whose other files are there.

    Args:
        about: what the results depend on. config: what ``config.yaml`` says.
    """
    write_sealed(folder.manifest, {**about, **_sealing(folder, flatten(config))})


def read_manifest(folder: RunFolder) -> dict[str, Any]:
    """The manifest of a run whose ``config.yaml`` and ``tokenizer.json`` are as it wrote them.

    With :func:`bptool.consent.accepts_changes` changed files are taken as they are, which the
    manifest then says. A run of an earlier version has no hashes; a warning says so.

    Raises:
        RunError: the manifest is damaged, or one of the files was changed.
    """
    manifest = _read(folder)
    for _ in range(_TRIES):
        changes = list(_changes(folder, manifest))
        again = _read(folder) if changes else manifest
        if again == manifest:
            break
        manifest = again  # another process was writing
    if consent.accepts_changes() and (changes or not _is_sealed(manifest)):
        return _accept(folder)
    if not _is_sealed(manifest):
        warnings.warn(
            f"{folder.path} was made before runs kept hashes of their {folder.config.name} and "
            f"{folder.tokenizer.name}, so that changes to them cannot be found",
            BptoolWarning,
            stacklevel=1,  # said once, whoever reads it
        )
    if changes:
        text = "; ".join(f"{one.path} is not as the run wrote it: {one.what}" for one in changes)
        raise RunError(
            f"{text}; restore it from a copy, or if you changed it on purpose, add "
            "--accept-changes, which the manifest then says"
        )
    return manifest


def rewrite_config(folder: RunFolder, config: RunConfig) -> None:
    """Replace the ``config.yaml`` of a run; only under the run's lock.

    The manifest first takes both the old file and the new one for the run's, then the file is
    replaced, then the manifest forgets the old one: a kill at any moment leaves a run that opens.

    Raises:
        RunError: a file could not be written; the run opens as it did.
    """
    text, settings = to_yaml(config), flatten(config)
    after = hashlib.sha256(text.encode("utf-8")).hexdigest()
    manifest = _read(folder)
    if _is_sealed(manifest) and manifest["files"][folder.config.name] == {"sha256": after}:
        return
    with writing(folder.path, "the run is as it was"):
        both = _sealing(folder, manifest.get("settings", settings))
        both["files"][folder.config.name]["sha256_after"] = after
        write_sealed(folder.manifest, {**_without_version(manifest), **both})
        write_text(folder.config, text)
        write_sealed(folder.manifest, {**_without_version(manifest), **_sealing(folder, settings)})


def _read(folder: RunFolder) -> dict[str, Any]:
    manifest = read_sealed(folder.manifest, "manifest")
    if _is_sealed(manifest):
        names = {folder.config.name, folder.tokenizer.name}
        files = manifest["files"]
        if not (
            isinstance(files, dict)
            and files.keys() == names
            and all(isinstance(one, dict) and "sha256" in one for one in files.values())
            and isinstance(manifest.get("settings"), dict)
        ):
            raise DamagedError(f"{folder.manifest} is damaged: its hashes are not those of a run")
    return manifest


def _is_sealed(manifest: dict[str, Any]) -> bool:
    return "files" in manifest


def _without_version(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "format_version"}


def _sealing(folder: RunFolder, settings: dict[str, str]) -> dict[str, Any]:
    """What a manifest says of the files that are there."""
    files = {path.name: {"sha256": _sha256_of(path)} for path in (folder.config, folder.tokenizer)}
    return {"files": files, "settings": settings}


def _sha256_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing; restore it from a copy of the run") from None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from None


def _changes(folder: RunFolder, manifest: dict[str, Any]) -> Iterator[Change]:
    if not _is_sealed(manifest):
        return
    for path in (folder.config, folder.tokenizer):
        known, now = manifest["files"][path.name], _sha256_of(path)
        if now not in known.values():
            of_values = path == folder.config
            what = _values_changed(path, manifest["settings"]) if of_values else ""
            was = str(known["sha256"])
            yield Change(path, was, now, what or f"its sha256 was {was[:16]}, is {now[:16]}")


def _values_changed(path: Path, before: dict[str, str]) -> str:
    """``model.n_head was 2, is 1``."""
    try:
        after = flatten(resolve(path, readable=True).config)
    except ConfigError as error:
        return f"it cannot be read any more ({str(error).splitlines()[0]})"
    named = [
        f"{key} was {_cut(before.get(key))}, is {_cut(after.get(key))}"
        for key in [*after, *(key for key in before if key not in after)]
        if before.get(key) != after.get(key)
    ]
    more = [f"and {len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []
    return ", ".join(named[:_MOST_NAMED] + more) or "its text changed, and none of its values"


def _cut(value: object) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _accept(folder: RunFolder) -> dict[str, Any]:
    """Record the files as they are now, under the run's lock."""
    lock = FolderLock(folder.path, RUN_LOCK)
    lock.acquire()
    try:
        manifest = _read(folder)
        records = [
            {"file": one.path.name, "was": one.was, "now": one.now, "what": one.what}
            for one in _changes(folder, manifest)
        ]
        settings = flatten(resolve(folder.config, readable=True).config)
        if records:
            manifest = {**manifest, "accepted": [*manifest.get("accepted", []), *records]}
        with writing(folder.manifest):
            write_sealed(
                folder.manifest, {**_without_version(manifest), **_sealing(folder, settings)}
            )
        return _read(folder)
    finally:
        lock.release()
