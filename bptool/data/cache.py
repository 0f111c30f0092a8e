"""The folder of the user's own where token files and downloads are kept."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from bptool.errors import DataError

ENVIRONMENT_VARIABLE = "BPTOOL_CACHE_DIR"


def cache_folder(name: str, base: Path | None = None) -> Path:
    """A folder for ``name``, made if need be.

    Args:
        name: ``tokens``, ``texts`` or ``datasets``.
        base: the folder to make it in; by default ``$BPTOOL_CACHE_DIR``, else the operating
            system's place for a user's caches, else (where that cannot be written, as in a
            container without a home) a temporary folder that goes when the program ends.

    Raises:
        DataError: ``base`` or ``$BPTOOL_CACHE_DIR`` cannot be written.
    """
    chosen = base or os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        try:
            return _made(Path(chosen) / name)
        except OSError as error:
            raise DataError(
                f"{Path(chosen) / name}: cannot be written ({error.strerror or error}); "
                f"set {ENVIRONMENT_VARIABLE} to a folder that can"
            ) from None
    import platformdirs

    try:
        return _made(platformdirs.user_cache_path("bptool") / name)
    except (OSError, RuntimeError):
        return _made(Path(_temporary_base().name) / name)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "permission denied")
    return folder


@functools.cache
def _temporary_base() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bptool-", ignore_cleanup_errors=True)
