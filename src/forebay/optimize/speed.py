"""Speed against the original, in rounds that take turns. Pure but for the two callables that run batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import numpy as np

from forebay.optimize.report import BatchSpeed, Speed

SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes that are timed: those that the server forms."""
LARGE = (64, 128, 256)
"""Timed besides where a batch of them is done in the time of a round: of quick models the server makes such, too."""
SLOWED_BY_NEW = 2.0
"""A model that takes so many times longer for new rows remembers those that it has seen."""
SLOWER_BY = 4.0
"""So many rounds' worth of time may a candidate take in a round: what is slower is out anyway."""
PAIRS = 8
"""Batches that tell so."""

T = TypeVar("T")
Run = Callable[[Sequence[Sequence[int]]], list[float]]
"""Runs batches of sample indices and says how many seconds each took."""


def plan(lengths: Sequence[int], sizes: Sequence[int]) -> dict[int, list[list[int]]]:
    """Batches by size, the shortest samples first; those of a batch are of like length, as the server's batcher picks
    them. A size covers all samples but the last few that do not fill a batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return {
        size: [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        for size in sizes
        if size <= len(order)
    }


def measure(
    original: Run, candidate: Run, batches: Mapping[int, Sequence[Sequence[int]]], rounds: int, round_s: float
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Rows a second by size, one number a round, for both. They run the same batches one after the other, and who goes
    first changes. About `round_s` seconds of the original go to each size and round, or fewer where the candidate would
    take more than a few times as long.
    """
    chosen = {size: _affordable(original, these, round_s) for size, these in batches.items()}
    for size, these in chosen.items():
        slow = max(candidate(spread(these, 3))[1:], default=0.0)  # the first one warms it up
        most = max(3, round(SLOWER_BY * round_s / max(slow, 1e-9)))
        chosen[size] = spread(these, min(most, len(these)))
    taken: tuple[dict[int, list[float]], dict[int, list[float]]] = ({}, {})
    for number in range(rounds):
        for size, these in chosen.items():
            for who in (0, 1) if number % 2 == 0 else (1, 0):
                seconds = sum((original, candidate)[who](these))
                taken[who].setdefault(size, []).append(size * len(these) / max(seconds, 1e-9))
    return taken


def alone(original: Run, batches: Mapping[int, Sequence[Sequence[int]]], round_s: float) -> dict[int, list[float]]:
    """The original by itself: rows a second by size, one round."""
    rates: dict[int, list[float]] = {}
    for size, these in batches.items():
        chosen = _affordable(original, these, round_s)
        rates[size] = [size * len(chosen) / max(sum(original(chosen)), 1e-9)]
    return rates


def sizes_for(sizes: Sequence[int], row_s: float, round_s: float) -> tuple[int, ...]:
    """`sizes`, and of the large ones those that a model does in `round_s` which takes `row_s` for one row."""
    return (*sizes, *(size for size in LARGE if size > max(sizes) >= SIZES[-1] and size * row_s <= round_s))


def slowed_by_new(original: Run, candidate: Run, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """So many times longer does the candidate take for a batch that it has not seen than for one that it has, of the
    same shape; in units of what that is for the original, at the same time.
    """
    ratios = []
    for seen, new in pairs:
        # Once before: libraries prepare themselves for a shape.
        _, known, unknown = candidate([seen, seen, new])
        _, known_original, unknown_original = original([seen, seen, new])
        ratios.append(unknown / max(known, 1e-9) / (max(unknown_original, 1e-9) / max(known_original, 1e-9)))
    return float(median(ratios))


def _affordable(original: Run, batches: Sequence[Sequence[int]], round_s: float) -> list[Sequence[int]]:
    """As many batches as take the original about `round_s`, of all lengths alike; running some warms it up. Where one
    takes that long, it is one, and no more are run to find that out: a caller waits for a measurement as a whole.
    """
    one = spread(batches, 1)
    if min(sum(original(one)), sum(original(one))) >= round_s:
        return one
    some = spread(batches, 3)
    original(some)
    each = max(sum(original(some)) / len(some), 1e-6)
    return spread(batches, max(1, round(round_s / each)))


def spread(batches: Sequence[T], count: int) -> list[T]:
    """So many batches at even distances, all of them in turns where they are fewer: sizes are comparable only where
    each sees short and long samples alike.
    """
    if count >= len(batches):
        return [batches[index % len(batches)] for index in range(count)]
    return [batches[int((place + 0.5) * len(batches) / count)] for place in range(count)]


def summarise(original: Mapping[int, list[float]], candidate: Mapping[int, list[float]], slo_ms: float | None) -> Speed:
    """Medians over rounds. A size counts for the speed-up where its batch is done within the SLO, for each by itself;
    where no size is, `rows_per_s` and `speedup` are 0.

    The candidate's rate is taken as the original's times the median ratio of rounds: both then had the same machine.
    """
    batches: list[BatchSpeed] = []
    best, base = 0.0, 0.0
    for size, rates in candidate.items():
        ratio = median(np.divide(rates, original[size]).tolist())
        rate = ratio * median(original[size])
        batches.append(BatchSpeed(rows=size, batch_ms=size / rate * 1e3, rows_per_s=rate, ratio=ratio))
        if slo_ms is None or size / rate * 1e3 <= slo_ms:
            best = max(best, rate)
        if slo_ms is None or size / median(original[size]) * 1e3 <= slo_ms:
            base = max(base, median(original[size]))
    # An original that misses the SLO everywhere is beaten by whoever meets it; its best rate stands for it.
    base = base or max(median(rates) for rates in original.values())
    return Speed(batches=batches, rows_per_s=best, speedup=best / base)
