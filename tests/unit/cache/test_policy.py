"""How long answers are served."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cache.made import entry

from forebay.cache.policy import JITTER, lifetime_s, set_times
from forebay.core.caching import CacheRules

dice = st.floats(0.0, 1.0)


@given(dice)
def test_lives_are_spread_below_the_time_to_live(roll: float) -> None:
    assert 100.0 * (1 - JITTER) <= lifetime_s(CacheRules(100.0), roll) <= 100.0


@given(dice, st.floats(0.0, 1e6), st.floats(0.001, 1e6), st.floats(0.0, 1e6))
def test_an_answer_is_computed_anew_before_its_end_but_not_in_its_first_half(
    roll: float, cost_s: float, fresh_s: float, stale_s: float
) -> None:
    kept = entry(b"a")
    set_times(kept, CacheRules(fresh_s, stale_s), 50.0, fresh_s, cost_s, roll)
    assert kept.fresh_until == 50.0 + fresh_s
    assert kept.stale_until == kept.fresh_until + stale_s
    assert kept.fresh_until - fresh_s / 2 - 1e-6 <= kept.refresh_at <= kept.fresh_until


def test_what_takes_longer_is_computed_anew_earlier() -> None:
    quick, slow = entry(b"a"), entry(b"b")
    set_times(quick, CacheRules(100.0), 0.0, 100.0, 0.01, 0.5)
    set_times(slow, CacheRules(100.0), 0.0, 100.0, 5.0, 0.5)
    assert slow.refresh_at < quick.refresh_at
