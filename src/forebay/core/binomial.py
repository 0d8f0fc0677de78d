"""What a rate may be of which some trials were seen: Clopper and Pearson's interval, exact for any number of trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

CONFIDENCE: Final = 0.95
_HALVINGS: Final = 60


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
