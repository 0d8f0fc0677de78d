"""Objectives are read as people write them, and hold as they are meant."""

from __future__ import annotations

import pytest

from forebay.core.errors import SetupError
from forebay.tune.slo import Slo, parse_slo


@pytest.mark.parametrize(
    ("text", "share", "bound_ms"),
    [("p99=50ms", 0.99, 50.0), ("p99.9=1.5s", 0.999, 1500.0), ("p50 <= 800us", 0.5, 0.8), (" p95=2s ", 0.95, 2000.0)],
)
def test_an_objective_is_a_percentile_and_a_time(text: str, share: float, bound_ms: float) -> None:
    found = parse_slo(text)
    assert found.share == pytest.approx(share)
    assert found.bound_ms == pytest.approx(bound_ms)


@pytest.mark.parametrize(
    "text", ["", "50ms", "p99", "p99=50", "p100=50ms", "p0=50ms", "p99=0ms", "q99=5ms", "p99=-1ms"]
)
def test_anything_else_is_an_error_that_names_it_and_the_form(text: str) -> None:
    with pytest.raises(SetupError, match="such as p99=50ms") as caught:
        parse_slo(text)
    assert repr(text) in caught.value.message
    assert caught.value.code == "config_error"


def test_it_is_shown_as_it_was_meant() -> None:
    assert str(parse_slo("p99.9=1.5s")) == "p99.9 <= 1500 ms"


@pytest.mark.parametrize(
    ("sent", "in_time", "refused", "holds"),
    [
        (100, 99, 0, True),
        (100, 98, 0, False),
        (99, 98, 0, False),
        (50, 50, 0, True),
        (0, 0, 0, False),
        (1000, 990, 10, True),
    ],
)
def test_what_is_late_refused_or_unanswered_is_missed(sent: int, in_time: int, refused: int, *, holds: bool) -> None:
    assert Slo(0.99, 50.0).holds(sent, in_time, refused) is holds


def test_no_more_than_one_in_a_hundred_may_be_refused_whatever_the_percentile() -> None:
    assert Slo(0.9, 50.0).holds(1000, 985, 10)
    assert not Slo(0.9, 50.0).holds(1000, 985, 11)
