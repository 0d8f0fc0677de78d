"""How long answers are served."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.policy import JITTER, THROWS, throws, times
from forebay.core.caching import CacheRules

numbers = st.floats(0.0, 1e6)


def test_lives_are_spread_below_the_time_to_live() -> None:
    thrown = [throw for _, throw in zip(range(THROWS), throws(1), strict=False)]
    assert all(1 - JITTER <= throw.jitter <= 1.0 for throw in thrown)
    assert len({throw.jitter for throw in thrown}) > THROWS // 2
    assert 0.8 < sum(throw.early for throw in thrown) / THROWS < 1.2


@given(numbers, numbers, st.floats(0.001, 1e6), numbers)
def test_an_answer_is_computed_anew_before_its_end_but_not_in_its_first_half(
    early: float, cost_s: float, fresh_s: float, stale_s: float
) -> None:
    refresh_at, stale_until = times(CacheRules(fresh_s, stale_s), 50.0, fresh_s, cost_s, early)
    assert stale_until == 50.0 + fresh_s + stale_s
    assert 50.0 + fresh_s / 2 - 1e-6 <= refresh_at <= 50.0 + fresh_s


def test_what_takes_longer_is_computed_anew_earlier() -> None:
    quick, _ = times(CacheRules(100.0), 0.0, 100.0, 0.01, 0.5)
    slow, _ = times(CacheRules(100.0), 0.0, 100.0, 5.0, 0.5)
    assert slow < quick
