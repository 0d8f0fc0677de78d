"""The crash-loop guard, with times brought by the test."""

from __future__ import annotations

import pytest

from forebay.engine.supervisor import FIRST_DELAY_S, FREE_DEATHS, LONGEST_DELAY_S, WINDOW_S, CrashLoopGuard


def test_the_first_deaths_are_free_and_then_each_wait_is_twice_the_last() -> None:
    guard = CrashLoopGuard()
    assert [guard.died(float(i)) for i in range(FREE_DEATHS)] == [0.0] * FREE_DEATHS
    assert not guard.looping(FREE_DEATHS)
    waits = [guard.died(FREE_DEATHS + 0.1 * i) for i in range(8)]
    assert waits[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert waits[-1] == LONGEST_DELAY_S
    assert guard.looping(FREE_DEATHS + 1)


def test_old_deaths_are_forgotten() -> None:
    guard = CrashLoopGuard()
    for _ in range(FREE_DEATHS + 3):
        guard.died(0.0)
    assert guard.looping(WINDOW_S)
    assert guard.died(WINDOW_S + 0.1) == 0.0


def test_a_loop_is_over_when_its_deaths_are_old() -> None:
    guard = CrashLoopGuard()
    for _ in range(FREE_DEATHS + 1):
        guard.died(0.0)
    assert guard.looping(1.0)
    assert not guard.looping(WINDOW_S + 0.1)


def test_rare_deaths_never_wait() -> None:
    guard = CrashLoopGuard()
    assert {guard.died(i * (WINDOW_S / FREE_DEATHS + 0.1)) for i in range(100)} == {0.0}


def test_deaths_that_were_a_requests_fault_do_not_count() -> None:
    guard = CrashLoopGuard()
    for i in range(100):
        assert guard.died(i * 0.01) == 0.0
        guard.forgive(1)
    assert not guard.looping(1.0)


@pytest.mark.parametrize("deaths", [0, 1, 5])
def test_forgiving_more_than_died_is_harmless(deaths: int) -> None:
    guard = CrashLoopGuard()
    for _ in range(deaths):
        guard.died(0.0)
    guard.forgive(10)
    assert guard.died(0.0) == 0.0
