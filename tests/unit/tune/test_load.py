"""What a probe counts, from a recording of what happened to each request."""

from __future__ import annotations

import pytest

from forebay.bench.recording import Recording
from forebay.tune import load
from forebay.tune.inputs import Inputs
from forebay.tune.load import HALF_S, Misses, arrivals
from forebay.tune.slo import Slo

SLO = Slo(0.99, 50.0)


def recorded(*ends: tuple[float, float | None, int]) -> Recording:
    """Each (due, answered or not yet, status)."""
    recording = Recording("open")
    for due, answered, status in ends:
        number = recording.add(due, due)
        if answered is not None:
            recording.finish(number, answered, status)
    return recording


def test_late_refused_and_broken_requests_are_misses() -> None:
    misses = Misses(SLO, 0.0, allowed=2)
    assert not misses(recorded((1.0, 1.01, 200), (1.1, 1.2, 200), (1.2, 1.201, 503)))
    assert Misses(SLO, 0.0, allowed=2)(recorded((1.0, 1.2, 200), (1.1, 1.101, 503), (1.2, 1.21, -1)))


def test_one_that_is_overdue_is_a_miss_before_its_answer_is_there() -> None:
    waiting = [(1.0 + place / 1000, None, -1) for place in range(10)]
    assert not Misses(SLO, 0.0, allowed=5)(recorded(*waiting))
    assert Misses(SLO, 0.0, allowed=5)(recorded(*waiting, (1.2, None, -1)))


def test_what_is_due_at_the_start_does_not_count() -> None:
    late = [(place / 100, place / 100 + 1.0, 200) for place in range(10)]
    assert not Misses(SLO, 0.5, allowed=0)(recorded(*late))
    assert Misses(SLO, 0.05, allowed=0)(recorded(*late))


def test_it_goes_on_counting_from_where_it_was() -> None:
    misses = Misses(SLO, 0.0, allowed=1)
    recording = recorded((1.0, 1.2, 200))
    assert not misses(recording)
    recording.finish(recording.add(1.3, 1.3), 1.5, 200)
    assert misses(recording)
    assert misses(recording)


def test_arrivals_are_as_many_as_the_rate_says_and_half_as_many_at_the_start() -> None:
    instants = arrivals(200.0, 5.0, seed=3)
    assert instants == sorted(instants)
    assert sum(1 for instant in instants if instant < HALF_S) == round(100 * HALF_S)
    assert sum(1 for instant in instants if instant >= HALF_S) == round(200 * (5.0 - HALF_S))
    assert instants != arrivals(200.0, 5.0, seed=4)


def test_what_is_answered_in_time_is_never_more_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Poisson process more may be due in the part that counts than the rate says."""
    crowded = recorded(*((0.5 + place / 120, 0.51 + place / 120, 200) for place in range(120)))
    early = len(arrivals(100.0, 1.5, 1)) - 120
    whole = recorded(*((0.1, 0.11, 200) for _ in range(early)))
    for due, finished in zip(crowded.intended, crowded.finished, strict=True):
        whole.finish(whole.add(due, due), finished, 200)
    monkeypatch.setattr(load, "run_open", lambda *_args, **_more: None)
    monkeypatch.setattr(load, "_run", lambda _loop: whole)
    found = load.at_rate(("", 0), Inputs((), (), "none"), 100.0, 1.0, SLO, 1)
    assert (found.in_time, found.goodput_per_s) == (120, 100.0)
