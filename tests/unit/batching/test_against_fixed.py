"""Goodput in every cell of loads, costs and deadlines against the best fixed size and delay of that very cell."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from forebay.batching import Batcher, Policy
from forebay.batching.arrivals import on_off, poisson, text_length
from forebay.batching.costs import Cost, Linear, best_rate, minilm
from forebay.batching.reference import FixedSize
from forebay.batching.simulate import Lengths, MakeBatcher, Scenario, simulate_scenario

COSTS: dict[str, tuple[Cost, Lengths | None]] = {
    "flat": (Linear(0.02), None),
    "linear": (Linear(0.02, 0.001), None),
    "minilm": (minilm(), text_length),
}
SIZES_AND_DELAYS_MS = [(1, 0), (8, 0), (8, 20), (16, 5), (32, 0), (32, 20), (64, 0), (64, 5), (64, 20)]
FULL = pytest.mark.full
ALL_SIZES_AND_DELAYS_MS = [
    (size, delay)
    for size in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
    for delay in (0, 1, 2, 5, 10, 20, 50)
    if size > 1 or not delay
]


def cell(cost_name: str, slo_factor: float, arrivals: str, requests: int) -> Scenario:
    """`arrivals`: p (Poisson) or b (bursts) with the load, or c with the number of clients in a closed loop."""
    cost, lengths = COSTS[cost_name]
    rng = random.Random(5)
    sample = [lengths(rng) for _ in range(2000)] if lengths else [0]
    capacity = best_rate(cost, sample, 64)
    alone_s = sum(cost.seconds(1, length) for length in sample) / len(sample)
    scenario = Scenario(cost, slo_s=slo_factor * alone_s, lengths=lengths, policy=Policy(max_batch_rows=64))
    kind, amount = arrivals[0], float(arrivals[1:])
    if kind == "c":
        seconds = requests / capacity
        return replace(scenario, clients=int(amount), seconds=seconds, skip_s=0.1 * seconds)
    rate = amount * capacity
    seconds = requests / rate
    make = poisson if kind == "p" else on_off
    return replace(scenario, arrivals=lambda rng: make(rate, rng), seconds=seconds, skip_s=0.1 * seconds)


def goodput_ratio(scenario: Scenario, references: list[tuple[int, int]], seeds: Sequence[int] = (1,)) -> float:
    """Ours over that of the best reference, over all seeds together: one run of mixed lengths is 2 % of chance."""

    def good(policy: Policy, make: MakeBatcher) -> int:
        return sum(simulate_scenario(replace(scenario, policy=policy, seed=seed), make).good for seed in seeds)

    best = max(
        good(Policy(max_batch_rows=size, max_queue_delay_s=delay_ms / 1e3), FixedSize) for size, delay_ms in references
    )
    return good(scenario.policy, Batcher) / best


@pytest.mark.parametrize("slo_factor", [3, pytest.param(10, marks=FULL)])
@pytest.mark.parametrize("arrivals", ["p0.6", "p1.0", "p2.0", "b0.7", "c8", "c64"])
@pytest.mark.parametrize("cost", ["flat", "linear"])
def test_fixed_shapes(cost: str, arrivals: str, slo_factor: float) -> None:
    assert goodput_ratio(cell(cost, slo_factor, arrivals, 6000), SIZES_AND_DELAYS_MS) >= 0.98


@FULL
@pytest.mark.parametrize("slo_factor", [3, 10])
@pytest.mark.parametrize("arrivals", ["p1.0", "p2.0", "b0.7", "c8"])
def test_mixed_lengths(arrivals: str, slo_factor: float) -> None:
    assert goodput_ratio(cell("minilm", slo_factor, arrivals, 3000), SIZES_AND_DELAYS_MS, seeds=(1, 2, 3)) >= 0.98


def test_bursts_gain() -> None:
    """Where the load varies, no fixed size suits all of it."""
    assert goodput_ratio(cell("linear", 3, "b0.7", 10_000), SIZES_AND_DELAYS_MS) > 1.02


@pytest.mark.full
@pytest.mark.parametrize("slo_factor", [3, 10])
@pytest.mark.parametrize(
    "arrivals", ["p0.3", "p0.6", "p0.8", "p1.0", "p1.3", "p1.6", "p2.0", "b0.7", "b1.2", "c8", "c64"]
)
@pytest.mark.parametrize("cost", ["flat", "linear", "minilm"])
def test_every_cell(cost: str, arrivals: str, slo_factor: float) -> None:
    requests, seeds = (4000, (1, 2, 3)) if cost == "minilm" else (20_000, (1,))
    assert goodput_ratio(cell(cost, slo_factor, arrivals, requests), ALL_SIZES_AND_DELAYS_MS, seeds) >= 0.98
