"""When the costs of a model have changed so much that its size is measured anew."""

from __future__ import annotations

import pytest

from forebay.batching import LatencyModel
from forebay.engine.drift import FIRST_PAUSE_S, LASTING_LOOKS, Drift

LATER = FIRST_PAUSE_S + 1


def feed(latency: LatencyModel, factor: float, batches: int = 300) -> None:
    for _ in range(batches // 3):
        for rows in (1, 4, 16):
            latency.observe(rows, 0, factor * (0.001 + 0.0005 * rows))


@pytest.fixture
def latency() -> LatencyModel:
    learned = LatencyModel(64)
    feed(learned, 1.0)
    return learned


def looks(drift: Drift, latency: LatencyModel, now: float, count: int = LASTING_LOOKS) -> list[bool]:
    return [drift.look(latency, now) for _ in range(count)]


def test_costs_that_stay_ask_for_nothing(latency: LatencyModel) -> None:
    drift = Drift(latency, 0.0)
    feed(latency, 1.2)
    assert not any(looks(drift, latency, LATER, 20))


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_lasting_change_is_due_once_it_has_been_seen_often_enough(latency: LatencyModel, factor: float) -> None:
    drift = Drift(latency, 0.0)
    feed(latency, factor)
    assert looks(drift, latency, LATER) == [False] * (LASTING_LOOKS - 1) + [True]


def test_a_spell_that_ends_is_forgotten(latency: LatencyModel) -> None:
    drift = Drift(latency, 0.0)
    feed(latency, 2.0)
    assert not any(looks(drift, latency, LATER, LASTING_LOOKS - 1))
    feed(latency, 1.0)
    assert not drift.look(latency, LATER)
    feed(latency, 2.0)
    assert not any(looks(drift, latency, LATER, LASTING_LOOKS - 1)), "it counts from the beginning"


def test_few_batches_say_nothing(latency: LatencyModel) -> None:
    drift = Drift(latency, 0.0)
    feed(latency, 2.0, batches=60)
    assert not any(looks(drift, latency, LATER, 20))


def test_nothing_is_due_during_the_pause(latency: LatencyModel) -> None:
    drift = Drift(latency, 1000.0, pause_s=300.0)
    feed(latency, 2.0)
    assert not any(looks(drift, latency, 1299.0, 20))
    assert drift.look(latency, 1301.0)
