"""The topics of one house in a Kafka."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.contract.brokers.kafka import deleted
from tests.contract.brokers.tansu import kafka_url

from forebay.brokers.kafka import Kafka
from forebay.brokers.port import Message

LEVELS = ("high", "normal", "low")
_NOTHING_S = 1.0


class KafkaCarrier:
    """Topics of one model with a prefix of their own. `url` names both."""

    def __init__(self, model: str = "tallied") -> None:
        self._model = model
        self._prefix = f"test-{secrets.token_hex(6)}"
        self.url = kafka_url(self._prefix)
        self._settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.url.partition("//")[2].partition("/")[0]
        }

    def left(self) -> dict[str, int]:
        """What is in its topics and not done with, dead letters too, by their names; then they are deleted. Whoever
        held something must have ended."""
        there = AdminClient(self._settings).list_topics(timeout=10).topics
        left: dict[str, int] = {}
        for name in [*(f"{self._model}.{level}" for level in LEVELS), "dead"]:
            topic = f"{self._prefix}.{name}"
            if topic in there and (count := self._count(topic, len(there[topic].partitions))):
                left[name] = count
        deleted(self.url, self._prefix)
        return left

    def _count(self, topic: str, partitions: int) -> int:
        """Messages that are not done with. They are fetched: not every broker tells where a topic ends."""
        reader = Consumer(self._settings | {"group.id": topic, "enable.auto.commit": False})
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            done = reader.committed(places, timeout=10)
            reader.assign([TopicPartition(topic, each.partition, max(0, each.offset)) for each in done])
            count = 0
            while (message := reader.poll(_NOTHING_S)) is not None:
                assert message.error() is None
                count += 1
            return count
        finally:
            reader.close()

    def publish(self, messages: Sequence[Message], times: int) -> None:
        """Publish messages again and again, each time in one call."""

        async def publish() -> None:
            broker = Kafka(self.url)
            for _ in range(times):
                assert all(await broker.publish(messages))
            await broker.close()

        asyncio.run(publish())
