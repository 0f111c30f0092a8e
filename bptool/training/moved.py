"""Finding texts, records and the parent of a run again where they were moved.

A run keeps absolute paths. Where one leads nowhere, its name is looked for near the run, in the
working folder and in the folders beside where it was. What is taken for it is held to the hash in
the manifest like any other text, so that a wrong guess is refused and never trained on.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bptool.config.load import DATASET_PREFIX
from bptool.config.schema import RunConfig
from bptool.data.cache import cache_folder
from bptool.data.corpus import texts_of_config
from bptool.data.survey import survey
from bptool.data.text import expand
from bptool.errors import DataError, UserError
from bptool.training.run_folder import RunFolder

PARENTS = 4
"""Folders above a run, and of a path that was moved with all below them, that are looked at."""


def find_again(config: RunConfig, folder: RunFolder, text_sha256: object) -> RunConfig:
    """``config`` with the places where what it names lies now.

    Raises:
        DataError: a text or a file of records is nowhere; the message says how to name it.
    """
    data = config.data
    texts = list(data.text)
    for index, name in enumerate(texts):
        if _is_missing(name):
            is_right: Callable[[Path], bool] = Path.is_file
            if data.records is None:

                def is_right(path: Path, index: int = index) -> bool:
                    tried = [*texts[:index], str(path), *texts[index + 1 :]]
                    return path.is_file() and _sha256(config, tried) == text_sha256

            texts[index] = _found(name, folder, "--text PATH", is_right)
    changed: dict[str, Any] = {"data": data.model_copy(update={"text": texts})}
    if data.records is not None:
        option = "--set data.records.validation=PATH"
        files = [_place_of(name, folder, option) for name in data.records.validation]
        records = data.records.model_copy(update={"validation": files})
        changed["data"] = changed["data"].model_copy(update={"records": records})
    if config.rollouts is not None:
        option = "--set rollouts.mix_text=PATH"
        files = [_place_of(name, folder, option) for name in config.rollouts.mix_text]
        changed["rollouts"] = config.rollouts.model_copy(update={"mix_text": files})
    if config.start is not None and not Path(config.start.run).exists():
        runs = (p for p in _candidates(config.start.run, folder) if RunFolder(p).holds_run())
        run = next(runs, Path(config.start.run))  # said where it is needed
        changed["start"] = config.start.model_copy(update={"run": str(run)})
    return config.model_copy(update=changed)


def _is_missing(name: str) -> bool:
    if name.startswith(DATASET_PREFIX):
        return False
    try:
        return not all(path.exists() for path in expand(name))
    except DataError:
        return True


def _sha256(config: RunConfig, texts: list[str]) -> str | None:
    try:
        data = config.data.model_copy(update={"text": texts})
        return survey(texts_of_config(data), data.split, cache_folder("tokens")).sha256
    except UserError:
        return None


def _place_of(name: str, folder: RunFolder, option: str) -> str:
    return _found(name, folder, option, Path.is_file) if _is_missing(name) else name


def _found(name: str, folder: RunFolder, option: str, is_right: Callable[[Path], bool]) -> str:
    for path in _candidates(name, folder):
        if is_right(path):
            return str(path)
    raise DataError(
        f"{name}: no such file, and {folder.path} was trained on it; put it back, or say where it "
        f"is now by {option}: its content is compared"
    )


def _candidates(name: str, folder: RunFolder) -> Iterator[Path]:
    """Where something of this name may lie now, the likeliest first."""
    path, run = Path(name), folder.path.absolute()
    near = list(dict.fromkeys([*run.parents[:PARENTS], Path.cwd(), run]))
    parts = path.parts[1:]
    for length in range(min(PARENTS, len(parts)), 0, -1):  # moved with the folders it is in
        for base in near:
            yield base.joinpath(*parts[-length:])
    for base in dict.fromkeys([path.parent, Path.cwd(), run.parent]):
        yield from sorted(base.glob(f"*/{glob.escape(path.name)}"))
