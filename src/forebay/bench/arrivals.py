"""When requests are sent in an open loop: instants in seconds from the start, fixed before the run."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Instants = npt.NDArray[np.float64]
Process = Literal["poisson", "onoff"]

BURST_RATIO = 10.0
"""In on-off arrivals, the rate while on is this many times the rate while off."""


def poisson(rate: float, seconds: float, seed: int = 0) -> Instants:
    """Instants of a Poisson process of `rate` arrivals a second over `seconds`, ascending."""
    _check(rate, seconds)
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    # Six standard deviations more than the mean: enough to reach the end in all but one of a billion draws.
    gaps = generator.exponential(1.0 / rate, size=int(expected + 6 * expected**0.5 + 16))
    instants = np.cumsum(gaps)
    return instants[instants < seconds]


def onoff(rate: float, seconds: float, seed: int = 0, *, period_s: float = 1.0, on_share: float = 0.5) -> Instants:
    """Instants of a two-state process: bursts at ten times the rate between them, `rate` a second on average.

    Each period of `period_s` seconds starts with the burst, which lasts `on_share` of it. Inside either state arrivals
    are Poisson. With the defaults the rate while on is 1.82 times the mean, while off 0.18 times.
    """
    _check(rate, seconds)
    if not 0 < on_share < 1:
        raise ValueError(f"on_share is {on_share}; it must lie between 0 and 1")
    off_rate = rate / (on_share * BURST_RATIO + 1 - on_share)
    on_rate = BURST_RATIO * off_rate
    on_s, off_s = period_s * on_share, period_s * (1 - on_share)
    # A Poisson process of rate 1 on the axis of expected arrivals, mapped back to time, has the wanted rate everywhere.
    per_period = on_rate * on_s + off_rate * off_s
    marks = poisson(1.0, per_period * (seconds / period_s), seed)
    whole, rest = np.divmod(marks, per_period)
    burst = on_rate * on_s
    inside = np.where(rest < burst, rest / on_rate, on_s + (rest - burst) / off_rate)
    instants = whole * period_s + inside
    return instants[instants < seconds]


def arrivals(process: Process, rate: float, seconds: float, seed: int = 0) -> Instants:
    """Instants of the process of that name."""
    return poisson(rate, seconds, seed) if process == "poisson" else onoff(rate, seconds, seed)


def _check(rate: float, seconds: float) -> None:
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"rate {rate} a second over {seconds} s: both must be above 0")
