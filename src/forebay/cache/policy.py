"""How long an answer is served. Pure, apart from the dice.

Times to live are spread a little, so that what was kept together does not end together. Before its end an answer is
computed anew early, the earlier the longer that takes (XFetch, Vattani et al. 2015): each process draws once for each
entry when that is, so that not all that hold it begin at the same moment.
"""

from __future__ import annotations

import math
from typing import Final

from forebay.cache.entry import Entry
from forebay.core.caching import CacheRules

JITTER: Final = 0.1
"""An answer lives up to this share shorter than its time to live."""
EAGERNESS: Final = 1.0
"""XFetch's beta: above 1 it is computed anew earlier."""
MOST_INPUT_BYTES: Final = 8 << 20
"""Inputs of more bytes are not looked up: to digest them would hold up all others."""


def lifetime_s(rules: CacheRules, dice: float) -> float:
    """How long an answer is fresh. `dice`: from 0 to 1."""
    return rules.ttl_s * (1.0 - JITTER * dice)


def set_times(entry: Entry, rules: CacheRules, now: float, fresh_s: float, cost_s: float, dice: float) -> None:
    """Fill in an entry's times. `fresh_s`: how long it is fresh from now; `cost_s`: what computing it anew takes;
    `dice`: from 0 to 1."""
    entry.fresh_until = now + fresh_s
    entry.stale_until = entry.fresh_until + rules.stale_s
    early_s = cost_s * EAGERNESS * -math.log(1.0 - dice * (1.0 - 1e-12))
    # Not in the first half of its life, however long it took to compute.
    entry.refresh_at = entry.fresh_until - min(early_s, fresh_s / 2.0)
