"""What SIGINT, SIGTERM and SIGHUP do while something runs that can be stopped between two steps.

SIGHUP is what a closed terminal or a lost connection sends. It is heeded like SIGTERM, unless the
process was started to outlive its terminal (``nohup`` has it ignored from the start). It may come
twice, from the system and from the shell, so a second one is ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bptool.cli.failures import Terminated

_SHOW_CURSOR = b"\x1b[?25h"


class Asked:
    """The signal that asked to stop, if one did."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, as a shell has it."""
        return 128 + (self.number or signal.SIGINT)


def raise_terminated(number: int, frame: Any) -> None:
    """What SIGTERM and SIGHUP do outside :func:`stopping`: end the command."""
    _ignore_hangups()
    raise Terminated(number)


def _heeded(names: Sequence[str]) -> list[signal.Signals]:
    """Those of the signals that this system has and that are not ignored."""
    here = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return [each for each in here if signal.getsignal(each) != signal.SIG_IGN]


def _ignore_hangups() -> None:
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise Terminated; other threads are left as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = _heeded(("SIGTERM", "SIGHUP"))
    previous = {number: signal.signal(number, raise_terminated) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopping(request_stop: Callable[[], None], at_once: bool = False) -> Iterator[Asked]:
    """Inside the block the first SIGINT, SIGTERM or SIGHUP calls ``request_stop``.

    A second SIGINT or SIGTERM raises KeyboardInterrupt or Terminated; with ``at_once`` it ends the
    process there and then, even in the middle of a long step.
    """
    asked = Asked()
    wanted = _heeded(("SIGINT", "SIGTERM", "SIGHUP"))

    def stop(number: int, frame: Any) -> None:
        asked.number = asked.number or number
        _ignore_hangups()
        again_at = [each for each in wanted if each.name != "SIGHUP"]
        for each in again_at if at_once else [each for each in again_at if each == number]:
            again = signal.default_int_handler if each == signal.SIGINT else raise_terminated
            signal.signal(each, signal.SIG_DFL if at_once else again)
        if at_once and sys.stdout.isatty():  # nobody would bring the cursor back
            with contextlib.suppress(OSError):  # the terminal itself may be gone
                os.write(sys.stdout.fileno(), _SHOW_CURSOR)
        request_stop()  # last, since it may raise

    previous = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
