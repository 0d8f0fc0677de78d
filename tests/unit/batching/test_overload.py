"""What overload must not do: goodput holds, refusals come at once, promises are kept, and lanes still batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from forebay.batching import Policy
from forebay.batching.arrivals import Kind, on_off, poisson, text_length
from forebay.batching.costs import Linear, Noise, minilm
from forebay.batching.simulate import Outcome, Scenario, simulate_scenario

SLEEP = Linear(0.02, 0.001)
CAP = Policy(max_batch_rows=64)
CAPACITY = 64 / 0.084
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def open_loop(rate: float) -> Callable[[random.Random], Iterator[float]]:
    return lambda rng: poisson(rate, rng)


def sleep_model(load: float, noise: Noise, seconds: float = 15, hand_over_s: float = 0.001) -> Outcome:
    return simulate_scenario(
        Scenario(
            SLEEP,
            open_loop(load * CAPACITY),
            seconds=seconds,
            slo_s=0.105,
            policy=CAP,
            noise=noise,
            hand_over_s=hand_over_s,
            skip_s=1,
        )
    )


@pytest.mark.parametrize("noise", [Noise(), Noise(0.02), Noise(0.1)])
def test_goodput_at_twice_the_capacity(noise: Noise) -> None:
    best = max(sleep_model(load, noise).goodput for load in LOADS)
    twice = sleep_model(2.0, noise)
    assert twice.goodput >= 0.98 * best
    assert twice.broken <= 0.005


def test_goodput_at_five_times_the_capacity() -> None:
    assert sleep_model(5.0, Noise(0.02)).goodput >= sleep_model(2.0, Noise(0.02)).goodput


def test_stalls_do_not_make_it_collapse() -> None:
    twice = sleep_model(2.0, Noise(0.1, 0.01, 2.0))
    assert twice.goodput > 0.75 * sleep_model(2.0, Noise()).goodput
    assert twice.broken < 0.01


def two_minilm_instances(load: float, seconds: float) -> Outcome:
    scenario = Scenario(
        minilm(),
        open_loop(load * 150),
        seconds=seconds,
        slo_s=0.5,
        instances=2,
        hand_over_s=0.0005,
        lengths=text_length,
        policy=Policy(),
        noise=Noise(0.05),
        skip_s=2,
    )
    return simulate_scenario(scenario)


@pytest.mark.full
def test_mixed_lengths_on_two_instances() -> None:
    best = max(two_minilm_instances(load, 20).goodput for load in (0.75, 1.0))
    twice = two_minilm_instances(2.0, 30)
    assert twice.goodput >= 0.98 * best
    assert twice.broken <= 0.01


def test_bursts_of_ten_times_the_rate() -> None:
    scenario = Scenario(
        SLEEP, lambda rng: on_off(0.5 * CAPACITY, rng), seconds=40, slo_s=0.105, policy=CAP, noise=Noise(0.05)
    )
    outcome = simulate_scenario(scenario)
    assert outcome.broken <= 0.02
    assert outcome.good > 0.6 * outcome.sent


@pytest.mark.parametrize("think_s", [0.0, 0.001, 0.003])
def test_alternating_shapes_still_batch(think_s: float) -> None:
    """32 clients in a closed loop, half of them on each of two shapes: at least half of one shape's batches."""

    def mean_rows(*lanes: str) -> float:
        kinds = tuple(Kind(1 / len(lanes), lane=lane) for lane in lanes)
        scenario = Scenario(SLEEP, clients=32, think_s=think_s, seconds=20, kinds=kinds, policy=CAP, skip_s=2)
        return simulate_scenario(scenario).mean_batch_rows

    assert mean_rows("a", "b") >= max(4.0, 0.5 * mean_rows("a"))
