"""What a rate may be of which some trials were seen: Clopper and Pearson's interval, exact for any number of trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

CONFIDENCE: Final = 0.95
_HALVINGS: Final = 60
_NOTHING: Final = 1e-18
"""Of a sum: a term so small is lost in it, and so are those that follow, each smaller than the one before."""

_NEVER: Final = 1e-250


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


def trials_needed(rate: float) -> int:
    """The least number of trials by which it can be shown that a rate is not above this: none of them an event."""
    return math.ceil(math.log((1.0 - CONFIDENCE) / 2.0) / math.log1p(-rate))


def _first(holds: Callable[[float], bool]) -> float:
    """The rate from which on a condition holds, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _at_most(events: int, trials: int, rate: float) -> float:
    """The probability of at most so many events in so many trials.

    Summed from `events` down, each term made of the one above it, until terms are past the likeliest number and too
    small to count: some times the square root of the events, and not all of them.
    """
    if rate in (0.0, 1.0):
        return float(rate == 0.0)
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(events + 1)
        - math.lgamma(trials - events + 1)
        + events * math.log(rate)
        + (trials - events) * math.log1p(-rate)
    )
    likeliest = (trials + 1) * rate
    if term < _NEVER:  # so far from what is likely that no sum could tell
        return float(events > likeliest)
    total, odds = 0.0, (1.0 - rate) / rate
    for count in range(events, -1, -1):
        total += term
        if count <= likeliest and term < _NOTHING * total:
            break
        term *= odds * count / (trials - count + 1)
    return min(total, 1.0)
