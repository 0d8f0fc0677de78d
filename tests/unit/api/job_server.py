"""Jobs in memory behind a real uvicorn, in the test's own loop, with or without the express lane."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.inference import Inference
from forebay.api.job_events import add_job_events
from forebay.api.job_hub import Hub
from forebay.api.job_socket import MOST_MESSAGE_BYTES, add_job_sockets
from forebay.api.job_streams import Streams
from forebay.api.lane import lane_protocol
from forebay.api.lane_socket import LaneSocket
from forebay.api.lane_time import sweep_connections
from forebay.core.settings import ServerSettings
from forebay.jobs.ids import JobIds
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobError, JobSpec, Output
from forebay.jobs.store import Bounds, Finish, LeasedJob, NewJob, Partial

BOUNDS = Bounds(jobs=1_000_000, nbytes=1 << 30)
OUTPUT = Output(body=b'{"output":{"y":[1]}}')


class _Server(uvicorn.Server):
    """Tells the streams before it closes connections, as Forebay's own does."""

    streams: Streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.streams.ended()
        await super().shutdown(sockets)


@dataclass
class JobServer:
    """A running server, and a worker's hands on its jobs."""

    port: int
    jobs: MemoryJobs
    hub: Hub
    streams: Streams
    server: uvicorn.Server
    ids: JobIds = field(default_factory=JobIds)
    leased: dict[str, LeasedJob] = field(default_factory=dict)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def submit(self, tenant: str = "anonymous", **spec: Any) -> str:
        """A new job's id."""
        id = self.ids.new()
        new = NewJob(JobSpec(id=id, model="m", tenant=tenant, body=b"{}", **spec))
        assert [one.outcome for one in await self.jobs.submit([new], BOUNDS)] == ["created"]
        return id

    async def start(self, *ids: str) -> None:
        """A worker takes these and all that are queued."""
        for job in await self.jobs.lease(["m"], 1_000_000, 0.0, 3600.0):
            self.leased[job.spec.id] = job
        assert all(id in self.leased for id in ids)

    async def tell(self, id: str, progress: float | None = None, piece: bytes | None = None) -> None:
        """Progress or a piece of a running job."""
        assert await self.jobs.tell([Partial(self.leased[id], progress, piece)]) == [True]

    async def succeed(self, *ids: str, output: Output = OUTPUT) -> None:
        """Running jobs end well."""
        finishes = [Finish(self.leased.pop(id), "succeeded", output=output) for id in ids]
        assert all(await self.jobs.finish(finishes))

    async def retry(self, id: str) -> None:
        """A running job is queued again."""
        error = JobError("instance_crashed", "its instance ended")
        assert await self.jobs.finish([Finish(self.leased.pop(id), "retry", error=error)]) == [True]

    async def run(self, *ids: str) -> None:
        """Start and succeed."""
        await self.start(*ids)
        await self.succeed(*ids)


@asynccontextmanager
async def job_server(
    *,
    keys: str = "",
    lane: bool = True,
    beat_s: float = 3600.0,
    look_every_s: float = 3600.0,
    jobs: MemoryJobs | None = None,
    port: int = 0,
    keep_alive_s: float = 75.0,
    sweep_s: float = 0.05,
) -> AsyncIterator[JobServer]:
    """`keys`: lines NAME:SHA256HEX. `keep_alive_s`: how long the lane waits for a client that reads nothing."""
    gate = Gate(Keys.parse(keys, "keys") if keys else Keys({}), Quota(None, time.monotonic))
    settings = ServerSettings(keep_alive_s=keep_alive_s)
    jobs = MemoryJobs() if jobs is None else jobs
    hub = Hub(jobs, look_every_s=look_every_s)
    streams = Streams(hub, gate, _ready, beat_s=beat_s)
    app = FastAPI()
    add_job_events(app, streams)
    add_job_sockets(app, streams)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(2048)
    config = uvicorn.Config(
        app,
        http=lane_protocol(Inference({}, settings, gate), settings) if lane else "httptools",
        ws=LaneSocket if lane else "websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=MOST_MESSAGE_BYTES,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=20,
    )
    server = _Server(config)
    server.streams = streams
    serving = asyncio.create_task(server.serve([listener]))
    sweeping = asyncio.create_task(_sweep(server, sweep_s))
    while not server.started:
        await asyncio.sleep(0.001)
    try:
        yield JobServer(listener.getsockname()[1], jobs, hub, streams, server)
    finally:
        server.should_exit = True
        await serving
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await hub.close()
        listener.close()


async def _sweep(server: uvicorn.Server, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        sweep_connections(server.server_state.connections)


async def _ready() -> None:
    """The store is there from the beginning."""
