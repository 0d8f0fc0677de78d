"""What tests of an embedded Valkey ask it, and what they wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from forebay.brokers.embedded import EmbeddedValkey


@contextlib.asynccontextmanager
async def client(store: EmbeddedValkey) -> AsyncIterator[Any]:
    """A connection that does not retry by itself."""
    connection = redis.Redis.from_url(store.url, decode_responses=True, retry=Retry(NoBackoff(), 0))
    try:
        yield connection
    finally:
        await connection.aclose()


async def until(store: EmbeddedValkey, state: str, other_than: int = 0) -> None:
    """Wait until the store is in a state, with another process than one that it had."""
    async with asyncio.timeout(30):
        # One that has just died has no pid, and is called ready until its watch has seen that.
        while store.state != state or store.pid in (other_than, 0 if state == "ready" else other_than):
            await asyncio.sleep(0.005)
