"""`BrokeredQueue` under the contract of jobs: records in a Valkey, messages in a Kafka."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

from tests.contract.brokers.kafka import Attentive, Ends, topics_of_its_own
from tests.contract.jobs.redis_servers import Servers
from tests.contract.jobs.redis_stores import MOVED_CLOCK
from tests.contract.jobs.stores import Store, Together

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.redis_records import RedisRecords

KINDS = {"valkey-kafka"}


@contextlib.asynccontextmanager
async def kafka_store(servers: Servers, kind: str) -> AsyncIterator[Store]:
    """An empty store: its keys and topics are its own."""
    url = servers.url(kind.partition("-")[0])
    assert url is not None
    prefix, link = f"test-{secrets.token_hex(6)}", RedisLink(url)
    async with topics_of_its_own() as carrier:
        records = RedisRecords(link, shards=1, prefix=prefix, clock=MOVED_CLOCK)
        jobs = Together(records, Attentive(carrier, Ends()))

        async def pass_s(seconds: float) -> None:
            await link.execute("INCRBY", f"{prefix}:{{s0}}:passed", round(seconds))

        # A second consumer of a topic would get parts of it, which no other gets at while it does not look.
        yield Store(jobs, jobs, pass_s, orders=False)
        await jobs.close()
        await link.close()
