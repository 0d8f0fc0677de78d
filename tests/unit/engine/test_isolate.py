"""Isolation of guilty requests: every pattern of guilt for small batches, any pattern for large ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.isolate import PROBES, Group, Isolation, Verdict


class Outcome:
    """What a whole isolation came to. `tried_alone` are requests that failed in a run by themselves."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self.blamed: list[int] = []
        self.runs = 0
        self.failed_probes = 0
        self.model_blamed = False
        self.tried_alone: set[int] = set()


def isolate(count: int, guilty: Collection[int], take: Callable[[deque[Group[int]]], Group[int]]) -> Outcome:
    """Run the search as the engine does. A run fails exactly if a guilty request is in it."""
    outcome = Outcome()
    waiting: deque[Group[int]] = deque()

    def apply(verdict: Verdict[int]) -> None:
        waiting.extend(verdict.run)
        outcome.blamed += verdict.blamed
        outcome.model_blamed |= verdict.model_blamed

    isolation = Isolation(list(range(count)))
    if count == 1:
        outcome.tried_alone.add(0)
    apply(isolation.begin())
    while waiting:
        group = take(waiting)
        outcome.runs += 1
        ok = not set(group.items) & set(guilty)
        if ok:
            outcome.answered += group.items
        elif len(group.items) == 1:
            outcome.tried_alone.update(group.items)
        outcome.failed_probes += group.stage == "probe" and not ok
        apply(isolation.outcome(group, ok))
    return outcome


def first(waiting: deque[Group[int]]) -> Group[int]:
    return waiting.popleft()


def last(waiting: deque[Group[int]]) -> Group[int]:
    return waiting.pop()


def check(count: int, guilty: set[int], outcome: Outcome) -> None:
    assert sorted(outcome.answered + outcome.blamed) == list(range(count)), "each ends exactly once"
    if outcome.model_blamed:
        assert outcome.failed_probes == PROBES
        assert guilty <= set(outcome.blamed)
    else:
        assert set(outcome.blamed) == guilty
        assert set(outcome.blamed) <= outcome.tried_alone, "nobody is blamed who did not fail alone"


@pytest.mark.parametrize("take", [first, last])
@pytest.mark.parametrize("count", range(1, 9))
def test_every_pattern_of_guilt_in_small_batches(count: int, take: Callable[[deque[Group[int]]], Group[int]]) -> None:
    for pattern in range(1, 1 << count):
        guilty = {index for index in range(count) if pattern >> index & 1}
        check(count, guilty, isolate(count, guilty, take))


@given(st.integers(9, 64), st.data())
def test_any_pattern_in_large_batches(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    order = data.draw(st.randoms(use_true_random=False))

    def anyone(waiting: deque[Group[int]]) -> Group[int]:
        waiting.rotate(order.randrange(len(waiting)))
        return waiting.popleft()

    check(count, guilty, isolate(count, guilty, anyone))


@pytest.mark.parametrize("count", range(1, 65))
def test_one_guilty_costs_two_runs_a_halving(count: int) -> None:
    for guilty in range(count):
        outcome = isolate(count, {guilty}, first)
        assert outcome.blamed == [guilty]
        assert outcome.runs <= 2 * math.ceil(math.log2(count))


@pytest.mark.parametrize("count", range(5, 65))
def test_a_broken_model_costs_six_runs(count: int) -> None:
    outcome = isolate(count, set(range(count)), first)
    assert outcome.model_blamed
    assert outcome.runs == 2 + PROBES
    assert sorted(outcome.blamed) == list(range(count))


@pytest.mark.parametrize("count", range(5, 65))
def test_one_good_probe_clears_the_model(count: int) -> None:
    outcome = isolate(count, set(range(1, count)), first)
    assert not outcome.model_blamed
    assert outcome.answered == [0]


def test_a_batch_whose_failure_does_not_repeat_blames_nobody() -> None:
    outcome = isolate(8, set(), first)
    assert outcome.blamed == []
    assert sorted(outcome.answered) == list(range(8))


def test_failures_count_every_failed_run() -> None:
    isolation: Isolation[int] = Isolation([1, 2])
    verdict = isolation.begin()
    for group in verdict.run:
        isolation.outcome(group, ok=group.items == [1])
    assert isolation.failures == 2


def test_items_that_are_equal_are_still_told_apart() -> None:
    """Requests are compared by identity: equal ones must not stand in for each other."""
    items = [[0], [0], [0], [0], [0], [0]]
    isolation = Isolation(items)
    waiting, ended = list(isolation.begin().run), []
    while waiting:
        group = waiting.pop(0)
        ok = not any(item is items[0] or item is items[5] for item in group.items)
        ended += group.items if ok else []
        verdict = isolation.outcome(group, ok)
        waiting += verdict.run
        ended += verdict.blamed
    assert sorted(map(id, ended)) == sorted(map(id, items))
