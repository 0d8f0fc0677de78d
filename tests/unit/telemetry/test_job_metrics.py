"""The exposition of what is counted about jobs."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from forebay.telemetry.job_metrics import JOB_TABLE, JobMetrics
from forebay.telemetry.metrics import Metrics, count


def samples(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        if family.name in JOB_TABLE:
            labels = JOB_TABLE[family.name][2]
            found[family.name] = {tuple(s.labels[label] for label in labels): s.value for s in family.samples}
    return found


def test_without_jobs_nothing_is_told_of_them() -> None:
    assert samples(Metrics()) == {}


def test_all_of_the_table_is_told() -> None:
    metrics = Metrics()
    metrics.jobs = jobs = JobMetrics()
    count(jobs.leased, "m")
    count(jobs.finished, ("m", "succeeded"))
    count(jobs.reaped, "requeued")
    count(jobs.webhooks, "delivered")
    count(jobs.store_errors, "finish")
    jobs.stores_lost = 1
    jobs.held = lambda: (5, 2)
    jobs.depths = {"m": (7, 3, 1.5)}
    assert samples(metrics) == {
        "forebay_jobs_leased": {("m",): 1},
        "forebay_jobs_finished": {("m", "succeeded"): 1},
        "forebay_jobs_reaped": {("requeued",): 1},
        "forebay_job_webhooks": {("delivered",): 1},
        "forebay_job_store_errors": {("finish",): 1},
        "forebay_job_stores_lost": {(): 1},
        "forebay_jobs_held": {(): 5},
        "forebay_jobs_results_held": {(): 2},
        "forebay_jobs_waiting": {("m",): 7},
        "forebay_jobs_running": {("m",): 3},
        "forebay_jobs_oldest_seconds": {("m",): 1.5},
    }
    assert set(samples(metrics)) == set(JOB_TABLE)
