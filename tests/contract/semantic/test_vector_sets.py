"""`RedisIndex` beyond what every index promises."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal

import numpy as np
import pytest
from tests.contract.jobs.redis_servers import Server, Servers, redis_server

from forebay.brokers.redis_link import RedisLink
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


async def test_all_keys_of_a_partition_expire_together(servers: Servers) -> None:
    url = servers.url("redis")
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    link, prefix = RedisLink(url), f"test-{secrets.token_hex(6)}"
    index = RedisIndex(link, prefix=prefix, ttl_s=50.0)
    try:
        await index.check()
    except SetupError as error:
        await link.close()
        pytest.skip(error.message)
    await index.add("p", Kept("a", "A?", "a", np.array([0.6, 0.8], np.float32)))
    keys = sorted(await link.execute("KEYS", f"{prefix}:*"))
    assert [key.rpartition(b":")[2] for key in keys] == [b"normals", b"texts", b"vectors"]
    for key in keys:
        assert 0 < int(await link.execute("PTTL", key)) <= 50_000
    await link.close()


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
