"""`Kafka` under the contract of brokers, with topics of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

from confluent_kafka.admin import AdminClient
from tests.contract.brokers.connections import Service
from tests.contract.brokers.tansu import is_real, kafka_url

from forebay.brokers.kafka import Kafka
from forebay.brokers.kafka_inbox import Inbox
from forebay.brokers.kafka_topics import Place, group_name
from forebay.brokers.port import PRIORITY_LEVELS, Broker, Confirmed, Delivery, Depth, Message

KINDS = {"kafka": 1, "kafka-packs": 32}
"""How many messages share one at most."""
_SETTLED_S = 25.0
_LOOK_S = 0.01


class Ends:
    """How far partitions reach, by what was confirmed."""

    def __init__(self) -> None:
        self.known: dict[Place, int] = {}


class Attentive(Kafka):
    """Leases only when it is in the group and has fetched all that was confirmed in its partitions: so that what comes
    or does not come is no matter of how long a group takes to meet, and a test that expects nothing means it."""

    def __init__(self, url: str, ends: Ends, pack_jobs: int = 32) -> None:
        super().__init__(url, pack_jobs=pack_jobs)
        self._ends = ends

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        confirmed = await super().publish(messages)
        for place, (end, _) in self._link.topics._seen.items():
            self._ends.known[place] = max(end, self._ends.known.get(place, 0))
        return confirmed

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        if most and (found := await super().lease(queues, most, 0.0, lease_s)):
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLED_S if most else 0.0):
                while not self._closed and not all([await self._has_all(queue) for queue in queues]):
                    await asyncio.sleep(_LOOK_S)
        return await super().lease(queues, most, wait_s, lease_s)

    async def depth(self, queue: str) -> Depth:
        await self._link.reach()
        if not is_real():
            # A Tansu tells of ends that are too low, but to who has published itself.
            for (topic, number), end in self._ends.known.items():
                self._link.topics.confirmed(topic, number, end - 1)
        return await super().depth(queue)

    async def _has_all(self, queue: str) -> bool:
        inboxes = [self._inboxes.get((queue, level)) for level in range(PRIORITY_LEVELS)]
        return all([inbox is not None and await self._has_fetched(inbox) for inbox in inboxes])

    async def _has_fetched(self, inbox: Inbox) -> bool:
        if not inbox.joined:
            return False
        ends = {place: self._ends.known.get(place, 0) for place in inbox.parts.places()}
        behind = [place for place, end in ends.items() if inbox.parts.reached(place) < end]
        if not behind:
            return True
        done = await self._link.topics.begins(group_name(inbox.topic), behind, ends)
        return all(done[place] >= ends[place] for place in behind)


@contextlib.asynccontextmanager
async def topics_of_its_own(options: str = "") -> AsyncIterator[str]:
    """A URL with a prefix that nobody else has; see `deleted`."""
    prefix = f"test-{secrets.token_hex(6)}"
    url = kafka_url(prefix, options)
    yield url
    await asyncio.to_thread(deleted, url, prefix)


def deleted(url: str, prefix: str) -> None:
    """Delete the topics of a prefix on a real cluster. A Tansu keeps them until it ends: whoever still fetched from
    them would not survive what it answers."""
    if not is_real():
        return
    admin = AdminClient({"bootstrap.servers": url.partition("//")[2].partition("/")[0]})
    if names := [name for name in admin.list_topics(timeout=10).topics if name.startswith(f"{prefix}.")]:
        for answer in admin.delete_topics(names).values():
            answer.result(10)


@contextlib.asynccontextmanager
async def kafka(kind: str) -> AsyncIterator[Service]:
    """An empty broker."""
    brokers: list[Kafka] = []
    ends = Ends()
    async with topics_of_its_own() as url:

        async def connect() -> Broker:
            brokers.append(Attentive(url, ends, KINDS[kind]))
            return brokers[-1]

        async def pass_s(seconds: float) -> None:
            """What is held is held until its partition is another's."""

        yield Service(connect, pass_s)
        for broker in brokers:
            await broker.close()
