"""Those who follow jobs hear that the server ends before their connections do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
from tests.unit.api.job_server import JobServer, job_server
from tests.unit.api.test_job_socket import eventually, hear, opened, rest

from forebay.api.job_streams import Streams
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.store import EVENTS_BYTES, Event


class Slow(MemoryJobs):
    """Jobs whose events come only after the server has begun to end, once that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.late: Streams | None = None
        self.waiting = 0

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        if self.late is not None:
            self.waiting += 1
            await eventually(lambda: self.late is not None and self.late.closing)
            await asyncio.sleep(0.1)
        return await super().events(id, after, most_bytes)


async def looking(served: JobServer, jobs: Slow) -> None:
    """Something happens to the job, and its events are being fetched."""
    jobs.late = served.streams
    await served.start()
    await eventually(lambda: jobs.waiting)


async def test_a_socket_that_waits_for_the_store_is_told_to_come_back() -> None:
    jobs = Slow()
    async with job_server(jobs=jobs) as served:
        id = await served.submit()
        client = await opened(served, f"/v1/jobs/{id}/ws")
        await hear(client, "status")
        await looking(served, jobs)
    messages, code, _ = await rest(client)
    assert (code, [message["type"] for message in messages]) == (1012, ["status", "retry"])
    await client.close()


async def test_an_event_stream_that_waits_for_the_store_is_told_to_come_back() -> None:
    jobs = Slow()
    text: list[str] = []

    async def follow(url: str) -> None:
        async with httpx.AsyncClient(trust_env=False) as http, http.stream("GET", url) as answer:
            async for piece in answer.aiter_text():
                text.append(piece)

    async with job_server(jobs=jobs) as served:
        id = await served.submit()
        following = asyncio.create_task(follow(f"{served.http}/v1/jobs/{id}/events"))
        await eventually(lambda: "id: 1" in "".join(text))
        await looking(served, jobs)
    await following
    assert "".join(text).rsplit("\n\n", 2)[1].startswith("retry: ")
    assert "id: 2" in "".join(text)


async def test_a_client_that_does_not_close_its_side_holds_nobody_up() -> None:
    async with job_server() as served:
        id = await served.submit()
        client = await opened(served, f"/v1/jobs/{id}/ws")
        await hear(client, "status")
        client.transport.pause_reading()
        async with asyncio.timeout(60):
            await served.streams.ended(3600.0)
        assert len(served.streams) == 0
    client.transport.resume_reading()
    messages, code, _ = await rest(client)
    assert (code, [message["type"] for message in messages]) == (1012, ["retry"])
    await client.close()
