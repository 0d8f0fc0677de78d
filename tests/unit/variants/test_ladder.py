"""Down soon, up late: which form of a model answers, by an injected clock."""

from __future__ import annotations

import math

import pytest

from forebay.variants.ladder import DOWN_FROM, Ladder

PATIENCE_S = 1.0
LONG_S, SHORT_S = 2 * DOWN_FROM * PATIENCE_S, 0.5 * DOWN_FROM * PATIENCE_S


def ladder(levels: int = 3) -> Ladder:
    return Ladder(levels, patience_s=PATIENCE_S, down_after_s=0.1, up_after_s=5.0, now=0.0)


def overloaded(one: Ladder, now: float, seconds: float) -> float:
    """Rows wait too long for a time; returns when it ended."""
    end = now + seconds
    while now < end:
        one.arrived(10, now)
        one.waits(LONG_S, now)
        now += 0.01
    return now


def went_down(one: Ladder) -> bool:
    return one.level == 1


def quiet(one: Ladder, now: float, seconds: float, better_rows_per_s: float = 1e6) -> float:
    """A row a tenth of a second, none of which waits."""
    end = now + seconds
    while now < end:
        one.arrived(1, now)
        one.waits(SHORT_S, now)
        if one.level:
            one.could(better_rows_per_s, now)
        now += 0.1
    return now


def test_it_goes_down_once_rows_have_waited_for_a_while() -> None:
    one = ladder()
    overloaded(one, 0.0, 0.09)
    assert one.level == 0
    overloaded(one, 0.09, 0.05)
    assert one.level == 1


def test_a_moment_is_no_reason() -> None:
    one = ladder()
    for place in range(100):
        one.waits(LONG_S if place % 2 else SHORT_S, place * 0.09)
    assert one.level == 0


def test_what_is_refused_waits_for_ever() -> None:
    one = ladder()
    for place in range(20):
        one.waits(math.inf, place * 0.01)
    assert one.level == 1


def test_it_goes_no_further_than_there_are_forms() -> None:
    one = ladder(levels=2)
    overloaded(one, 0.0, 2.0)
    assert one.level == 1
    alone = ladder(levels=1)
    overloaded(alone, 0.0, 2.0)
    assert alone.level == 0


def test_it_goes_up_late_and_step_by_step() -> None:
    one = ladder()
    now = overloaded(one, 0.0, 0.3)
    assert one.level == 2
    now = quiet(one, now, 4.9)
    assert one.level == 2
    now = quiet(one, now, 2.0)
    assert one.level == 1
    quiet(one, now, 5.5)
    assert one.level == 0


def test_while_the_better_form_could_not_do_it_it_stays() -> None:
    one = ladder(levels=2)
    now = overloaded(one, 0.0, 0.3)
    now = quiet(one, now, 60.0, better_rows_per_s=15.0)  # ten rows a second come
    assert one.level == 1
    assert one.rows_per_s == pytest.approx(10, rel=0.1)
    quiet(one, now, 7.0, better_rows_per_s=20.0)
    assert one.level == 0


def test_up_too_soon_makes_the_next_time_longer() -> None:
    one = ladder(levels=2)
    now, took = overloaded(one, 0.0, 0.2), []
    for _ in range(6):
        began = now
        while one.level:
            now = quiet(one, now, 0.1)
        took.append(now - began)
        now = overloaded(one, now, 0.2)
        assert went_down(one)
    assert took[0] == pytest.approx(5.0, abs=1.5)
    assert took[1] > 1.7 * took[0]
    assert max(took) == pytest.approx(40.0, abs=3.0), "but never longer than that"


def test_after_silence_the_best_answers_at_once() -> None:
    one = ladder()
    now = overloaded(one, 0.0, 0.3)
    one.arrived(1, now + 6.0)
    assert one.level == 0
