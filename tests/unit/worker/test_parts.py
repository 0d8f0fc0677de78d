"""The worker's pure parts: what errors mean, how much to hold; and the reaper's rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.engine.started import eventually

from forebay.core.errors import (
    AdmissionError,
    DeadlineExceeded,
    DependencyError,
    ExecutionError,
    ForebayError,
    RequestError,
)
from forebay.engine.client import EngineClient
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobError
from forebay.jobs.store import QueueDepth, Reaped
from forebay.telemetry.job_metrics import JobMetrics
from forebay.worker import reaper
from forebay.worker.outcomes import outcome_of, retry_delay_s
from forebay.worker.reaper import Reaper
from forebay.worker.room import Room


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ExecutionError("x", code="instance_crashed"), "retry"),
        (ExecutionError("x", code="out_of_memory"), "retry"),
        (ExecutionError("x", code="model_error"), "failed"),
        (ExecutionError("x", code="output_mismatch"), "failed"),
        (DeadlineExceeded("x", stage="executing"), "failed"),
        (RequestError("x"), "failed"),
        (RequestError("x", code="unsupported"), "failed"),
        (RequestError("x", code="model_not_found"), "retry"),
        (AdmissionError("x", code="draining"), "release"),
        (AdmissionError("x", code="model_not_ready"), "release"),
        (AdmissionError("x", code="queue_full"), "release"),
    ],
)
def test_what_an_error_means_for_its_job(error: ForebayError, kind: str) -> None:
    outcome = outcome_of(error, 1, served=True)
    assert outcome.kind == kind
    if kind != "release":
        assert outcome.error is not None
        assert outcome.error.code == error.code


def test_a_model_that_is_gone_here_may_be_served_elsewhere() -> None:
    assert outcome_of(RequestError("x", code="model_not_found"), 1, served=False).kind == "release"


def test_the_error_of_a_job_does_not_say_where_the_store_is() -> None:
    told = outcome_of(DependencyError("Redis at redis://10.0.0.5: it wants a password"), 1, served=True).error
    assert told == JobError("store_unavailable", "the server's store cannot be reached; try again")


def test_the_stage_of_a_deadline_is_told() -> None:
    assert outcome_of(DeadlineExceeded("x", stage="executing"), 1, served=True).error == JobError(
        "deadline_exceeded", "x", "executing"
    )


def test_each_retry_waits_longer_up_to_a_bound() -> None:
    delays = [retry_delay_s(attempt) for attempt in range(1, 12)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == 30.0


def engine(instances: int, best_rows: int) -> EngineClient:
    return cast(EngineClient, SimpleNamespace(instances=instances, best_rows=best_rows))


def test_two_batches_an_instance_are_held_at_first() -> None:
    room = Room()
    assert room.wanted(engine(2, 16)) == 64
    for _ in range(60):
        room.took(10, 0.0)
    assert room.wanted(engine(2, 16)) == 0, "few more are not worth a call"
    for _ in range(20):
        room.done(1, 0.01)
    assert room.wanted(engine(2, 16)) == 24


def worked(rows_per_s: float, rows: int = 1) -> Room:
    """A room whose jobs have been done at this rate."""
    room = Room()
    now = 0.0
    room.took(10, now)
    for _ in range(20_000):
        room.took(10, now)
        now += rows / rows_per_s
        room.done(rows, now)
    room.done(0, now)
    return room


def test_a_fast_model_gets_what_it_does_while_more_is_fetched() -> None:
    assert worked(20_000).wanted(engine(1, 4)) == pytest.approx(1000, rel=0.1)


def test_a_slow_model_gets_a_second_of_work_and_no_less_than_a_batch() -> None:
    assert worked(10).wanted(engine(1, 256)) == 256
    assert worked(10).wanted(engine(2, 3)) == pytest.approx(10, rel=0.1)
    assert worked(0.1).wanted(engine(2, 1)) == 4


def test_jobs_of_many_rows_count_as_many() -> None:
    assert worked(1000, rows=50).wanted(engine(1, 100)) == pytest.approx(4, abs=1)
    assert worked(1000, rows=5000).wanted(engine(1, 100)) == 1


class Told(MemoryJobs):
    """Says what the test has set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Reaped | Exception] = []
        self.silent = False

    async def reap(self) -> Reaped:
        if self.silent:
            await asyncio.Event().wait()
        answer = self.answers.pop(0) if self.answers else Reaped(True)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def depth(self, model: str) -> QueueDepth:
        return QueueDepth(7, 700, 3, 1.5)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Told, Reaper, JobMetrics]]:
    monkeypatch.setattr(reaper, "EVERY_S", 0.001)

    def make() -> tuple[Told, Reaper, JobMetrics]:
        jobs, metrics = Told(), JobMetrics()
        return jobs, Reaper(jobs, lambda: ["m"], metrics), metrics

    return make


async def test_the_reaper_counts_and_logs_what_it_did(rounds: Any, caplog: pytest.LogCaptureFixture) -> None:
    jobs, one, metrics = rounds()
    jobs.answers = [Reaped(True, requeued=2, forgotten=1), Reaped(True, requeued=3)]
    await one.once()
    await one.once()
    await one.look()
    assert metrics.reaped == {"requeued": 5, "forgotten": 1}
    assert metrics.depths == {"m": (7, 3, 1.5)}
    assert "2 requeued" in caplog.text


async def test_the_reaper_goes_on_whatever_happens(rounds: Any, caplog: pytest.LogCaptureFixture) -> None:
    jobs, one, metrics = rounds()
    jobs.answers = [DependencyError("away"), DependencyError("away"), ValueError("bug"), Reaped(True, expired=1)]
    one.start()
    await eventually(lambda: metrics.reaped == {"expired": 1})
    await one.close()
    assert metrics.store_errors == {"reap": 3}
    assert caplog.text.count("away") == 1, "one line for each time that it begins to fail, or for another reason"
    assert caplog.text.count("bug") == 1


async def test_how_many_jobs_wait_is_told_while_the_broker_is_silent(rounds: Any) -> None:
    jobs, one, metrics = rounds()
    jobs.silent = True
    one.start()
    await eventually(lambda: metrics.depths == {"m": (7, 3, 1.5)})
    await one.close()


async def test_what_the_store_did_counts_though_the_broker_took_no_message(
    rounds: Any, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, one, metrics = rounds()
    jobs.answers = [Reaped(True, requeued=2, unsent="the broker is away")]
    with pytest.raises(DependencyError, match="the broker is away"):
        await one.once()
    assert metrics.reaped == {"requeued": 2}
    jobs.answers = [Reaped(True, expired=1, unsent="the broker is away")]
    one.start()
    await eventually(lambda: metrics.store_errors == {"reap": 1} and metrics.reaped == {"requeued": 2, "expired": 1})
    await one.close()
    assert "the reaper cannot reach the store, or the broker: the broker is away" in caplog.text
