"""Whether what a model costs has changed so much since it was measured that its size should be found anew. Pure."""

from __future__ import annotations

import math
from typing import Final

from forebay.batching import LatencyModel

CHANGED: Final = math.log(1.5)
"""Costs that differ by less than this factor, either way, are the same."""
LASTING_LOOKS: Final = 6
"""A change counts when so many looks in a row have seen it."""
LEAST_BATCHES: Final = 200
"""Batches since the measurement, before anything is said."""
FIRST_PAUSE_S: Final = 600.0
LONGEST_PAUSE_S: Final = 86_400.0
"""Between two measurements of a model, twice as long each time: a machine that keeps changing is not measured forever.
"""


class Drift:
    """Compares what batches cost now with what they cost when the size was chosen."""

    def __init__(self, latency: LatencyModel, now: float, pause_s: float = FIRST_PAUSE_S) -> None:
        """`pause_s`: how long nothing is due, whatever is seen."""
        self._then = LatencyModel.from_json(latency.to_json(), latency.max_rows)
        self._from = now + pause_s
        self._looks = 0

    def look(self, latency: LatencyModel, now: float) -> bool:
        """Whether a new measurement is due. Call it at even intervals."""
        change, batches = latency.change_since(self._then)
        seen = batches >= LEAST_BATCHES and abs(change) >= CHANGED
        self._looks = self._looks + 1 if seen else 0
        return self._looks >= LASTING_LOOKS and now >= self._from
