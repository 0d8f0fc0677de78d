"""Directories and calls in memory, in Valkey, in Redis, in a cluster: each in turn, empty."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.calls import Calls
from forebay.jobs.directory import SILENT_AFTER_S, Directory
from forebay.jobs.memory_calls import MemoryCalls
from forebay.jobs.memory_directory import MemoryDirectory
from forebay.jobs.redis_calls import RedisCalls
from forebay.jobs.redis_directory import RedisDirectory
from forebay.testing import FakeClock

MOST_WAITING, MOST_WAITING_BYTES = 5, 400_000


@dataclass(frozen=True)
class Place:
    """An empty one of each. The others are the same as another process sees them. `silence`: the worker has not renewed
    its announcement for too long."""

    directory: Directory
    other_directory: Directory
    calls: Calls
    other_calls: Calls
    silence: Callable[[str], Awaitable[object]]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Place]:
    clock = FakeClock()
    directory = MemoryDirectory(clock)
    calls = MemoryCalls(time.monotonic, most_waiting=MOST_WAITING, most_waiting_bytes=MOST_WAITING_BYTES)

    async def silence(worker: str) -> None:
        known = await directory.look()
        clock.advance(SILENT_AFTER_S / 2)
        for other in known.workers.keys() - {worker}:
            assert await directory.renew(other)
        clock.advance(SILENT_AFTER_S / 2)

    yield Place(directory, directory, calls, calls, silence)


@contextlib.asynccontextmanager
async def redis(servers: Servers, kind: str) -> AsyncIterator[Place]:
    url = servers.url(kind)
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    prefix = f"test-{secrets.token_hex(6)}"
    links = [RedisLink(url), RedisLink(url)]
    directories = [RedisDirectory(link, prefix=prefix) for link in links]
    bounds = {"most_waiting": MOST_WAITING, "most_waiting_bytes": MOST_WAITING_BYTES}
    calls = [RedisCalls(link, prefix=prefix, **bounds) for link in links]

    async def silence(worker: str) -> object:
        return await links[0].execute("PEXPIRE", f"{prefix}:{{roles}}:w:{worker}", 0)

    yield Place(directories[0], directories[1], calls[0], calls[1], silence)
    for here, there in zip(calls, directories, strict=True):
        await here.close()
        await there.close()
    for link in links:
        await link.close()


@pytest.fixture(params=["memory", "valkey", "redis", "cluster"])
async def place(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Place]:
    kind = request.param
    async with memory() if kind == "memory" else redis(servers, kind) as opened:
        yield opened
