"""The topics of one house in a Kafka."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.contract.brokers.kafka import deleted
from tests.contract.brokers.tansu import kafka_url

from forebay.brokers.kafka import Kafka
from forebay.brokers.port import Message

LEVELS = ("high", "normal", "low")
_NOTHING_S = 2.0


class KafkaCarrier:
    """Topics of some models with a prefix of their own. `url` names both."""

    def __init__(self, *models: str) -> None:
        """Without `models`: of `tallied`."""
        self._models = models or ("tallied",)
        self._prefix = f"test-{secrets.token_hex(6)}"
        self.url = kafka_url(self._prefix)
        self._settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.url.partition("//")[2].partition("/")[0]
        }

    def left(self) -> dict[str, int]:
        """What is in its topics and not done with, dead letters too, by their names; then they may be deleted. Whoever
        held something must have ended."""
        admin = AdminClient(self._settings)
        there = admin.list_topics(timeout=10).topics
        kinds = [*(f"{model}.{level}" for model in self._models for level in LEVELS), "dead"]
        names = [f"{self._prefix}.{kind}" for kind in kinds]
        places: list[TopicPartition] = []
        for topic in [name for name in names if name in there]:
            asked = [TopicPartition(topic, number) for number in range(len(there[topic].partitions))]
            answers = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic, asked)])
            done = {each.partition: each.offset for each in answers[topic].result(10).topic_partitions}
            places += [TopicPartition(topic, each.partition, max(0, done.get(each.partition, 0))) for each in asked]
        left = self._count(places)
        deleted(self.url, self._prefix)
        return left

    def _count(self, places: Sequence[TopicPartition]) -> dict[str, int]:
        """Messages from there on. They are fetched: not every broker tells where a topic ends."""
        reader = Consumer(self._settings | {"group.id": f"{self._prefix}.left", "enable.auto.commit": False})
        found = Counter[str]()
        try:
            reader.assign(list(places))
            while (message := reader.poll(_NOTHING_S)) is not None:
                assert message.error() is None
                found[str(message.topic()).removeprefix(f"{self._prefix}.")] += 1
        finally:
            reader.close()
        return dict(found)

    def publish(self, messages: Sequence[Message], times: int) -> None:
        """Publish messages again and again, each time in one call."""

        async def publish() -> None:
            broker = Kafka(self.url)
            for _ in range(times):
                assert all(await broker.publish(messages))
            await broker.close()

        asyncio.run(publish())
