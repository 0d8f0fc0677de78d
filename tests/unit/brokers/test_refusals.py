"""How long a queue is left alone that its broker refuses."""

from __future__ import annotations

from forebay.brokers.refusals import FIRST_PAUSE_S, FORGOTTEN_S, LONGEST_PAUSE_S, Refusals
from forebay.testing import FakeClock


def test_a_queue_that_is_refused_is_left_alone_longer_each_time_and_others_are_not() -> None:
    clock = FakeClock()
    refusals = Refusals[str](clock)
    pauses: list[float] = []
    for _ in range(8):
        began_s = clock()
        refusals.note("bad", "no")
        while not refusals.to_ask(["bad"]):
            assert refusals.to_ask(["good", "bad"]) == ["good"]
            clock.advance(FIRST_PAUSE_S)
        pauses.append(clock() - began_s)
    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_reason_is_news_once_until_it_changes_or_has_passed_for_long() -> None:
    clock = FakeClock()
    refusals = Refusals[str](clock)
    told = [refusals.note("bad", words) for words in ("no", "no", "never", "never")]
    assert told == [True, False, True, False]
    assert refusals.why(["good", "bad"]) == "never"
    clock.advance(LONGEST_PAUSE_S + FORGOTTEN_S)
    assert refusals.note("bad", "never")
    clock.advance(FIRST_PAUSE_S)
    assert refusals.to_ask(["bad"]) == ["bad"]


def test_how_long_a_queue_is_left_alone_may_be_said() -> None:
    clock = FakeClock()
    refusals = Refusals[str](clock)
    refusals.note("dumb", "it does not answer", 120.0)
    clock.advance(119.0)
    assert not refusals.to_ask(["dumb"])
    clock.advance(1.0)
    assert refusals.to_ask(["dumb"]) == ["dumb"]
