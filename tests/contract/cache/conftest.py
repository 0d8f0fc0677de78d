"""Shared caches in memory, in Valkey, in Redis, in a cluster: each in turn, empty, as two processes see it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.redis_link import RedisLink
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import SharedCache
from forebay.cache.redis_shared import RedisSharedCache

MOST_BYTES = 4000


@dataclass(frozen=True)
class Place:
    """One cache as two processes see it. `lapse`: the claim on this digest was not renewed in time."""

    here: SharedCache
    there: SharedCache
    lapse: Callable[[bytes], Awaitable[object]]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Place]:
    shared = SharedMemory(time.monotonic, MOST_BYTES)

    async def lapse(digest: bytes) -> None:
        shared.claims[digest] = (shared.claims[digest][0], 0.0)

    yield Place(MemorySharedCache(shared), MemorySharedCache(shared), lapse)


@contextlib.asynccontextmanager
async def redis(servers: Servers, kind: str) -> AsyncIterator[Place]:
    url = servers.url(kind)
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    prefix = f"test-{secrets.token_hex(6)}"
    links = [RedisLink(url), RedisLink(url)]
    here, there = (RedisSharedCache(link, MOST_BYTES, prefix=prefix) for link in links)

    async def lapse(digest: bytes) -> object:
        return await links[0].execute("DEL", f"{prefix}:{{cache}}:c:".encode() + digest)

    yield Place(here, there, lapse)
    for cache, link in zip((here, there), links, strict=True):
        await cache.close()
        await link.close()


@pytest.fixture(params=["memory", "valkey", "redis", "cluster"])
async def place(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Place]:
    kind = request.param
    async with memory() if kind == "memory" else redis(servers, kind) as opened:
        yield opened
