"""A team of threads that run the same function, one part each.

The calling thread is worker 0. Kernels release the GIL, so parts run side by side. A part may be a
kernel that meets the others at barriers (:mod:`bptool.ops.team`): each worker passes its own of
``members``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from bptool.ops.team import abandon, make_team, restore

T = TypeVar("T")


class WorkerTeam:
    """``n`` workers, ``n - 1`` of them threads that wait for work until :meth:`close`."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.members = make_team(n)
        self._work: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(n - 1)]
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(i + 1,), daemon=True) for i in range(n - 1)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, index: int) -> None:
        while (function := self._work[index - 1].get()) is not None:
            self._done.put(self._attempt(function, index))

    def run(self, function: Callable[[int], T]) -> list[T]:
        """``[function(0), ..., function(n - 1)]``, all at once; the first exception is raised."""
        for work in self._work:
            work.put(function)
        outcomes = [self._attempt(function, 0)]
        outcomes += [self._done.get() for _ in self._work]
        restore(self.members[0].state)
        for _, _, error in outcomes:
            if error is not None:
                raise error
        return [result for _, result, _ in sorted(outcomes, key=lambda outcome: outcome[0])]

    def _attempt(
        self, function: Callable[[int], T], index: int
    ) -> tuple[int, Any, BaseException | None]:
        try:
            return index, function(index), None
        except BaseException as error:  # handed to the caller of run
            abandon(self.members[index].state)
            return index, None, error

    def close(self) -> None:
        """End the threads; one that waits for an interrupted caller at a barrier is let through."""
        abandon(self.members[0].state)
        for work in self._work:
            work.put(None)
        for thread in self._threads:
            thread.join()
        self._work, self._threads = [], []
        self.n, self.members = 1, make_team(1)

    def __enter__(self) -> WorkerTeam:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
