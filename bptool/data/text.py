"""Where texts are, and what they are known by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bptool.config.load import DATASET_PREFIX
from bptool.data.streams import COMPRESSED
from bptool.errors import DataError

RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SUFFIXES = (".txt", ".md", *RECORDS)
PATTERN = frozenset("*?[")


def resolve(path: Path | str) -> Path:
    """The file behind a path or ``dataset:NAME``."""
    if isinstance(path, str) and path.startswith(DATASET_PREFIX):
        from bptool.data import download

        return download.path_of(path.removeprefix(DATASET_PREFIX))
    return Path(path)


def expand(name: str | Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files that a name stands for: itself, those of a folder, or those of a pattern.

    Raises:
        DataError: there are none.
    """
    path = resolve(name)
    try:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and kind(p) in suffixes)
            if not found:
                raise DataError(
                    f"{path}: the folder holds nothing to read; name one with files that end in "
                    f"{', '.join(suffixes)}, or these with .gz or .zst"
                )
            return found
        if path.exists() or not PATTERN & set(str(path)):
            return [path]
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r}: cannot be the name of a file ({error})") from None
    anchor = Path(path.anchor)
    found = sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file())
    if not found:
        raise DataError(f"{path}: no file matches the pattern; check it and the folder")
    return found


def kind(path: Path) -> str:
    """The suffix of a file, whatever it is compressed with."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
