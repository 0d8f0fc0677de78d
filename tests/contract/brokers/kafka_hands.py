"""A Kafka as an operator sees it, with the topics of one URL, and brokers that are closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.contract.brokers.kafka import Attentive, Ends
from tests.contract.brokers.test_broker import LEASE_S, PATIENCE_S

from forebay.brokers.kafka import Kafka
from forebay.brokers.port import Broker, Delivery
from forebay.core.errors import DependencyError


@contextlib.asynccontextmanager
async def connected(url: str, pack_jobs: int = 32, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Kafka]:
    broker = Kafka(url, pack_jobs=pack_jobs, clock=clock)
    try:
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def attentive(url: str, ends: Ends) -> AsyncIterator[Kafka]:
    broker = Attentive(url, ends)
    try:
        yield broker
    finally:
        await broker.close()


def host_of(url: str) -> str:
    return url.partition("//")[2].partition("/")[0]


def topic_of(url: str, name: str) -> str:
    return f"{url.partition('?')[0].rpartition('/')[2]}.{name}"


def positions(url: str, name: str) -> list[int]:
    """How far a topic's partitions are done with; 0 where nobody has said so."""
    topic = topic_of(url, name)
    admin = AdminClient({"bootstrap.servers": host_of(url)})
    count = len(admin.list_topics(topic, timeout=10).topics[topic].partitions)
    reader = Consumer({"bootstrap.servers": host_of(url), "group.id": topic})
    try:
        found = reader.committed([TopicPartition(topic, number) for number in range(count)], timeout=10)
        return [max(0, each.offset) for each in found]
    finally:
        reader.close()


def read(url: str, name: str, count: int) -> list[bytes]:
    """So many messages of a topic's first partition."""
    reader = Consumer({"bootstrap.servers": host_of(url), "group.id": "looks", "auto.offset.reset": "earliest"})
    try:
        reader.assign([TopicPartition(topic_of(url, name), 0, 0)])
        found: list[bytes] = []
        while len(found) < count:
            message = reader.poll(PATIENCE_S)
            assert message is not None
            found.append(message.value() or b"")
        return found
    finally:
        reader.close()


async def patiently(broker: Broker, count: int, *queues: str) -> list[Delivery]:
    """So many deliveries, however often the broker is away meanwhile."""
    found: list[Delivery] = []
    async with asyncio.timeout(2 * PATIENCE_S):
        while len(found) < count:
            with contextlib.suppress(DependencyError):
                found += await broker.lease(queues or ["q"], count - len(found), 0.5, LEASE_S)
            await asyncio.sleep(0.01)
    return found
