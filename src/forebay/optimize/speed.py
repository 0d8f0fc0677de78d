"""Speed against the original, in rounds that take turns. Pure but for the two callables that run batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from forebay.optimize.report import BatchSpeed, Speed

SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes that are timed: those that the server forms."""

Run = Callable[[Sequence[Sequence[int]]], list[float]]
"""Runs batches of sample indices and says how many seconds each took."""


def plan(lengths: Sequence[int], sizes: Sequence[int], seed: int) -> dict[int, list[list[int]]]:
    """Batches by size; every size covers all samples. Those of a batch are of like length, as the server's batcher
    picks them, and batches come in random order.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    random = np.random.default_rng(seed)
    batches: dict[int, list[list[int]]] = {}
    for size in sizes:
        if size <= len(order):
            cut = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
            batches[size] = [cut[index] for index in random.permutation(len(cut)).tolist()]
    return batches


def measure(
    original: Run, candidate: Run, batches: Mapping[int, Sequence[Sequence[int]]], rounds: int, round_s: float
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Rows a second by size, one number a round, for both. They run the same batches one after the other, and who goes
    first changes. About `round_s` seconds of the original go to each size and round.
    """
    chosen = {size: _affordable(original, these, round_s) for size, these in batches.items()}
    for these in chosen.values():
        candidate(these[:2])  # warms it up
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


def _affordable(original: Run, batches: Sequence[Sequence[int]], round_s: float) -> list[Sequence[int]]:
    """As many batches as take the original about `round_s`; running them warms it up."""
    first = list(batches[:2])
    original(first)
    each = max(sum(original(first)) / len(first), 1e-6)
    count = max(1, round(round_s / each))
    return [batches[index % len(batches)] for index in range(count)]


def summarise(original: Mapping[int, list[float]], candidate: Mapping[int, list[float]], slo_ms: float | None) -> Speed:
    """Medians over rounds. A size counts for the speed-up where its batch is done within the SLO, for each by itself;
    where no size is, `rows_per_s` and `speedup` are 0.
    """
    batches: list[BatchSpeed] = []
    best, base = 0.0, 0.0
    for size, rates in candidate.items():
        rate, ratio = median(rates), median(np.divide(rates, original[size]).tolist())
        batches.append(BatchSpeed(rows=size, batch_ms=size / rate * 1e3, rows_per_s=rate, ratio=ratio))
        if slo_ms is None or size / rate * 1e3 <= slo_ms:
            best = max(best, rate)
        if slo_ms is None or size / median(original[size]) * 1e3 <= slo_ms:
            base = max(base, median(original[size]))
    # An original that misses the SLO everywhere is beaten by whoever meets it; its best rate stands for it.
    base = base or max(median(rates) for rates in original.values())
    return Speed(batches=batches, rows_per_s=best, speedup=best / base)
