"""The manifest as a file, and the hashes in it of the files beside it.

The manifest is sealed (``seal.py``) and holds the SHA-256 of ``config.yaml`` and ``tokenizer.json``
under ``files``, and under ``settings`` what the first of them said, so that a change can be named.
That finds damage and forgotten edits. It proves no origin: whoever can write the folder can write
the manifest too.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
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
_REMEDY = (
    "restore it from a copy, or if you changed it on purpose, add --accept-changes, which records "
    "that in the manifest"
)
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
    program: consent.Program | None = None
    """What it is, where it is no file of the run."""


def write_manifest(folder: RunFolder, about: dict[str, Any], config: RunConfig) -> None:
    """Write the manifest of a new run whose other files are there.

    Args:
        about: what the results depend on. config: what ``config.yaml`` says.
    """
    write_sealed(folder.manifest, {**about, **_sealing(folder, flatten(config))})


def read_manifest(folder: RunFolder) -> dict[str, Any]:
    """The manifest of a run whose ``config.yaml`` and ``tokenizer.json`` are as it wrote them.

    With :func:`bptool.consent.accepts_changes` changed files are taken as they are, which is
    recorded in the manifest. A run of an earlier version has no hashes; a warning says so.

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
    if consent.accepts_changes() and (changes or not is_sealed(manifest)):
        return _accept(folder)
    if not is_sealed(manifest):
        warnings.warn(
            f"{folder.path} was made before runs kept hashes of their {folder.config.name} and "
            f"{folder.tokenizer.name}, so that changes to them cannot be found",
            BptoolWarning,
            stacklevel=1,  # said once, whoever reads it
        )
    if changes:
        text = "; ".join(f"{one.path} is not as the run wrote it: {one.what}" for one in changes)
        raise RunError(f"{text}; {_REMEDY}")
    return manifest


def rewrite_config(
    folder: RunFolder, config: RunConfig, about: dict[str, Any] | None = None
) -> None:
    """Replace the ``config.yaml`` of a run, and the keys ``about`` of its manifest; only under the
    run's lock.

    The manifest first takes both the old file and the new one for the run's, then the file is
    replaced, then the manifest forgets the old one: a kill at any moment leaves a run that opens.

    Raises:
        RunError: a file could not be written; the run opens as it did.
    """
    text, settings = to_yaml(config), flatten(config)
    after = hashlib.sha256(text.encode("utf-8")).hexdigest()
    manifest = _read(folder)
    if is_sealed(manifest) and manifest["files"][folder.config.name] == {"sha256": after}:
        return
    manifest = {**manifest, **(about or {})}
    with writing(folder.path, "the run is as it was"):
        both = _sealing(folder, manifest.get("settings", settings))
        both["files"][folder.config.name]["sha256_after"] = after
        write_sealed(folder.manifest, {**_without_version(manifest), **both})
        write_text(folder.config, text)
        write_sealed(folder.manifest, {**_without_version(manifest), **_sealing(folder, settings)})


def _read(folder: RunFolder) -> dict[str, Any]:
    manifest = read_sealed(folder.manifest, "manifest")
    if is_sealed(manifest):
        names = {folder.config.name, folder.tokenizer.name}
        files = manifest["files"]
        if not (
            isinstance(files, dict)
            and files.keys() == names
            and all(isinstance(one, dict) and "sha256" in one for one in files.values())
            and isinstance(manifest.get("settings"), dict)
        ):
            raise DamagedError(f"{folder.manifest} is damaged: its hashes are not those of a run")
    programs = manifest.get("programs", [])
    if not isinstance(programs, list) or not all(map(_is_program, programs)):
        raise DamagedError(f"{folder.manifest} is damaged: its programs are no list of them")
    if not isinstance(manifest.get("accepted", []), list):
        raise DamagedError(f"{folder.manifest} is damaged: what was accepted is no list")
    return manifest


