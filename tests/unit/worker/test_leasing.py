"""When jobs are leased, and what is said where they cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.engine.started import eventually

from forebay.core.errors import DependencyError
from forebay.jobs.record import JobSpec
from forebay.jobs.store import JobQueue, LeasedJob
from forebay.telemetry.job_metrics import JobMetrics
from forebay.testing import FakeClock
from forebay.worker import leasing
from forebay.worker.holding import Holding
from forebay.worker.leasing import TOLD_S, Leasing

ROOM = 4
"""Jobs of a model that there is always room for."""


class Commits:
    """Nothing is left to be committed."""

    failing, most = False, 0

    def __len__(self) -> int:
        return 0


class Asked:
    """Of models that are not refused there is always more than is asked for."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.refused: dict[str, str] = {}
        """Models whose queues the broker refuses, with its words. It says so where no other is asked for."""
        self.away = ""

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        await asyncio.sleep(0)
        self.calls.append(list(models))
        served = [model for model in models if model not in self.refused]
        if self.away or not served:
            words = self.away or self.refused[models[0]]
            raise DependencyError(words, code="broker_unavailable")
        return [LeasedJob(JobSpec(id="id", model=served[0], tenant="t"), 1, "nonce")] * most


@asynccontextmanager
async def leasing_of(asked: Asked, *models: str, clock: Callable[[], float]) -> AsyncIterator[tuple[JobMetrics, Any]]:
    """One that leases for ever: its metrics, and how many jobs it brought."""
    room = SimpleNamespace(wanted=lambda client: ROOM, nbytes=0.0)
    took: list[LeasedJob] = []
    client = SimpleNamespace(state="ready", asked_lately=False)
    holding = SimpleNamespace(
        commits=Commits(),
        nbytes=0,
        paused={},
        codec=SimpleNamespace(served=lambda: dict.fromkeys(models, client)),
        room_of=lambda model: room,
        take=took.extend,
    )
    metrics = JobMetrics()
    one = Leasing(cast(JobQueue, asked), cast(Holding, holding), 15.0, metrics, clock)
    running = asyncio.create_task(one.run())
    try:
        yield metrics, took
    finally:
        one.stop()
        await asyncio.wait([running])


async def test_a_model_whose_queue_is_refused_does_not_slow_down_one_that_has_jobs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, clock = Asked(), FakeClock()
    asked.refused["bad"] = "queue bad is refused"
    async with leasing_of(asked, "bad", "good", clock=clock) as (metrics, took):
        await eventually(lambda: metrics.store_errors == {"lease": 1})
        seen = len(took)
        # In less than a pause after a call that failed for all.
        async with asyncio.timeout(leasing.LOOK_S / 2):
            while len(took) < seen + 20 * ROOM:
                await asyncio.sleep(0)
    assert asked.calls.count(["bad"]) == 1, "it is asked for again after a pause"
    assert [record.message for record in caplog.records] == [
        "no jobs could be leased; it is tried again: queue bad is refused"
    ]


async def test_why_nothing_is_leased_is_said_once_and_again_when_the_reason_changes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "LOOK_S", 0.001)
    asked, clock = Asked(), FakeClock()

    async def fails(words: str) -> None:
        asked.away, before = words, metrics.store_errors.get("lease", 0)
        await eventually(lambda: metrics.store_errors.get("lease", 0) > before + 5)

    async with leasing_of(asked, "m", clock=clock) as (metrics, took):
        await fails("no permission")
        assert caplog.text.count("no permission") == 1
        await fails("away")
        asked.away, before = "", len(took)
        await eventually(lambda: len(took) > before)
        await fails("away")
        assert (caplog.text.count("no permission"), caplog.text.count("away")) == (1, 1)
        asked.away = ""
        await eventually(lambda: asked.calls[-1] == ["m"] and len(took) > before + 5 * ROOM)
        clock.advance(TOLD_S)
        await fails("away")
        assert caplog.text.count("away") == 2
