"""How low the threshold may be, measured on pairs of texts of which it is known whether one answer serves both.

The false-hit rate is false hits over pairs with different answers. What was seen on some pairs is not the rate itself,
so the upper end of its 95 % interval (Clopper and Pearson's, which is exact for any number of pairs) has to be within
the budget. Thresholds are tried from the highest down and the first that fails ends it, so that trying many costs
nothing in confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

CONFIDENCE: Final = 0.95
_HALVINGS: Final = 60


class ScoredPair(NamedTuple):
    """A pair: the cosine of its texts, whether the guard let it pass, whether one answer serves both."""

    score: float
    passed: bool
    same: bool


class Point(NamedTuple):
    """What a threshold would have done."""

    threshold: float
    false_hits: int
    true_hits: int
    upper_bound: float


class Curve(NamedTuple):
    """All thresholds that make a difference, highest first."""

    points: Sequence[Point]
    different_pairs: int
    same_pairs: int


class TooFewPairsError(ValueError):
    """The budget cannot be proven with so few pairs: it takes `needed` with different answers and no false hit."""

    def __init__(self, budget: float, needed: int, different_pairs: int) -> None:
        super().__init__(
            f"a budget of {budget:.3g} needs at least {needed} pairs with different answers, none of them a false hit; "
            f"there are {different_pairs}"
        )
        self.needed = needed


class NoThresholdError(ValueError):
    """Even the highest scores are false hits too often."""


def upper_bound(events: int, trials: int) -> float:
    """The upper end of Clopper and Pearson's 95 % interval of a rate."""
    if events >= trials:
        return 1.0
    tail = (1.0 - CONFIDENCE) / 2.0
    return _first(lambda rate: _at_most(events, trials, rate) <= tail)


def lower_bound(events: int, trials: int) -> float:
    """The lower end of the same interval."""
    if events == 0:
        return 0.0
    tail = (1.0 - CONFIDENCE) / 2.0
    return _first(lambda rate: 1.0 - _at_most(events - 1, trials, rate) >= tail)


def pairs_needed(budget: float) -> int:
    """The least number of pairs with different answers by which this budget can be proven: without any false hit."""
    return math.ceil(math.log((1.0 - CONFIDENCE) / 2.0) / math.log1p(-budget))


def curve(pairs: Sequence[ScoredPair]) -> Curve:
    """Every threshold at which hits change, highest first. One above all scores is the first: no hits at all."""
    different = sum(not pair.same for pair in pairs)
    points = [Point(math.inf, 0, 0, upper_bound(0, different))]
    false_hits = true_hits = 0
    hits = sorted((pair for pair in pairs if pair.passed), key=lambda pair: -pair.score)
    for place, pair in enumerate(hits):
        false_hits += not pair.same
        true_hits += pair.same
        if place + 1 == len(hits) or hits[place + 1].score < pair.score:
            points.append(Point(pair.score, false_hits, true_hits, upper_bound(false_hits, different)))
    return Curve(points, different, len(pairs) - different)


def choose(found: Curve, budget: float) -> Point:
    """The lowest threshold, of those that are scores of hits, that keeps the budget.

    Raises `TooFewPairsError`, and `NoThresholdError` where no threshold has any hits.
    """
    needed = pairs_needed(budget)
    if found.different_pairs < needed:
        raise TooFewPairsError(budget, needed, found.different_pairs)
    chosen = found.points[0]
    for point in found.points[1:]:
        if point.upper_bound > budget:
            break
        chosen = point
    if not chosen.true_hits:
        raise NoThresholdError(f"no threshold keeps a budget of {budget:.3g} and has any hits on these pairs")
    return chosen


def _first(holds: Callable[[float], bool]) -> float:
    """The rate from which on a condition holds, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _at_most(events: int, trials: int, rate: float) -> float:
    """The probability of at most so many events in so many trials."""
    if rate in (0.0, 1.0):
        return float(rate == 0.0)
    log_all = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            log_all
            - math.lgamma(count + 1)
            - math.lgamma(trials - count + 1)
            + count * math.log(rate)
            + (trials - count) * math.log1p(-rate)
        )
        for count in range(events + 1)
    )
