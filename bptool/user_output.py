"""What a user's own code prints goes to the standard error.

The standard output is the command's own: with ``--json`` a program reads it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Inside the block, ``print`` writes to the standard error. So do programs that the code
    starts and libraries that write to the descriptor, unless it is a terminal, where the live
    screen may be drawing at the same moment."""
    saved = _moved()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            with contextlib.suppress(OSError):
                os.dup2(saved, 1)
            os.close(saved)


def _moved() -> int | None:
    """Let descriptor 1 be what 2 is; a copy of what it was, None where nothing was moved."""
    if sys.stdout is None or sys.stderr is None:
        return None
    try:
        if os.isatty(1):
            return None
        sys.stdout.flush()
        saved = os.dup(1)
    except (OSError, ValueError):  # closed
        return None
    try:
        os.dup2(2, 1)
    except OSError:
        os.close(saved)
        return None
    return saved
