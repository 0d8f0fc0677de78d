"""The choice of a threshold."""

from __future__ import annotations

import math

import pytest

from forebay.cache.semantic.calibrate import (
    NoThresholdError,
    ScoredPair,
    TooFewPairsError,
    choose,
    curve,
)
from forebay.core.binomial import upper_bound


def pairs_of(different: dict[float, int], same: dict[float, int], refused: int = 0) -> list[ScoredPair]:
    """Pairs by score; `refused` ones with different answers and the highest score do not pass the guard."""
    return [
        *(ScoredPair(score, True, False) for score, count in different.items() for _ in range(count)),
        *(ScoredPair(score, True, True) for score, count in same.items() for _ in range(count)),
        *(ScoredPair(1.0, False, False) for _ in range(refused)),
    ]


def test_the_lowest_threshold_within_the_budget_is_chosen() -> None:
    pairs = pairs_of({0.95: 1, 0.8: 3, 0.5: 96}, {0.99: 10, 0.9: 10, 0.81: 5, 0.8: 5, 0.4: 5}, refused=100)
    # Of 200 pairs: one false hit is at most 2.8 %, four are at most 5.04 %.
    assert (upper_bound(1, 200) < 0.05, upper_bound(4, 200) > 0.05) == (True, True)
    chosen = choose(curve(pairs), 0.05)
    assert (chosen.threshold, chosen.false_hits, chosen.true_hits) == (0.81, 1, 25)
    assert chosen.upper_bound == upper_bound(1, 200)
    looser = choose(curve(pairs), 0.06)
    assert (looser.threshold, looser.false_hits, looser.true_hits) == (0.8, 4, 30)


def test_what_the_guard_refuses_is_no_hit_but_counts_as_a_pair() -> None:
    found = curve(pairs_of({}, {0.9: 4}, refused=80))
    assert (found.different_pairs, found.same_pairs) == (80, 4)
    assert [point.false_hits for point in found.points] == [0, 0]
    assert choose(found, 0.05).threshold == 0.9


def test_pairs_of_one_score_are_taken_together() -> None:
    found = curve(pairs_of({0.9: 2, 0.5: 98}, {0.9: 3}))
    assert [(point.threshold, point.false_hits, point.true_hits) for point in found.points] == [
        (math.inf, 0, 0),
        (0.9, 2, 3),
        (0.5, 100, 3),
    ]


def test_too_few_pairs_are_refused_with_the_number_needed() -> None:
    with pytest.raises(
        TooFewPairsError, match=r"needs at least 368 pairs with different answers.*there are 300"
    ) as told:
        choose(curve(pairs_of({0.1: 300}, {0.9: 300})), 0.01)
    assert told.value.needed == 368
    assert choose(curve(pairs_of({0.1: 368}, {0.9: 1})), 0.01).threshold == 0.9


def test_pairs_that_no_threshold_tells_apart_are_refused() -> None:
    with pytest.raises(NoThresholdError, match=r"no threshold keeps a budget of 0\.05"):
        choose(curve(pairs_of({0.99: 50, 0.2: 50}, {0.9: 50})), 0.05)
