"""Every index of texts, empty: numpy, usearch (where it is installed), vector sets of a Redis (where there is one)."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec

import pytest
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.redis_link import RedisLink
from forebay.cache.semantic.index import SemanticIndex
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.redis_index import RedisIndex
from forebay.cache.semantic.usearch_vectors import UsearchVectors
from forebay.core.errors import SetupError

MAX_ENTRIES = 300


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


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
