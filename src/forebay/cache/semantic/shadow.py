"""Shadow mode: some hits also run the model, and what comes out is compared with what was served.

So it is known, on the traffic itself, how often a hit is wrong; above a limit the tier turns itself off.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from forebay.cache.semantic.calibrate import lower_bound
from forebay.core.request import Outputs
from forebay.core.tensors import Array
from forebay.telemetry.semantic_metrics import SemanticReading

log = logging.getLogger("forebay.cache")

_WINDOW_HITS: Final = 1000


class Shadow:
    """One for each model. `turn_off` is called once, when the limit is passed.

    The limit is passed when the rate is above it over at least `least_hits` compared hits, or earlier where even the
    lower end of its 95 % interval is. Only the last 1,000 compared hits count, so that a change shows.
    """

    def __init__(
        self,
        turn_off: Callable[[], None],
        *,
        sample_rate: float,
        max_false_hit_rate: float,
        least_hits: int = 100,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._turn_off = turn_off
        self._sample_rate = sample_rate
        self._limit = max_false_hit_rate
        self._least_hits = least_hits
        self._draw = draw
        self._wrong: deque[bool] = deque(maxlen=_WINDOW_HITS)
        self.compared = 0
        self.false_hits = 0
        """Since the start, as `compared`."""
        self.tripped = False

    def wants(self) -> bool:
        """Whether this hit is one to compare. Its caller is answered from the cache all the same."""
        return not self.tripped and self._draw() < self._sample_rate

    def record(self, same: bool) -> None:
        """What a comparison said. Runs of the model that failed are not recorded: they say nothing of the hit."""
        self.compared += 1
        self.false_hits += not same
        self._wrong.append(not same)
        wrong, hits = sum(self._wrong), len(self._wrong)
        certain = lower_bound(wrong, hits) > self._limit
        if not self.tripped and (certain or (hits >= self._least_hits and wrong / hits > self._limit)):
            self.tripped = True
            log.error(
                "the semantic cache is off: %d of the last %d compared hits were wrong, more than %.3g",
                wrong, hits, self._limit,
            )  # fmt: skip
            self._turn_off()

    @property
    def false_hit_rate(self) -> float | None:
        """Estimated share of hits that are wrong, over the last 1,000 compared; None: none was compared yet."""
        return sum(self._wrong) / len(self._wrong) if self._wrong else None

    def reset(self) -> None:
        """Begin anew: the operator has turned the tier on again."""
        self._wrong.clear()
        self.tripped = False


def reading(lookups: Mapping[str, int], shadow: Shadow) -> SemanticReading:
    """What a model's metrics tell: `lookups` are the counts of its tier."""
    return SemanticReading(lookups, shadow.compared, shadow.false_hits, shadow.false_hit_rate, shadow.tripped)


def same_outputs(served: Outputs, fresh: Outputs) -> bool:
    """Whether two answers are the same: equal text and integers, numbers up to rounding.

    The strictest judge: a language model that words its answer otherwise needs another one.
    """
    return list(served.names) == list(fresh.names) and all(
        _same(one, other) for one, other in zip(served.arrays, fresh.arrays, strict=True)
    )


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True))
    return bool(np.array_equal(one, other))
