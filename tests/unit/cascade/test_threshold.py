"""The lowest threshold that keeps an agreement, and what is not enough to choose one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cascade.threshold import NoThresholdError, TooFewRowsError, choose, curve
from forebay.core.binomial import trials_needed, upper_bound


def test_it_is_as_low_as_the_agreement_allows() -> None:
    confidences = np.linspace(1.0, 0.5, 1000)
    agrees = np.ones(1000, bool)
    agrees[[300, 400, *range(600, 1000, 2)]] = False
    chosen = choose(curve(confidences, agrees), 0.98)
    assert upper_bound(chosen.disagreed, 1000) <= 0.02 < upper_bound(chosen.disagreed + 1, 1000)
    assert chosen.threshold == pytest.approx(confidences[chosen.answered - 1])
    assert 600 < chosen.answered < 640


def test_rows_that_are_as_sure_are_answered_alike() -> None:
    confidences = np.repeat([0.9, 0.8], 200)
    agrees = np.arange(400) != 250
    points = curve(confidences, agrees).points
    assert [(point.threshold, point.answered, point.disagreed) for point in points] == [(0.9, 200, 0), (0.8, 400, 1)]


def test_too_few_rows_are_refused_with_the_number_needed() -> None:
    needed = trials_needed(0.01)
    with pytest.raises(TooFewRowsError, match=f"0.99 takes at least {needed} rows to show; there are 9"):
        choose(curve(np.ones(9), np.ones(9, bool)), 0.99)
    assert choose(curve(np.ones(needed), np.ones(needed, bool)), 0.99).answered == needed


def test_a_student_that_is_wrong_where_it_is_sure_is_refused() -> None:
    with pytest.raises(NoThresholdError, match="100 of 500 are answered otherwise"):
        choose(curve(np.ones(500), np.arange(500) % 5 != 0), 0.99)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.7, 0.9, 0.99]), st.booleans()), min_size=200, max_size=400),
    st.sampled_from([0.6, 0.8, 0.95]),
)
def test_what_it_answers_keeps_the_agreement(rows: list[tuple[float, bool]], agreement: float) -> None:
    confidences, agrees = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    try:
        chosen = choose(curve(confidences, agrees), agreement)
    except NoThresholdError:
        sure = confidences >= confidences.max()
        assert upper_bound(int((~agrees[sure]).sum()), len(rows)) > 1 - agreement
        return
    answered = confidences >= chosen.threshold
    assert (answered.sum(), (~agrees[answered]).sum()) == (chosen.answered, chosen.disagreed)
    assert chosen.upper_bound <= 1 - agreement
