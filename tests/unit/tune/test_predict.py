"""What the simulator foretells of caps: those that matter are told from those that do not."""

from __future__ import annotations

import pytest

from forebay.batching import LatencyModel, Policy
from forebay.tune.predict import predicted_rate
from forebay.tune.slo import Slo


def learned(fixed_s: float, per_row_s: float) -> LatencyModel:
    latency = LatencyModel(64)
    for rows in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(4):
            latency.observe(rows, 0, fixed_s + rows * per_row_s)
    return latency


def rate(latency: LatencyModel, rows: int, bound_ms: float, instances: int = 1) -> float:
    return predicted_rate(
        latency, Policy(max_batch_rows=rows), instances, Slo(0.99, bound_ms), (0,), with_deadline=False
    )


def test_where_a_batch_is_cheap_a_large_cap_reaches_more() -> None:
    latency = learned(0.02, 0.0005)
    assert rate(latency, 64, 500.0) > 3 * rate(latency, 8, 500.0)


def test_where_rows_cost_the_same_alone_caps_are_alike() -> None:
    latency = learned(0.0, 0.01)
    assert rate(latency, 64, 500.0) == pytest.approx(rate(latency, 8, 500.0), rel=0.05)


def test_the_rate_is_near_the_capacity_where_the_objective_is_loose_and_far_below_where_it_is_tight() -> None:
    latency = learned(0.0, 0.01)
    # A run of so many requests ends before a queue that grows slowly is too long.
    assert 75 < rate(latency, 8, 500.0) < 110
    assert rate(latency, 8, 15.0) < 40


def test_two_instances_do_twice_as_much() -> None:
    latency = learned(0.0, 0.01)
    assert rate(latency, 8, 500.0, 2) == pytest.approx(2 * rate(latency, 8, 500.0), rel=0.15)


def test_an_objective_below_the_time_of_a_row_holds_at_no_rate() -> None:
    assert rate(learned(0.02, 0.001), 8, 5.0) == 0
