"""Counts what an engine does: one call for each event, for Prometheus and for the protocol's statistics."""

from __future__ import annotations

import time

from forebay.batching import Batch
from forebay.core.request import Request
from forebay.engine.client import BatchSizeStatistics, EngineStatistics
from forebay.telemetry.metrics import ModelMetrics, count


class Recorder:
    """The only place where an engine's metrics change."""

    __slots__ = ("_metrics", "statistics")

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self.statistics = EngineStatistics()

    def move_to(self, metrics: ModelMetrics) -> None:
        """Count in `metrics` from now on, and there too what was counted so far."""
        metrics.absorb(self._metrics)
        self._metrics = metrics

    def part(self, metrics: ModelMetrics) -> None:
        """Count in `metrics` from now on, and leave where it is what was counted so far."""
        self._metrics = metrics

    def executed(self, batch: Batch[Request], busy_s: float) -> None:
        """A batch came back."""
        metrics, statistics = self._metrics, self.statistics
        count(metrics.dispatched, batch.reason.value)
        metrics.batch_rows.observe(batch.rows)
        metrics.compute_s.observe(busy_s)
        if batch.padding_waste:
            metrics.padding_rows += batch.padding_waste * batch.rows
        statistics.execution_count += 1
        statistics.inference_count += batch.rows
        statistics.compute.add(len(batch.items), busy_s * len(batch.items))
        by_size = statistics.batches.get(batch.rows)
        if by_size is None:
            by_size = statistics.batches[batch.rows] = BatchSizeStatistics(batch.rows)
        by_size.compute.add(1, busy_s)
        statistics.last_inference_ms = int(time.time() * 1000)

    def answered(self, arrived: list[float], sent_at: float, now: float) -> None:
        """Requests of one batch, by their instants of arrival, were answered with outputs."""
        if not arrived:
            return
        metrics, statistics = self._metrics, self.statistics
        count, first, last, total = len(arrived), min(arrived), max(arrived), sum(arrived)
        queued_s, taken_s = sent_at * count - total, now * count - total
        metrics.queue_s.observe_ages(arrived, sent_at, sent_at - last, sent_at - first, queued_s)
        metrics.request_s.observe_ages(arrived, now, now - last, now - first, taken_s)
        statistics.queue.add(count, queued_s)
        statistics.success.add(count, taken_s)
        answered = metrics.answered
        answered["ok"] = answered.get("ok", 0) + count

    def begun(self, taken_s: float) -> None:
        """A request got the first piece of its answer, so long after it arrived."""
        self._metrics.first_piece_s.observe(taken_s)

    def refused(self, code: str) -> None:
        """A request was not admitted."""
        count(self._metrics.refused, code)

    def canceled(self) -> None:
        """A caller left."""
        self._metrics.canceled += 1

    def failed(self, busy_s: float) -> None:
        """A batch raised."""
        self._metrics.compute_s.observe(busy_s)

    def error(self, code: str) -> None:
        """A request was answered with an error after admission."""
        count(self._metrics.answered, code)
        self.statistics.fail.count += 1