def _is_program(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"option", "name", "sha256"}
        and all(isinstance(one, str) for one in value.values())
    )


def is_sealed(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has the hashes of its run's files, as those of earlier versions do not."""
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
    if not is_sealed(manifest):
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


def reseal(folder: RunFolder, manifest: dict[str, Any]) -> None:
    """Replace the manifest of a run, with its files as they are; only under the run's lock."""
    about = {k: v for k, v in manifest.items() if k not in OF_THE_FILES}
    config = resolve(folder.config, readable=True).config
    with writing(folder.manifest):
        write_manifest(folder, about, config)


def check_programs(folder: RunFolder, resumes: bool) -> dict[str, Any]:
    """Hold the programs that the user named to those that a run was trained with, by their hashes,
    before any of them runs; with :func:`bptool.consent.accepts_changes` others are recorded.

    Returns the manifest, as :func:`read_manifest`.

    Args:
        resumes: the run goes on, for which it needs all of them.

    Raises:
        RunError: one is another than the run was trained with, or one that it needs was not named.
    """
    manifest = read_manifest(folder)
    changes = list(_programs_changed(folder, manifest, resumes))
    if changes and consent.accepts_changes():
        return _accept(folder, changes)
    if changes:
        text = "; ".join(
            f"{one.path} is not the program that {folder.path} was trained with: {one.what}"
            for one in changes
        )
        raise RunError(f"{text}; {_REMEDY}")
    return manifest


def _programs_changed(
    folder: RunFolder, manifest: dict[str, Any], resumes: bool
) -> Iterator[Change]:
    recorded = manifest.get("programs", [])
    for option in consent.LASTING:
        named = consent.programs((option,))
        missing = [one for one in recorded if one["option"] == option]
        missing = [one for one in missing if one["sha256"] not in {n.sha256 for n in named}]
        known = {one["sha256"] for one in recorded if one["option"] == option}
        others = [one for one in named if one.sha256 not in known]
        if resumes and len(missing) > len(others):
            raise RunError(f"{folder.path}: {unnamed_programs(manifest)}")
        for one in others:
            if not missing:
                break
            was = min(missing, key=lambda m: Path(m["name"]).name != Path(one.name).name)
            missing.remove(was)
            what = f"its sha256 was {was['sha256']}, is {one.sha256}"
            yield Change(Path(one.name), was["sha256"], one.sha256, what, program=one)


def unnamed_programs(manifest: dict[str, Any], *options: str) -> str:
    """What to do about the programs of a run that are not named, in words; empty where all are."""
    named = {one.sha256 for one in consent.programs()}
    words = [
        f"{one['option']} {consent.on_one_line(one['name'])}"
        for one in manifest.get("programs", [])[:_MOST_NAMED]
        if one["sha256"] not in named and one["option"] in (options or consent.LASTING)
    ]
    if not words:
        return ""
    return (
        "it was trained with programs, which run only when you name them on this command line; "
        f"look at them, then add {' '.join(words)}"
    )


def _accept(folder: RunFolder, programs: Sequence[Change] = ()) -> dict[str, Any]:
    """Record files and programs as they are now, under the run's lock."""
    lock = FolderLock(folder.path, RUN_LOCK)
    lock.acquire()
    try:
        manifest = _read(folder)
        of_files = [one._replace(path=Path(one.path.name)) for one in _changes(folder, manifest)]
        records = [
            {"file": str(one.path), "was": one.was, "now": one.now, "what": one.what}
            for one in (*of_files, *programs)
        ]
        for one in programs:
            assert one.program is not None
            now = {"option": one.program.option, "name": one.program.name, "sha256": one.now}
            manifest["programs"] = [
                now if known["sha256"] == one.was and known["option"] == now["option"] else known
                for known in manifest["programs"]
            ]
        if records:
            manifest["accepted"] = [*manifest.get("accepted", []), *records]
        reseal(folder, manifest)
        return _read(folder)
    finally:
        lock.release()
