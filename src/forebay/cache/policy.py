"""How long an answer is served. Pure, apart from the dice.

Times to live are spread a little, so that what was kept within one second does not end within one. Before its end an
answer is computed anew early, the earlier the longer that takes (XFetch, Vattani et al. 2015): each process draws once
for the answers of a batch when that is, so that not all that hold one begin at the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Final, NamedTuple

from forebay.core.caching import CacheRules

JITTER: Final = 0.1
"""An answer lives up to this share shorter than its time to live."""
EAGERNESS: Final = 1.0
"""XFetch's beta: above 1 it is computed anew earlier."""
THROWS: Final = 1009
MOST_INPUT_BYTES: Final = 8 << 20
"""Inputs of more bytes are not looked up: to digest them would hold up all others."""


class Throw(NamedTuple):
    """Of the dice, for one entry. `jitter`: the share of its time to live that it has; `early`: for XFetch, from the
    exponential distribution of mean 1."""

    jitter: float
    early: float


def throws(seed: int | None = None) -> Iterator[Throw]:
    """Without end; they begin again after many, since a throw costs more than all else that is done for an entry."""
    generator = Random(seed)
    return cycle([Throw(1.0 - JITTER * generator.random(), generator.expovariate(1.0)) for _ in range(THROWS)])


def times(rules: CacheRules, now: float, fresh_s: float, cost_s: float, early: float) -> tuple[float, float]:
    """When an answer is to be computed anew, and when it is not served any more. `fresh_s`: how long it is fresh from
    now; `cost_s`: what computing it anew takes; `early`: that of its throw."""
    early_s = cost_s * EAGERNESS * early
    half_s = fresh_s / 2.0
    # Not in the first half of its life, however long it took to compute.
    return now + fresh_s - (early_s if early_s < half_s else half_s), now + fresh_s + rules.stale_s
