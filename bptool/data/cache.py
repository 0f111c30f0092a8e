"""The folder of the user's own where token files and downloads are kept."""

from __future__ import annotations

import os
from pathlib import Path

from bptool.caches import made, user_cache
from bptool.errors import DataError

ENVIRONMENT_VARIABLE = "BPTOOL_CACHE_DIR"


def cache_folder(name: str, base: Path | None = None) -> Path:
    """A folder for ``name``, made if need be.

    Args:
        name: ``tokens``, ``texts`` or ``datasets``.
        base: the folder to make it in; by default ``$BPTOOL_CACHE_DIR``, else the operating
            system's place for a user's caches, else a temporary folder: see
            :mod:`bptool.caches`.

    Raises:
        DataError: ``base`` or ``$BPTOOL_CACHE_DIR`` cannot be written.
    """
    chosen = base or os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        try:
            return made(Path(chosen) / name)
        except OSError as error:
            raise DataError(
                f"{Path(chosen) / name}: cannot be written ({error.strerror or error}); "
                f"set {ENVIRONMENT_VARIABLE} to a folder that can"
            ) from None
    return user_cache(name)
