"""What a rate may be, of which so many events were seen: exact, however many trials there were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.core.binomial import lower_bound, trials_needed, upper_bound


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    [
        # scipy.stats.beta.ppf: beta(k, n - k + 1) at 0.025 and beta(k + 1, n - k) at 0.975.
        (0, 10, 0.0, 0.308497),
        (1, 10, 0.002529, 0.445016),
        (3, 183, 0.003394, 0.047159),
        (5, 100, 0.016432, 0.112835),
        (50, 1000, 0.037335, 0.065390),
        (10, 10, 0.691503, 1.0),
        # Where the first numbers that are summed are too small for a float, above and below what is likely.
        (0, 50_000, 0.0, 0.00007377),
        (2_500, 50_000, 0.04810583, 0.05194662),
        (25_000, 50_000, 0.49560749, 0.50439251),
        (49_999, 50_000, 0.99988857, 0.99999949),
        (999_000, 1_000_000, 0.99893608, 0.99906100),
    ],
)
def test_bounds_are_clopper_and_pearsons(events: int, trials: int, low: float, high: float) -> None:
    assert lower_bound(events, trials) == pytest.approx(low, abs=6e-7)
    assert upper_bound(events, trials) == pytest.approx(high, abs=6e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_the_bounds_hold_the_rate_between_them_and_mirror_each_other(case: tuple[int, int]) -> None:
    events, trials = case
    assert lower_bound(events, trials) <= events / trials <= upper_bound(events, trials)
    assert upper_bound(events, trials) == pytest.approx(1.0 - lower_bound(trials - events, trials), abs=1e-9)


@pytest.mark.parametrize("budget", [0.5, 0.1, 0.05, 0.01, 0.001])
def test_the_trials_that_are_needed_are_the_fewest_that_do(budget: float) -> None:
    needed = trials_needed(budget)
    assert upper_bound(0, needed) <= budget < upper_bound(0, needed - 1)
