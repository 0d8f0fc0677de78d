"""How low the threshold may be, measured on pairs of texts of which it is known whether one answer serves both.

The false-hit rate is false hits over pairs with different answers. What was seen on some pairs is not the rate itself,
so the upper end of its 95 % interval (Clopper and Pearson's, which is exact for any number of pairs) has to be within
the budget. Thresholds are tried from the highest down and the first that fails ends it, so that trying many costs
nothing in confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from forebay.core.binomial import trials_needed, upper_bound


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
    needed = trials_needed(budget)
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
