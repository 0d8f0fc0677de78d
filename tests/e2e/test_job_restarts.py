"""Jobs by both clients through a server that is killed in the middle of them, and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.long import full
from tests.e2e.server import Served, eventually, model, quick, serving
from tests.e2e.test_job_client import collected, each, events_of, pause
from tests.unit.client.both import KINDS, Both

from forebay.client import JobEvent, Retries
from forebay.core.errors import ForebayError

SHORT_LEASE = ["--jobs-lease-s", "2"]
PATIENT = Retries(first_wait_s=0.05, longest_wait_s=0.2)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@asynccontextmanager
async def killed_and_started(
    folder: Path, arguments: list[str], kind: str
) -> AsyncIterator[tuple[Both, Callable[[Callable[[Served], bool]], Any]]]:
    """A client of a server, and what kills that server once something holds, and starts another in its place."""
    first = Served(folder, *arguments)
    others: list[Served] = []
    try:
        await asyncio.to_thread(first.wait_ready)

        async def strike(until: Callable[[Served], bool]) -> None:
            await asyncio.to_thread(eventually, lambda: until(first), "the job is on its way")
            first.process.kill()
            first.process.wait(10)
            # A while without any server: connections are refused.
            await asyncio.sleep(0.5)
            others.append(Served(folder, *arguments, port=first.port))
            await asyncio.to_thread(others[0].wait_ready)

        url = f"http://127.0.0.1:{first.port}"
        async with Both(kind, url, retries=PATIENT) as both:
            yield both, strike
        await asyncio.to_thread(others[0].stop)
    finally:
        for one in (first, *others):
            one.close()


@pytest.mark.parametrize("kind", ["async", full("sync")])
async def test_waiting_outlasts_that_the_server_is_killed_and_started_again(tmp_path: Path, kind: str) -> None:
    arguments = quick(*model("faulty.py", "Pause"))
    async with killed_and_started(tmp_path, [*arguments, *SHORT_LEASE], kind) as (both, strike):
        job = await both.call("submit", "pause", pause(2000.0))
        queued = await both.call("submit", "pause", pause(5.0))
        waiting = asyncio.create_task(both.call("wait", job, timeout_s=90.0))
        ending = asyncio.create_task(both.call("ended", queued, timeout_s=90.0))
        await strike(lambda served: served.in_flight("pause") > 0)
        assert (await waiting)["y"].tolist() == [[2000.0]]
        assert (await ending).status == "succeeded"
        assert (await both.call("job", job)).attempt == 2


@pytest.mark.parametrize("kind", ["async", full("sync")])
async def test_a_stream_outlasts_that_the_server_is_killed_and_started_again(tmp_path: Path, kind: str) -> None:
    arguments = quick(*model("streaming.py", "Count"))
    async with killed_and_started(tmp_path, [*arguments, *SHORT_LEASE], kind) as (both, strike):
        job = await both.call("submit", "count", {"n": np.array([300], "i8")}, binary=False)
        events: list[JobEvent] = []

        async def follow() -> None:
            async for event in each(both.client.stream(job, timeout_s=90.0)):
                events.append(event)

        following = asyncio.create_task(follow())
        await strike(lambda served: any(event.kind == "output" for event in events))
        await following
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert (events[0].sequence, events[-1].kind, events[-1].status) == (1, "done", "succeeded")
    statuses = [(event.status, event.attempt) for event in events if event.kind == "status"]
    assert statuses == [("queued", 0), ("running", 1), ("queued", 1), ("running", 2)]
    pieces = [event.output["last"] for event in events if event.kind == "output" and event.attempt == 2]
    assert pieces == list(range(1, 301))
    assert events[-1].job is not None
    assert events[-1].job.output["outputs"][-1]["data"] == [300]


async def test_a_submission_outlasts_a_restart_and_makes_one_job(tmp_path: Path, kind: str) -> None:
    arguments = quick(*model("faulty.py", "Pause"))
    first = Served(tmp_path, *arguments)
    try:
        await asyncio.to_thread(first.wait_ready)
        patient = Retries(attempts=500, first_wait_s=0.05, longest_wait_s=0.1)
        async with Both(kind, f"http://127.0.0.1:{first.port}", retries=patient, timeout_s=90.0) as both:
            await both.call("submit", "pause", pause(1.0))
            first.process.kill()
            first.process.wait(10)
            submitting = [asyncio.create_task(both.call("submit", "pause", pause(1.0))) for _ in range(5)]
            second = Served(tmp_path, *arguments, port=first.port)
            try:
                await asyncio.to_thread(second.wait_ready)
                jobs = [await each for each in submitting]
                assert len({job.id for job in jobs}) == 5
                for job in jobs:
                    assert (await both.call("ended", job, timeout_s=60.0)).status == "succeeded"
                assert len(await collected(both, both.client.jobs())) == 6
                await asyncio.to_thread(second.stop)
            finally:
                second.close()
    finally:
        first.close()


async def test_a_server_that_stays_away_is_given_up(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Pause"))) as served:
        url = f"http://127.0.0.1:{served.port}"
        hasty = Retries(first_wait_s=0.05, longest_wait_s=0.1, longest_outage_s=0.5)
        async with Both(kind, url, retries=hasty) as both:
            job = await both.call("submit", "pause", pause(1.0))
            await both.call("wait", job, timeout_s=60.0)
            served.process.kill()
            served.process.wait(10)
            for call in (both.call("wait", job), both.call("ended", job), events_of(both, job)):
                with pytest.raises(ForebayError) as caught:
                    await call
                assert caught.value.code == "server_unreachable"
