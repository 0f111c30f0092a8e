"""The user's own folder for what is kept between commands, or a temporary one where there is none.

A container may have no home, or one that cannot be written. Then what would be kept (compiled
kernels, tokens, downloads) goes into one temporary folder that only its user can read. The process
that made it says so once, as a :class:`bptool.errors.BptoolWarning`, and removes it when it ends;
processes that it starts use the same one.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from bptool.errors import BptoolWarning, DataError

TEMPORARY = "BPTOOL_TEMPORARY_CACHE"
"""The variable by which processes started from here know the temporary folder."""


def user_cache(name: str, private: bool = False) -> Path:
    """The folder ``name`` of the user's cache, made if need be.

    Args:
        private: give it the mode 0700.

    Raises:
        DataError: neither the user's folder nor a temporary one can be written.
    """
    try:
        import platformdirs

        base = platformdirs.user_cache_path("bptool")
        if not base.is_absolute():  # it starts with the ~ that stands for no folder
            raise FileNotFoundError(errno.ENOENT, "no home folder", str(base))
        folder = made(base / name)
        if private:
            folder.chmod(0o700)
        return folder
    except (OSError, RuntimeError) as error:
        return made(_temporary(error) / name)


def made(folder: Path) -> Path:
    """``folder``, made if need be; OSError where it cannot be, or not be written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "permission denied", str(folder))
    return folder


def _temporary(reason: Exception) -> Path:
    given = os.environ.get(TEMPORARY)
    if given and os.path.isdir(given):
        return Path(given)
    why = str(reason)
    if isinstance(reason, OSError):
        why = f"{reason.filename}: {reason.strerror}"
    try:
        folder = tempfile.mkdtemp(prefix="bptool-")
    except OSError as error:
        raise DataError(
            f"no folder for caches: {why}, and no temporary one ({error.strerror or error}); "
            "set HOME or TMPDIR to a folder that can be written"
        ) from None
    os.environ[TEMPORARY] = folder
    atexit.register(_remove, folder, os.getpid())
    warnings.warn(
        f"no cache folder of your own ({why}): compiled kernels and tokens are kept in {folder} "
        "until the command ends; set HOME, or NUMBA_CACHE_DIR and BPTOOL_CACHE_DIR, to folders "
        "that can be written",
        BptoolWarning,
        stacklevel=3,
    )
    return Path(folder)


def _remove(folder: str, maker: int) -> None:
    if os.getpid() == maker:  # not a fork of it
        shutil.rmtree(folder, ignore_errors=True)
