"""Shared caches in memory, in Valkey, in Redis, in a cluster: each in turn, empty, as two processes see it.

And every index of texts, empty: numpy, usearch (where it is installed), vector sets of a Redis (where there is one).
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.redis_link import RedisLink
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import SharedCache
from forebay.cache.redis_shared import RedisSharedCache
from forebay.cache.semantic.index import SemanticIndex
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.redis_index import RedisIndex
from forebay.cache.semantic.usearch_vectors import UsearchVectors
from forebay.core.errors import SetupError

MOST_BYTES = 1000
MAX_ENTRIES = 300


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


@contextlib.asynccontextmanager
async def redis_index(servers: Servers) -> AsyncIterator[SemanticIndex]:
    url = servers.url("redis")
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    link = RedisLink(url)
    index = RedisIndex(link, prefix=f"test-{secrets.token_hex(6)}", max_entries=MAX_ENTRIES)
    try:
        await index.check()
    except SetupError as error:
        await link.close()
        pytest.skip(error.message)
    yield index
    await index.close()
    await link.close()


@contextlib.asynccontextmanager
async def local_index(kind: str) -> AsyncIterator[SemanticIndex]:
    if kind == "usearch" and find_spec("usearch") is None:
        pytest.skip("usearch is not installed")
    large = UsearchVectors if kind == "usearch" else None
    index = LocalIndex(max_entries=MAX_ENTRIES, large=large, large_from=3)
    yield index
    await index.close()


@pytest.fixture(params=["numpy", "usearch", "redis"])
async def index(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[SemanticIndex]:
    opening = redis_index(servers) if request.param == "redis" else local_index(request.param)
    async with opening as opened:
        yield opened
