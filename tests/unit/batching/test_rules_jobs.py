"""The rules for jobs, each with a scenario in which taking it out loses. Requests come first, jobs take the rest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from forebay.batching import Batcher, Policy, background
from forebay.batching.arrivals import poisson
from forebay.batching.costs import Linear
from forebay.batching.simulate import MakeBatcher, Outcome, Scenario, SimItem, simulate_scenario

SLEEP = Linear(0.02, 0.001)
CAP = Policy(max_batch_rows=64)
CAPACITY = 64 / 0.084
B = Batcher[SimItem]


def open_loop(rate: float) -> Callable[[random.Random], Iterator[float]]:
    return lambda rng: poisson(rate, rng)


def both(scenario: Scenario, without: MakeBatcher) -> tuple[Outcome, Outcome]:
    return simulate_scenario(scenario), simulate_scenario(scenario, without)


WITH_JOBS = Scenario(SLEEP, open_loop(40), seconds=30, policy=CAP, hand_over_s=0.0003, jobs=500)
"""Requests now and then, and more jobs than can be done."""


class JobsAsRequests(B):
    def offer_background(self, item: SimItem, now: float) -> None:
        self._enqueue(self._lane_of(item), item, now + 1.0)


def test_jobs_go_behind_all_requests() -> None:
    ours, without = both(WITH_JOBS, JobsAsRequests)
    assert without.quantile_s(0.99) > 1.5 * ours.quantile_s(0.99)


def test_batches_of_jobs_are_short_while_requests_come(monkeypatch: pytest.MonkeyPatch) -> None:
    none = simulate_scenario(replace(WITH_JOBS, jobs=0))
    ours = simulate_scenario(WITH_JOBS)
    monkeypatch.setattr(background, "STRETCH", 100.0)
    without = simulate_scenario(WITH_JOBS)
    assert ours.quantile_s(0.99) < 1.2 * none.quantile_s(0.99)
    assert without.quantile_s(0.99) > 1.2 * ours.quantile_s(0.99)


def test_but_not_shorter_than_a_little_more_than_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = simulate_scenario(WITH_JOBS)
    monkeypatch.setattr(background, "STRETCH", 1.0)
    without = simulate_scenario(WITH_JOBS)
    assert ours.jobs > 3 * without.jobs


def test_nor_shorter_than_the_hand_over_makes_worth_while(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = replace(WITH_JOBS, cost=Linear(0.00006, 0.000002), arrivals=open_loop(2000), seconds=3)
    none = simulate_scenario(replace(scenario, jobs=0))
    ours = simulate_scenario(scenario)
    monkeypatch.setattr(background, "SHORT", 0.0)
    without = simulate_scenario(scenario)
    assert ours.quantile_s(0.99) < 1.2 * none.quantile_s(0.99)
    assert ours.jobs > 2 * without.jobs


def test_and_long_while_none_come(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = replace(WITH_JOBS, arrivals=open_loop(0.05), seconds=60)
    ours = simulate_scenario(quiet)
    monkeypatch.setattr(background, "LATELY_S", float("inf"))
    without = simulate_scenario(quiet)
    assert ours.jobs > 1.3 * without.jobs


class KeepsNoneFree(B):
    def _form_background(self, now: float) -> Any:
        slots = self.pool.slots
        self.pool.slots = dict(itertools.islice(slots.items(), 1))
        try:
            return super()._form_background(now)
        finally:
            self.pool.slots = slots


def test_one_instance_is_kept_free_for_requests() -> None:
    ours, without = both(replace(WITH_JOBS, arrivals=open_loop(10), instances=2), KeepsNoneFree)
    assert without.mean_s > 1.1 * ours.mean_s


def test_jobs_do_not_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = replace(WITH_JOBS, arrivals=open_loop(0.98 * CAPACITY), skip_s=2)
    none = simulate_scenario(replace(busy, jobs=0))
    ours = simulate_scenario(busy)
    monkeypatch.setattr(background, "LONGEST_WAIT_S", float("inf"))
    without = simulate_scenario(busy)
    assert ours.jobs > 2 * without.jobs
    assert ours.quantile_s(0.99) < 1.2 * none.quantile_s(0.99)
