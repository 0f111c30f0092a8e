"""Figures of matplotlib, which are only ever written to files, and its start, which is silent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def starting_silently() -> Iterator[None]:
    """Inside the block importing matplotlib logs nothing but errors.

    Without a home it warns twice of the temporary folder that it takes instead, and removes; and
    on a slow machine of the list of fonts that it makes.
    """
    log = logging.getLogger("matplotlib")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def new_figure(**settings: Any) -> Figure:
    """An empty figure, in no window."""
    with starting_silently():
        import matplotlib

        matplotlib.use("Agg")
        matplotlib.rcdefaults()  # not what a file in the working folder says
        from matplotlib.figure import Figure

    return Figure(**settings)
