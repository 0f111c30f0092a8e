"""The team inside a kernel: shares cover everything once, and the barrier keeps its promise."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.ops.atomics import yield_address
from bptool.ops.jit import kernel
from bptool.ops.team import ALONE, YIELD_ADDRESS, abandon, barrier, make_team, restore, share
from bptool.training.workers import WorkerTeam


@kernel
def rounds(values: Any, n_rounds: Any, team: Any) -> Any:
    """Each member writes a number of the round, then checks everyone's; returns the mistakes.

    Rounds use two rows in turn: one barrier a round then keeps writers from readers as well.
    """
    n_wrong = 0
    for i in range(n_rounds):
        values[i % 2, team.index] = i
        barrier(team)
        for j in range(team.n):
            n_wrong += values[i % 2, j] != i
    return n_wrong


@given(total=st.integers(0, 5000), n=st.integers(1, 20), multiple=st.sampled_from([1, 16, 64]))
@settings(max_examples=100, deadline=None)
def test_shares_cover_everything_once(total: int, n: int, multiple: int) -> None:
    shares = [share(total, multiple, member) for member in make_team(n)]
    assert [i for first, stop in shares for i in range(first, stop)] == list(range(total))
    assert all(first % multiple == 0 or first == total for first, _ in shares)
    sizes = [-(-(stop - first) // multiple) for first, stop in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_team_of_one_takes_all_and_waits_for_no_one() -> None:
    assert share(7, 2, ALONE) == (0, 7)
    assert rounds(np.zeros((2, 1), np.int64), 100, ALONE) == 0


@pytest.mark.parametrize(
    ("n", "yields", "n_rounds"),
    [(2, True, 10_000), (3, True, 3000), (7, True, 500), (3, False, 20)],
)  # more than the cores too
def test_after_a_barrier_everyone_sees_what_everyone_wrote(
    n: int, yields: bool, n_rounds: int
) -> None:
    members = make_team(n)
    if not yields:
        members[0].state[YIELD_ADDRESS] = 0
    values = np.full((2, n * 16), -1, np.int64)
    with WorkerTeam(n) as team:
        assert team.run(lambda i: rounds(values, n_rounds, members[i])) == [0] * n


def test_a_member_that_runs_ahead_would_be_caught() -> None:
    """The check above can fail: without the others every number of theirs is missing."""
    ahead = make_team(2)[1]
    abandon(ahead.state)
    assert rounds(np.full((2, 2), -1, np.int64), 3, ahead) == 3


def test_those_who_wait_for_a_failed_member_are_let_through() -> None:
    members = make_team(3)
    values = np.zeros((2, 3), np.int64)
    waiting = [
        threading.Thread(target=rounds, args=(values, 5, member), daemon=True)
        for member in members[:2]
    ]
    for thread in waiting:
        thread.start()
    abandon(members[0].state)
    for thread in waiting:
        thread.join(60)
        assert not thread.is_alive()
    restore(members[0].state)
    with WorkerTeam(3) as team:
        assert team.run(lambda i: rounds(values, 50, members[i])) == [0] * 3


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_workers_exception_does_not_leave_the_others_waiting(guilty: int) -> None:
    values = np.zeros((2, 3), np.int64)
    with WorkerTeam(3) as team:

        def work(i: int, fails: bool) -> int:
            if fails and i == guilty:
                raise ValueError(f"worker {i}")
            return int(rounds(values, 50, team.members[i]))

        for _ in range(3):
            with pytest.raises(ValueError, match=f"worker {guilty}"):
                team.run(lambda i: work(i, True))
            assert team.run(lambda i: work(i, False)) == [0, 0, 0]


def test_cores_can_be_given_up_on_this_system() -> None:
    assert yield_address() != 0
