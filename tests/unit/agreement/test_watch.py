"""Agreement is watched on a share of the traffic: a fall is seen soon, and what was measured is no alarm."""

from __future__ import annotations

import random

import pytest

from forebay.agreement.watch import SUSPECTED_RATE, AgreementWatch

ALLOWED = 0.0125
"""Of a cascade that keeps 99 %, whose student answers four fifths."""


def served(disagrees: float, requests: int, seed: int, shadow_rate: float = 0.02) -> tuple[AgreementWatch, int]:
    """After how many requests it fell; all of them where it did not."""
    rng = random.Random(seed)
    watch = AgreementWatch(ALLOWED, shadow_rate=shadow_rate, draw=rng.random)
    for request in range(requests):
        if watch.wants():
            watch.record(rng.random() >= disagrees)
        if watch.fallen:
            return watch, request
    return watch, requests


@pytest.mark.parametrize("seed", range(5))
def test_a_teacher_that_has_changed_is_noticed_within_a_thousand_requests(seed: int) -> None:
    watch, requests = served(0.5, 1000, seed)
    assert watch.fallen, requests
    assert "1.25% were expected" in watch.fallen


@pytest.mark.parametrize("seed", range(3))
def test_agreement_as_measured_is_no_alarm(seed: int) -> None:
    watch, _ = served(ALLOWED, 100_000, seed)
    assert not watch.fallen
    assert watch.agreement == pytest.approx(1 - ALLOWED, abs=0.02)
    assert watch.compared > 2000


def test_good_times_do_not_hide_bad_ones() -> None:
    watch = AgreementWatch(ALLOWED, shadow_rate=1.0)
    for _ in range(10_000):
        watch.record(True)
    rows = 0
    while not watch.fallen:
        watch.record(False)
        rows += 1
    assert rows < 12


def test_it_falls_once_and_then_wants_no_more() -> None:
    told: list[str] = []
    watch = AgreementWatch(ALLOWED, shadow_rate=1.0, on_fall=told.append)
    for _ in range(50):
        watch.record(False)
    assert told == [watch.fallen]
    assert not watch.wants()
    assert (watch.compared, watch.disagreed) == (50, 50)


def test_what_is_suspected_is_looked_at_more() -> None:
    watch = AgreementWatch(ALLOWED, shadow_rate=0.02, draw=lambda: SUSPECTED_RATE / 2)
    assert not watch.wants()
    watch.record(False)
    assert watch.wants()


def test_without_a_share_nothing_is_compared() -> None:
    watch = AgreementWatch(ALLOWED, shadow_rate=0.0, draw=lambda: 0.0)
    assert not watch.wants()
    assert watch.agreement is None


def test_where_half_of_what_it_says_may_be_wrong_that_is_no_alarm() -> None:
    """It answers so few rows that all of them may be."""
    watch = AgreementWatch(1.0, shadow_rate=1.0)
    for _ in range(1000):
        watch.record(True)
        watch.record(False)
    assert not watch.fallen
