"""One event, one count: in Prometheus' metrics and in the protocol's statistics."""

from __future__ import annotations

import pytest
from tests.unit.engine.requests import request

from forebay.batching import Batch, DispatchReason
from forebay.core.request import Request
from forebay.engine.record import Recorder
from forebay.telemetry.metrics import ModelMetrics


def batch(rows: int, requests: int, waste: float = 0.0) -> Batch[Request]:
    found = Batch([request([], []) for _ in range(requests)], rows, 0, None, DispatchReason.deadline)
    found.padding_waste = waste
    return found


@pytest.fixture
def metrics() -> ModelMetrics:
    return ModelMetrics("m", "1", dict)


def test_a_batch(metrics: ModelMetrics) -> None:
    record = Recorder(metrics)
    record.executed(batch(4, 2), 0.25)
    record.executed(batch(4, 4, waste=0.5), 0.5)
    record.executed(batch(1, 1), 1.0)
    statistics = record.statistics
    assert (statistics.execution_count, statistics.inference_count) == (3, 9)
    assert (statistics.compute.count, statistics.compute.ns) == (7, int((2 * 0.25 + 4 * 0.5 + 1.0) * 1e9))
    assert {rows: (size.compute.count, size.compute.ns) for rows, size in statistics.batches.items()} == {
        4: (2, 750_000_000),
        1: (1, 1_000_000_000),
    }
    assert statistics.last_inference_ms > 0
    assert metrics.dispatched == {"deadline": 3}
    assert metrics.padding_rows == 2.0
    assert (metrics.batch_rows.total, metrics.compute_s.total) == (9.0, 1.75)


def test_answers(metrics: ModelMetrics) -> None:
    record = Recorder(metrics)
    record.answered([1.0, 1.5], 2.0, 3.0)
    record.answered([], 2.0, 3.0)
    statistics = record.statistics
    assert (statistics.queue.count, statistics.queue.ns) == (2, 1_500_000_000)
    assert (statistics.success.count, statistics.success.ns) == (2, 3_500_000_000)
    assert metrics.answered == {"ok": 2}
    assert (metrics.queue_s.total, metrics.request_s.total) == (1.5, 3.5)
    assert sum(metrics.queue_s.counts) == sum(metrics.request_s.counts) == 2


def test_what_did_not_go_well(metrics: ModelMetrics) -> None:
    record = Recorder(metrics)
    record.refused("queue_full")
    record.refused("queue_full")
    record.canceled()
    record.failed(0.5)
    record.error("model_error")
    assert metrics.refused == {"queue_full": 2}
    assert metrics.canceled == 1
    assert metrics.answered == {"model_error": 1}
    assert record.statistics.fail.count == 1
    assert (metrics.compute_s.total, sum(metrics.compute_s.counts)) == (0.5, 1)
    assert record.statistics.execution_count == 0
