"""Two models on two cores under a virtual clock: what fairness is worth."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from forebay.batching.costs import Linear, Noise
from forebay.batching.policy import Policy
from forebay.batching.simulate import Arrivals
from forebay.batching.simulate_shared import SharedSimulation, Tenant, TenantOutcome

SECONDS = 20.0


def poisson(rate: float) -> Arrivals:
    def instants(rng: random.Random) -> Iterator[float]:
        at = 0.0
        while True:
            at += rng.expovariate(rate)
            yield at

    return instants


LONG = Tenant(
    Linear(0.04, 0.001), poisson(3 * 2 * 16 / 0.056), slo_s=0.5, policy=Policy(max_batch_rows=16), noise=Noise(0.05)
)
"""Batches of 56 ms, asked for three times what two cores can do."""
SINGLY = Tenant(Linear(0.012), poisson(3 * 2 / 0.012), slo_s=0.5, policy=Policy(batching=False), noise=Noise(0.3))
"""12 ms each, one at a time, three times too many."""
LIGHT = Tenant(Linear(0.01), poisson(0.35 * 1 / 0.01), policy=Policy(batching=False), noise=Noise(0.3))
"""35 % of its half of the machine."""
QUICK = Tenant(Linear(0.0002, 0.0001), poisson(1000))
HEAVY = {"long": LONG, "singly": SINGLY}


def outcomes(*tenants: Tenant, fair: bool = True) -> list[TenantOutcome]:
    return SharedSimulation(tenants, seconds=SECONDS, fair=fair).run()


@pytest.mark.parametrize("heavy", ["long", pytest.param("singly", marks=pytest.mark.full)])
@pytest.mark.parametrize("light", [LIGHT, pytest.param(QUICK, marks=pytest.mark.full)], ids=["light", "quick"])
def test_an_overloaded_model_costs_the_other_nothing(heavy: str, light: Tenant) -> None:
    alone = outcomes(light)[0].quantile_s(0.99)
    fair, unfair = (outcomes(light, HEAVY[heavy], fair=fair)[0].quantile_s(0.99) for fair in (True, False))
    assert fair < 1.1 * alone
    assert unfair > 1.5 * alone, "the scenario does not need fairness"


@pytest.mark.parametrize("heavy", HEAVY)
def test_the_overloaded_model_gets_all_that_is_left_and_keeps_its_promises(heavy: str) -> None:
    (alone,) = outcomes(HEAVY[heavy])
    light, beside = outcomes(LIGHT, HEAVY[heavy])
    left = 1 - light.core_s / alone.core_s
    assert beside.good > 0.97 * left * alone.good
    assert beside.late + beside.expired < 0.05 * (beside.sent - beside.refused)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_both_overloaded_share_by_weight(weight: float) -> None:
    first, second = outcomes(replace(LONG, weight=weight), SINGLY)
    total_s = first.core_s + second.core_s
    assert total_s > 1.98 * SECONDS, "cores were left idle"
    assert first.core_s / total_s == pytest.approx(weight / (weight + 1), abs=0.02)
    for outcome in (first, second):
        assert outcome.late + outcome.expired < 0.15 * (outcome.sent - outcome.refused)


def test_every_request_is_accounted_for() -> None:
    for outcome in outcomes(LIGHT, LONG):
        assert outcome.sent == outcome.good + outcome.late + outcome.refused + outcome.expired
