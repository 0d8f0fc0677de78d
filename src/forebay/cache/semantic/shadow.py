"""Shadow mode: some hits also run the model, and what comes out is compared with what was served.

So it is known, on the traffic itself, how often a hit is wrong; above a limit hits of that way are no longer served.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, get_args

import numpy as np

from forebay.cache.semantic.index import Way
from forebay.core.binomial import lower_bound
from forebay.core.request import Outputs
from forebay.core.tensors import Array
from forebay.telemetry.semantic_metrics import SemanticReading, WayReading

log = logging.getLogger("forebay.cache")

_WINDOW_HITS: Final = 1000
_NAMES: Final[Mapping[Way, str]] = {"normalised": "the same words", "semantic": "near texts"}


class _Watched:
    """What is known of the hits of one way."""

    def __init__(self) -> None:
        self.wrong: deque[bool] = deque(maxlen=_WINDOW_HITS)
        self.compared = 0
        self.false_hits = 0
        self.failed = ""

    @property
    def rate(self) -> float | None:
        return sum(self.wrong) / len(self.wrong) if self.wrong else None


class Shadow:
    """One for each model. `turn_off` is called once for each way, when the limit is passed.

    The ways are counted apart: a model that tells capital letters apart makes hits by the same words wrong and leaves
    the others as they are, and one way's right hits must not hide the other's wrong ones.
    The limit is passed when the rate is above it over at least `least_hits` compared hits, or earlier where even the
    lower end of its 95 % interval is. Only the last 1,000 compared hits count, so that a change shows.
    """

    def __init__(
        self,
        turn_off: Callable[[Way], None],
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
        self._watched: dict[Way, _Watched] = {way: _Watched() for way in get_args(Way)}

    def wants(self, way: Way) -> bool:
        """Whether this hit is one to compare. Its caller is answered from the cache all the same."""
        return not self._watched[way].failed and self._draw() < self._sample_rate

    def record(self, way: Way, same: bool) -> None:
        """What a comparison said. Runs of the model that failed are not recorded: they say nothing of the hit."""
        watched = self._watched[way]
        watched.compared += 1
        watched.false_hits += not same
        watched.wrong.append(not same)
        wrong, hits = sum(watched.wrong), len(watched.wrong)
        above = wrong > self._limit * hits
        certain = above and lower_bound(wrong, hits) > self._limit
        if not watched.failed and (certain or (above and hits >= self._least_hits)):
            watched.failed = f"{wrong} of the last {hits} compared hits were wrong, more than {self._limit:.3g}"
            log.error("the semantic cache is off for %s: %s", _NAMES[way], watched.failed)
            self._turn_off(way)

    @property
    def compared(self) -> int:
        """Hits of both ways that were compared since the start."""
        return sum(watched.compared for watched in self._watched.values())

    @property
    def false_hits(self) -> int:
        """Those of them that were wrong."""
        return sum(watched.false_hits for watched in self._watched.values())

    def tripped(self, way: Way) -> bool:
        """Whether its hits were wrong too often."""
        return bool(self._watched[way].failed)

    def told(self, on: str) -> str:
        """What stands of the semantic cache now. `on`: what is told while nothing is wrong with it."""
        near, words = (self._watched[way].failed for way in ("semantic", "normalised"))
        if near and words:
            return f"off: near texts: {near}; the same words: {words}"
        if near:
            return f"off for near texts: {near}; on for the same words, of texts that were kept before"
        return f"{on}; off for the same words: {words}" if words else on

    def readings(self) -> Mapping[str, WayReading]:
        """What is known of each way, for metrics."""
        return {
            way: WayReading(watched.compared, watched.false_hits, watched.rate, bool(watched.failed))
            for way, watched in self._watched.items()
        }


def reading(lookups: Mapping[str, int], shadow: Shadow) -> SemanticReading:
    """What a model's metrics tell: `lookups` are the counts of its tier."""
    return SemanticReading(lookups, shadow.readings())


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
