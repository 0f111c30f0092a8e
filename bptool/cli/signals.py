"""What Ctrl-C does while something runs that can be stopped between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stopping(request_stop: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first SIGINT or SIGTERM calls ``request_stop``; a second one raises
    KeyboardInterrupt at once."""

    def stop(number: int, frame: Any) -> None:
        request_stop()
        signal.signal(number, signal.default_int_handler)

    wanted = [signal.SIGINT]
    if hasattr(signal, "SIGTERM"):
        wanted.append(signal.SIGTERM)
    previous = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
