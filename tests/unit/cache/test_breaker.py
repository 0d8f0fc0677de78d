"""A store that fails is left alone for a while."""

from __future__ import annotations

from forebay.cache.breaker import FAILURES, FIRST_REST_S, LONGEST_REST_S, Breaker
from forebay.testing import FakeClock


def broken(clock: FakeClock) -> Breaker:
    breaker = Breaker(clock)
    told = []
    for _ in range(FAILURES):
        assert breaker.allows()
        told.append(breaker.failed())
    assert told == [False] * (FAILURES - 1) + [True]
    return breaker


def test_a_failure_in_between_is_forgotten() -> None:
    breaker = Breaker(FakeClock())
    for _ in range(10):
        assert not breaker.failed()
        assert not breaker.succeeded(0.1)
    assert breaker.allows()


def test_after_a_rest_one_call_tries() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    assert not breaker.allows()
    clock.advance(FIRST_REST_S)
    assert breaker.allows()
    assert not breaker.allows()
    assert breaker.succeeded(0.1)
    assert breaker.allows()
    assert not breaker.open


def test_rests_grow_up_to_a_bound() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    rest_s = FIRST_REST_S
    for _ in range(10):
        clock.advance(rest_s * 0.99)
        assert not breaker.allows()
        clock.advance(rest_s * 0.02)
        assert breaker.allows()
        assert not breaker.failed()
        rest_s = min(2 * rest_s, LONGEST_REST_S)


def test_calls_that_were_under_way_do_not_lengthen_the_rest() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    for _ in range(100):
        breaker.failed()
    clock.advance(FIRST_REST_S)
    assert breaker.allows()


def test_the_round_trip_is_smoothed() -> None:
    breaker = Breaker(FakeClock())
    breaker.succeeded(1.0)
    assert breaker.round_trip_s == 1.0
    for _ in range(100):
        breaker.succeeded(2.0)
    assert 1.9 < breaker.round_trip_s < 2.0
