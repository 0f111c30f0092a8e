"""What SIGINT and SIGTERM do while something runs that can be stopped between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bptool.cli.failures import Terminated

_SHOW_CURSOR = b"\x1b[?25h"


class Asked:
    """The signal that asked to stop, if one did."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, as a shell has it."""
        return 128 + (self.number or signal.SIGINT)


def raise_terminated(number: int, frame: Any) -> None:
    """What SIGTERM does outside :func:`stopping`: end the command with exit code 143."""
    raise Terminated


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Inside the block SIGTERM raises Terminated; nothing changes in a thread of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def stopping(request_stop: Callable[[], None], at_once: bool = False) -> Iterator[Asked]:
    """Inside the block the first SIGINT or SIGTERM calls ``request_stop``.

    A second one raises KeyboardInterrupt or Terminated; with ``at_once`` it ends the process
    there and then, even in the middle of a long step.
    """
    asked = Asked()
    wanted = [signal.SIGINT]
    if hasattr(signal, "SIGTERM"):
        wanted.append(signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        asked.number = asked.number or number
        for each in wanted if at_once else [signal.Signals(number)]:
            again = signal.default_int_handler if each == signal.SIGINT else raise_terminated
            signal.signal(each, signal.SIG_DFL if at_once else again)
        if at_once and sys.stdout.isatty():  # nobody would bring the cursor back
            os.write(sys.stdout.fileno(), _SHOW_CURSOR)
        request_stop()  # last, since it may raise

    previous = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
