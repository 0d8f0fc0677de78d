"""Pure: how batch caps compare under an SLO, by the batcher's own simulation with costs that were measured."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Final

from forebay.batching import LatencyModel, Policy
from forebay.batching.simulate import FOREVER, Arrivals, Lengths, Scenario, simulate_scenario
from forebay.tune.slo import Slo

REQUESTS: Final = 2000
"""Simulated at each rate."""
STEPS: Final = 7
"""Halvings of the span of rates: the last one is 1/128 of it."""
NOT_SO_LATE_S: Final = 30.0


class _Learned:
    """What the latency model expects, as a cost."""

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency

    def seconds(self, rows: int, length: int) -> float:
        """See `forebay.batching.costs.Cost`."""
        return self._latency.predict(rows, length)


def predicted_rate(
    latency: LatencyModel, policy: Policy, instances: int, slo: Slo, lengths: Sequence[int], *, with_deadline: bool
) -> float:
    """The highest Poisson rate, requests a second of one row, at which the SLO holds in the simulator; 0: none does.

    lengths: of requests that are sent; (0,) where the model has no variable length. with_deadline: whether requests
    carry the SLO's bound as their timeout.
    """
    longest = max(lengths)
    cost = _Learned(latency)
    mean = round(sum(lengths) / len(lengths))
    most = max(rows / cost.seconds(rows, mean) for rows in range(1, policy.max_batch_rows + 1))
    low, high = 0.0, 1.2 * instances * most
    draw: Lengths | None = (lambda rng: rng.choice(lengths)) if longest else None
    for _ in range(STEPS):
        rate = (low + high) / 2
        scenario = Scenario(
            cost=cost,
            arrivals=_poisson(rate),
            seconds=REQUESTS / rate,
            slo_s=slo.bound_s if with_deadline else NOT_SO_LATE_S,
            instances=instances,
            lengths=draw,
            policy=policy,
        )
        outcome = simulate_scenario(scenario)
        in_time = sum(1 for seconds in outcome.latencies if seconds <= slo.bound_s + 1e-9)
        if slo.holds(outcome.sent, in_time, outcome.refused):
            low = rate
        else:
            high = rate
    return low


def _poisson(rate: float) -> Arrivals:
    def instants(rng: random.Random) -> Iterator[float]:
        now = 0.0
        while math.isfinite(now) and now < FOREVER:
            now += rng.expovariate(rate)
            yield now

    return instants
