"""`RedisJobs` under the contract: one server of each kind, and a cluster with several shards."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.contract.jobs.redis_servers import Servers
from tests.contract.jobs.stores import Store

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.redis_jobs import RedisJobs

SHARDS = {"valkey": 1, "redis": 1, "cluster": 5}
MOVED_CLOCK = "{redis.call('TIME')[1] + (redis.call('GET', KEYS[1] .. 'passed') or 0), redis.call('TIME')[2]}"
"""The server's clock, which a test moves on."""


@contextlib.asynccontextmanager
async def redis_store(servers: Servers, kind: str) -> AsyncIterator[Store]:
    """An empty store of a kind: its keys are its own."""
    url = servers.url(kind)
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    prefix, shards = f"test-{secrets.token_hex(6)}", SHARDS[kind]
    here, there = RedisLink(url), RedisLink(url)
    jobs, other = (RedisJobs(link, shards=shards, prefix=prefix, clock=MOVED_CLOCK) for link in (here, there))

    async def pass_s(seconds: float) -> None:
        for shard in range(shards):
            await here.execute("INCRBY", f"{prefix}:{{s{shard}}}:passed", round(seconds))

    yield Store(jobs, other, pass_s, orders=shards == 1, bounds_exactly=shards == 1)
    for store, link in ((jobs, here), (other, there)):
        await store.close()
        await link.close()
