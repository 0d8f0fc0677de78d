"""Arrivals for the simulator: open loops as iterators of instants, and what each request is like."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    """Instants of a Poisson process with `rate` requests a second."""
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now


def on_off(
    rate: float, rng: random.Random, *, ratio: float = 10.0, on_s: float = 0.5, off_s: float = 1.5
) -> Iterator[float]:
    """Bursts: spells of exponential length, in which the rate is high or `ratio` times lower. The mean is `rate`."""
    low = rate * (on_s + off_s) / (ratio * on_s + off_s)
    now, burst = 0.0, False
    while True:
        burst = not burst
        end = now + rng.expovariate(1 / (on_s if burst else off_s))
        current = low * ratio if burst else low
        while True:
            step = rng.expovariate(current)
            if now + step > end:
                now = end
                break
            now += step
            yield now


def trace(path: Path) -> Iterator[float]:
    """Instants from a file: one number of seconds a line, in order. Raises ValueError with the line that is not."""
    last = 0.0
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            now = float(line)
        except ValueError:
            raise ValueError(f"{path}:{number}: {line.strip()!r} is not a number of seconds") from None
        if not (math.isfinite(now) and now >= last):
            raise ValueError(f"{path}:{number}: {now} comes before {last}")
        last = now
        yield now


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, drawn with probability proportional to `share`."""

    share: float = 1.0
    rows: int = 1
    pieces: int = 1
    """Items of `rows` rows that a request comes as: more than one where it was split. Each counts as sent."""
    slo_s: float | None = None
    """None: the scenario's."""
    priority: int = 0
    lane: str = ""


TEXT_LENGTHS: Final = "text"


def text_length(rng: random.Random) -> int:
    """Tokens of a text of 5 to 200 words, lognormal around 40 words."""
    while True:
        words = rng.lognormvariate(math.log(40), 0.8)
        if 5 <= words <= 200:
            return int(words * 1.3) + 2
