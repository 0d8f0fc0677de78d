from __future__ import annotations

import numpy as np
import pytest

from forebay.bench.arrivals import arrivals, onoff, poisson


def test_poisson_has_the_rate_and_exponential_gaps() -> None:
    instants = poisson(500.0, 100.0, seed=3)
    assert abs(len(instants) - 50_000) < 4 * 50_000**0.5
    gaps = np.diff(instants)
    assert (gaps >= 0).all()
    # An exponential's standard deviation is its mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert instants[-1] < 100.0


def test_onoff_keeps_the_mean_rate_and_bursts_ten_to_one() -> None:
    instants = onoff(400.0, 200.0, seed=1, period_s=2.0, on_share=0.25)
    assert abs(len(instants) - 80_000) < 4 * 80_000**0.5
    phase = instants % 2.0
    on_rate = (phase < 0.5).sum() / (100 * 0.5)
    off_rate = (phase >= 0.5).sum() / (100 * 1.5)
    assert on_rate / off_rate == pytest.approx(10.0, rel=0.05)
    assert (np.diff(instants) >= 0).all()


def test_same_seed_same_instants() -> None:
    assert np.array_equal(arrivals("onoff", 50, 5, 7), arrivals("onoff", 50, 5, 7))
    assert not np.array_equal(arrivals("poisson", 50, 5, 7), arrivals("poisson", 50, 5, 8))


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1)])
def test_nonsense_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        poisson(rate, seconds)
