"""`RedisStreams` under the contract of brokers: each kind of server, with keys of its own and a clock that moves."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.contract.brokers.connections import Service
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.port import Broker
from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_streams import RedisStreams

KINDS = ("valkey", "redis", "cluster")
GROUP = "workers"
AGE = """
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 100000)
for _, row in ipairs(pending.err and {} or pending) do
  redis.call('XCLAIM', KEYS[1], ARGV[1], row[2], 0, row[1], 'IDLE', row[3] + ARGV[2], 'JUSTID')
end
"""
"""Makes everything that is held in a stream older by milliseconds, as if the server's clock had moved on."""


@contextlib.asynccontextmanager
async def redis_streams(servers: Servers, kind: str) -> AsyncIterator[Service]:
    """An empty broker of a kind."""
    url = servers.url(kind)
    if url is None:
        pytest.skip("there is no redis-server on this machine")
    prefix = f"test-{secrets.token_hex(6)}"
    brokers: list[RedisStreams] = []
    links = [RedisLink(url, code="broker_unavailable")]

    async def connect() -> Broker:
        links.append(RedisLink(url, code="broker_unavailable"))
        brokers.append(RedisStreams(links[-1], prefix=prefix))
        return brokers[-1]

    async def pass_s(seconds: float) -> None:
        for stream in {stream for broker in brokers for stream in broker._streams}:
            await links[0].execute("EVAL", AGE, 1, stream, GROUP, round(seconds * 1000))

    yield Service(connect, pass_s)
    for broker in brokers:
        await broker.close()
    for link in links:
        await link.close()
