"""Pure: the highest rate that one configuration keeps up, between one that held and one that failed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from forebay.tune.contender import Contender
from forebay.tune.slo import Slo
from forebay.tune.world import Probe

STEP_UP: Final = 1.25
STEP_DOWN: Final = 1.4
NEAR: Final = 1.04
"""A climb ends where the rate that failed is so near to the one that held."""
MOST_STEPS: Final = 9
LEAST_SHARE: Final = 0.02
"""Of its ceiling: what fails at less than this keeps the SLO at no rate worth having."""
CLEAR: Final = 3.0
"""Where a usual part of a probe misses so many times what the SLO allows, the failure is certain. Any other may be a
stall of the machine."""
TRIES: Final = 3
SURE: Final = 2
"""So many certain failures end the matter: a long stall can look like one."""


def climb(contender: Contender, rate: float, holds: Callable[[Contender, float], bool]) -> None:
    """From `rate` up or down until the two are near each other; `contender.low` is 0 where nothing held."""
    for _ in range(MOST_STEPS):
        contender.note(rate, held=holds(contender, rate))
        low, high = contender.low, contender.high
        if low and high / low <= NEAR:
            return
        if low:
            rate = low * STEP_UP if math.isinf(high) else math.sqrt(low * high)
        else:
            rate = high / STEP_DOWN
            if rate < LEAST_SHARE * contender.ceiling:
                return


def keeps_up(probe: Callable[[], Probe], slo: Slo) -> bool:
    """Whether the SLO holds in one of a few probes. Disturbances make a probe worse, never better."""
    certain = 0
    for _ in range(TRIES):
        found = probe()
        if found.holds(slo):
            return True
        certain += found.usual_missed > CLEAR * (1 - slo.share)
        if certain == SURE:
            return False
    return False
