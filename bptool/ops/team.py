"""A team of threads inside one compiled call: who takes which part, and the barrier.

Every member runs the same kernel over the same arrays with a :class:`Team` of its own. It writes
its :func:`share` of the rows, columns or jobs of an operation, and reads what another member wrote
only after a :func:`barrier`. Shares depend on the size of the team and on nothing else, so results
do too. A team of one meets no barrier and takes all.

The barrier counts generations: the last to arrive sets the count of arrivals back and then raises
the generation, which the others wait for. They spin, since phases are short, and after ``SPINS``
looks give up their core between two looks, since another process may need it. A member that
failed outside its kernel never arrives; :func:`abandon` then lets the others through, whose results
are to be thrown away. Kernels themselves do not raise.

Source: Mellor-Crummey, Scott 1991, "Algorithms for scalable synchronization on shared-memory
multiprocessors", ACM TOCS 9(1), the centralized barrier of section 3.1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bptool.ops.atomics import add, call, load, pause, store, yield_address
from bptool.ops.jit import kernel
from bptool.ops.memory import aligned_zeros

SPINS = 2000
"""Looks at the generation before the core is given up, some 50 microseconds."""
LINE = 16
"""Elements that members keep apart: two lines of 64 bytes in int64, since lines are fetched in
pairs, and one in float32."""
ARRIVED, GENERATION, ABANDONED, YIELD_ADDRESS = (LINE * i for i in range(4))


class Team(NamedTuple):
    """One member's view of a team, as kernels take it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which no one needs
    """Which member this is, from 0."""
    n: int
    """How many there are."""
    state: npt.NDArray[np.int64]
    """Shared by the members and by no other team."""


def make_team(n: int) -> list[Team]:
    """The members of a new team of ``n``."""
    state = aligned_zeros((4 * LINE,), np.int64)
    state[YIELD_ADDRESS] = yield_address()
    return [Team(index, n, state) for index in range(n)]


ALONE = Team(0, 1, np.zeros(1, np.int64))
"""A team of one; it may serve any number of threads, since its state is not used."""


def abandon(state: npt.NDArray[np.int64]) -> None:
    """Let every member through all barriers, since one will not come; :func:`restore` follows."""
    state[ABANDONED] = 1


def restore(state: npt.NDArray[np.int64]) -> None:
    """Make the barrier usable again, when no member is inside a kernel."""
    state[[ARRIVED, ABANDONED]] = 0


@kernel
def share(total, multiple, team):  # type: ignore[no-untyped-def]
    """This member's part ``(first, stop)`` of ``range(total)``, cut at multiples of ``multiple``.

    Parts are of equal size but for one multiple; where there are fewer multiples than members,
    some are empty (first = stop).
    """
    n_blocks = (total + multiple - 1) // multiple
    first = n_blocks * team.index // team.n * multiple
    stop = n_blocks * (team.index + 1) // team.n * multiple
    return min(first, total), min(stop, total)


@kernel
def barrier(team):  # type: ignore[no-untyped-def]
    """Wait for every member; what each wrote before is seen by all after."""
    if team.n == 1:
        return
    state = team.state
    generation = load(state, GENERATION)
    if add(state, ARRIVED, 1) == team.n - 1:
        store(state, ARRIVED, 0)
        store(state, GENERATION, generation + 1)
        return
    n_looks = 0
    while load(state, GENERATION) == generation and load(state, ABANDONED) == 0:
        n_looks += 1
        if n_looks > SPINS and state[YIELD_ADDRESS] != 0:
            call(state[YIELD_ADDRESS])
        else:
            pause()
