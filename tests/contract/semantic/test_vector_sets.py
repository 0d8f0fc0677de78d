"""`RedisIndex` beyond what every index promises."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from tests.contract.jobs.redis_servers import Server, Servers, redis_server

from forebay.brokers.redis_link import RedisLink
from forebay.cache.port import Match
from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.index import Kept
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.partition import Partition
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.redis_index import RedisIndex
from forebay.cache.semantic.tier import SemanticTier
from forebay.core.errors import SetupError
from forebay.core.tensors import Array

HERE = Partition(model="m", artefact="1", parameters=b"", system_prompt="", tenant="", embedder="e", locale="")
NORTH = np.array([1.0, 0.0], np.float32)


async def embed(text: str) -> Array:
    return NORTH


async def test_a_server_without_vector_sets_is_refused_with_what_to_do(servers: Servers) -> None:
    url = servers.url("valkey")
    assert url is not None
    link = RedisLink(url)
    with pytest.raises(SetupError, match=r"has no vector sets, which come with Redis 8\.0; set semantic_index"):
        await RedisIndex(link).check()
    await link.close()


@asynccontextmanager
async def opened(servers: Servers, **bounds: Any) -> AsyncIterator[tuple[RedisIndex, RedisLink, str]]:
    """An index, its link, and what its keys begin with."""
    url = servers.url("redis")
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    link, prefix = RedisLink(url), f"test-{secrets.token_hex(6)}"
    index = RedisIndex(link, prefix=prefix, timeout_s=5.0, **bounds)
    try:
        await index.check()
        yield index, link, prefix
    except SetupError as error:
        pytest.skip(error.message)
    finally:
        await link.close()


async def keys_of(link: RedisLink, prefix: str) -> list[str]:
    return sorted(key.decode().rpartition("}:")[2] for key in await link.execute("KEYS", f"{prefix}:*"))


def kept(number: int) -> Kept:
    return Kept(f"e{number}", f"Text {number}?", f"text {number}", NORTH)


async def test_all_keys_expire_together(servers: Servers) -> None:
    async with opened(servers, ttl_s=50.0) as (index, link, prefix):
        await index.add("p", kept(1))
        keys = await keys_of(link, prefix)
        assert keys == ["about", "bytes", "n:p", "number", "o:p", "sizes", "t:p", "used", "v:p"]
        for key in keys:
            assert 0 < int(await link.execute("PTTL", f"{prefix}:{{semantic}}:{key}")) <= 50_000


async def test_beyond_its_bytes_the_partition_used_least_recently_goes(servers: Servers) -> None:
    """They come with every value of a free parameter: no bound of each of them bounds them all."""
    async with opened(servers) as (index, _, _):
        await index.add("p", kept(1))
        one_partition = await index.nbytes()
    async with opened(servers, max_bytes=3 * one_partition + 100) as (index, link, prefix):
        for number in range(20):
            await index.add(f"p{number}", kept(number))
            assert await index.near("p0", NORTH, 0.9, 1), "it is used all the time"
            assert await index.same("p0", "text 0")
            assert await index.nbytes() <= 3 * one_partition + 100
        keys = await keys_of(link, prefix)
        assert [key for key in keys if key.startswith("t:")] == ["t:p0", "t:p18", "t:p19"]
        assert len(keys) == 3 * 4 + 5


async def test_beyond_its_bytes_the_only_partition_loses_its_oldest(servers: Servers) -> None:
    async with opened(servers, max_bytes=15_000) as (index, _, _):
        for number in range(30):
            await index.add("p", kept(number))
            assert await index.nbytes() <= 15_000
        count = await index.count("p")
        assert 3 <= count < 15
        found = {match.entry_id for match in await index.near("p", NORTH, 0.9, 30)}
        assert found == {f"e{number}" for number in range(30 - count, 30)}
    async with opened(servers, max_bytes=10) as (index, _, _):
        await index.add("p", kept(1))
        assert (await index.count("p"), await index.nbytes()) == (0, 0)


async def test_bytes_are_counted_to_nothing(servers: Servers) -> None:
    async with opened(servers, max_entries=20) as (index, link, prefix):
        for number in range(30):
            await index.add("p", kept(number))
            await index.add("p", kept(number // 2))
            await index.add("q", kept(number))
        for number in range(30):
            await index.remove("p", f"e{number}")
        assert (await index.count("p"), await index.count("q")) == (0, 20)
        await index.drop("q")
        assert await index.nbytes() == 0
        assert await keys_of(link, prefix) == ["bytes", "number"]


async def test_what_has_ended_by_time_counts_no_more_once_it_is_come_upon(servers: Servers) -> None:
    async with opened(servers) as (index, link, prefix):
        await index.add("p", kept(1))
        one_partition = await index.nbytes()
        await index.add("q", kept(2))
        for partition in ("p", "q"):
            for kind in "vtno":
                await link.execute("DEL", f"{prefix}:{{semantic}}:{kind}:{partition}")
        assert not await index.near("q", NORTH, 0.9, 1)
        assert await index.nbytes() == one_partition
        await index.add("r", kept(3))
        assert await index.nbytes() == one_partition


async def test_what_is_forgotten_leaves_no_text_in_the_store(servers: Servers) -> None:
    async with opened(servers) as (index, link, prefix):
        for number in range(100):  # more than one call looks at
            await index.add(f"p{number}", kept(number))
        await index.clear(Match(tenant=""))
        assert await keys_of(link, prefix) == ["bytes", "number"]


async def test_a_server_that_is_paused_or_dead_is_a_miss_within_bounds() -> None:
    binary = redis_server()
    if binary is None:
        pytest.skip("there is no redis-server on this machine")
    with Server(binary) as server:
        link = RedisLink(server.url)
        index = RedisIndex(link, prefix="test")
        try:
            await index.check()
        except SetupError as error:
            await link.close()
            pytest.skip(error.message)
        tier = SemanticTier(index, Guard(load_lexicon()), SemanticPolicy())
        await tier.store(HERE, "e1", "Mend a tyre", NORTH)
        assert (await tier.find(HERE, "Repair a tyre", embed)).hit is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        async with asyncio.timeout(5.0):
            assert (await tier.find(HERE, "Repair a tyre", embed)).hit is None
        os.kill(server.process.pid, signal.SIGCONT)
        assert (await tier.find(HERE, "Repair a tyre", embed)).hit is not None
        server.kill()
        async with asyncio.timeout(5.0):
            assert (await tier.find(HERE, "Repair a tyre", embed)).hit is None
        server.start()
        assert (await tier.find(HERE, "Repair a tyre", embed)).hit is None
        await tier.store(HERE, "e1", "Mend a tyre", NORTH)
        assert (await tier.find(HERE, "Repair a tyre", embed)).hit is not None
        await link.close()
