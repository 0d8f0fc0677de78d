"""`BrokeredQueue` under the contract of jobs: records in a Valkey, messages in a RabbitMQ, an SQS or in memory."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable

from tests.contract.brokers import sqs
from tests.contract.brokers.rabbit import queues_of_its_own
from tests.contract.jobs.redis_servers import Servers
from tests.contract.jobs.redis_stores import MOVED_CLOCK
from tests.contract.jobs.stores import Store, Together

from forebay.brokers.memory import HeldQueues, MemoryBroker
from forebay.brokers.port import Broker
from forebay.brokers.rabbitmq import RabbitMq
from forebay.brokers.redis_link import RedisLink
from forebay.brokers.sqs import Sqs
from forebay.jobs.redis_records import RedisRecords

SHARDS = {"valkey-rabbitmq": 1, "valkey-sqs": 1, "cluster-memory": 5}


@contextlib.asynccontextmanager
async def brokered_store(servers: Servers, kind: str) -> AsyncIterator[Store]:
    """An empty store of a kind: its keys and queues are its own."""
    url = servers.url(kind.partition("-")[0])
    assert url is not None
    prefix, shards = f"test-{secrets.token_hex(6)}", SHARDS[kind]
    here, there, clock = RedisLink(url), RedisLink(url), sqs.MovedClock()
    async with contextlib.AsyncExitStack() as stack:
        if kind == "valkey-rabbitmq":
            carrier = await stack.enter_async_context(queues_of_its_own())

            def connected() -> Broker:
                return RabbitMq(carrier)
        elif kind == "valkey-sqs":
            carrier = await stack.enter_async_context(sqs.queues_of_its_own())

            def connected() -> Broker:
                return Sqs(carrier, clock=clock)
        else:
            queues = HeldQueues(holds_items=False)

            def connected() -> Broker:
                return MemoryBroker(queues)

        jobs, other = (_together(link, connected, shards, prefix) for link in (here, there))

        async def pass_s(seconds: float) -> None:
            for shard in range(shards):
                await here.execute("INCRBY", f"{prefix}:{{s{shard}}}:passed", round(seconds))
            if kind == "valkey-sqs":
                await clock.pass_s(seconds)

        yield Store(jobs, other, pass_s, orders=kind == "valkey-rabbitmq", bounds_exactly=shards == 1)
        for store, link in ((jobs, here), (other, there)):
            await store.close()
            await link.close()


def _together(link: RedisLink, connected: Callable[[], Broker], shards: int, prefix: str) -> Together:
    records = RedisRecords(link, shards=shards, prefix=prefix, clock=MOVED_CLOCK)
    return Together(records, connected())
