"""When a client tries again, and when it does not."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from forebay.client.errors import error_of
from forebay.client.retries import Retries, parse_retry_after
from forebay.core.errors import AdmissionError, ForebayError, SetupError

NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
FULL = AdmissionError("full")


def never() -> float:
    return 0.0


def almost_one() -> float:
    return math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0663", None),
        ("9" * 40, math.inf),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Sunday, 06-Nov-94 08:50:07 GMT", 30.0),
        ("Sun Nov  6 08:50:07 1994", 30.0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", 0.0),
        ("Sun, 36 Nov 1994 08:49:07 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_any_http_date(value: str | None, wanted: float | None) -> None:
    assert parse_retry_after(value, NOW) == wanted


def test_retry_after_as_a_date_is_right_in_every_zone() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=-8)))
    assert parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", there) == 30.0


def test_the_wait_is_drawn_from_a_range_that_doubles_up_to_the_longest() -> None:
    retries = Retries(attempts=99, first_wait_s=0.5, longest_wait_s=3.0)
    most = [retries.wait_s(n, FULL, None, math.inf, almost_one) for n in (1, 2, 3, 4, 5, 98)]
    assert most == pytest.approx([0.5, 1.0, 2.0, 3.0, 3.0, 3.0])
    assert retries.wait_s(3, FULL, None, math.inf, never) == 0.0


def test_a_thousand_attempts_do_not_overflow() -> None:
    retries = Retries(attempts=5000, first_wait_s=0.5, longest_wait_s=3.0)
    assert retries.wait_s(4000, FULL, None, math.inf, almost_one) == pytest.approx(3.0)


def test_the_servers_wish_is_the_least_that_is_waited() -> None:
    retries = Retries(first_wait_s=0.5)
    assert retries.wait_s(1, FULL, 7.0, 100.0, never) == 7.0
    assert retries.wait_s(1, FULL, 7.0, 100.0, almost_one) == pytest.approx(7.5)


def test_a_wish_that_the_deadline_does_not_allow_ends_the_call() -> None:
    assert Retries().wait_s(1, FULL, 2.0, 2.0, never) is None
    assert Retries().wait_s(1, FULL, 2.0, 1.0, never) is None
    assert Retries().wait_s(1, FULL, None, 0.0, never) is None


def test_jitter_alone_never_costs_the_last_try() -> None:
    retries = Retries(first_wait_s=10.0, longest_wait_s=10.0)
    wait_s = retries.wait_s(1, FULL, 1.0, 3.0, almost_one)
    assert wait_s is not None
    assert 1.0 <= wait_s < 3.0


def test_a_server_that_says_tomorrow_is_not_waited_for() -> None:
    assert Retries().wait_s(1, FULL, 86400.0, math.inf, never) is None


def test_attempts_are_bounded_and_one_means_no_retry() -> None:
    assert Retries(attempts=3).wait_s(2, FULL, None, math.inf, never) is not None
    assert Retries(attempts=3).wait_s(3, FULL, None, math.inf, never) is None
    assert Retries(attempts=1).wait_s(1, FULL, None, math.inf, never) is None


def test_only_what_may_succeed_later_is_tried_again() -> None:
    again = {"over_quota": 429, "queue_full": 503, "deadline_unreachable": 503, "model_not_ready": 503, "draining": 503}
    for code, status in again.items():
        assert Retries().wait_s(1, error_of(status, {"error": "no", "code": code}), None, 9.0, never) is not None, code
    for code, status in {"invalid_request": 400, "unauthorized": 401, "model_error": 500, "unsupported": 501}.items():
        assert Retries().wait_s(1, error_of(status, {"error": "no", "code": code}), None, 9.0, never) is None, code
    assert Retries().wait_s(1, ForebayError("what?"), None, 9.0, never) is None


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"first_wait_s": -1.0}, {"longest_wait_s": math.inf}, {"first_wait_s": math.nan}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SetupError, match=next(iter(wrong))):
        Retries(**wrong)  # type: ignore[arg-type]
