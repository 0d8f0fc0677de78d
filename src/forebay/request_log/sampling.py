"""Which requests are written: each with the same chance, decided by a count and not by a throw of the dice for each.

How many are passed over until the next one follows the geometric distribution, so that a period in the traffic is no
period in the log. Pure, apart from the dice.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

MOST_SKIPPED: Final = 1 << 62


class Skips:
    """How many requests to pass over, again and again, for a share of them above 0."""

    def __init__(self, share: float, seed: int | None = None) -> None:
        self._random = Random(seed).random
        self._scale = 0.0 if share >= 1.0 else math.log1p(-share)

    def next(self) -> int:
        """Before the next one that is written."""
        if not self._scale:
            return 0
        return int(min(math.log1p(-self._random()) / self._scale, MOST_SKIPPED))
