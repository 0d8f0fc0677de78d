"""What a Kafka that refuses one model's topics or groups costs the others: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from forebay.brokers import kafka
from forebay.brokers.kafka import Kafka
from forebay.brokers.kafka_link import KafkaLink
from forebay.brokers.kafka_parts import Parts
from forebay.brokers.kafka_sending import Record
from forebay.brokers.packs import Pack, unpacked
from forebay.brokers.port import Message
from forebay.core.errors import DependencyError


class Cluster:
    """Stands for the link, its topics and its sender. `refused`: models whose topics are refused, and the error."""

    def __init__(self) -> None:
        self.topics = self.sender = self
        self.changed = asyncio.Event()
        self.refused: dict[str, int] = {}
        self.sent: list[str] = []

    async def reach(self) -> None:
        """It can be."""

    def is_away(self) -> None:
        """It is not."""

    def blame(self, error: KafkaError) -> None:
        """Nothing to do."""

    async def need(self, *names: str) -> list[int]:
        for name in names:
            if (code := self.refused.get(name.split(".")[1])) is not None:
                raise KafkaException(KafkaError(code, f"not {name}"))
        return [1] * len(names)

    async def send(self, records: Sequence[Record]) -> list[tuple[Record, int, None]]:
        self.sent += [message.id for record in records for message in unpacked(record.body, "", 1)]
        return [(record, 0, None) for record in records]

    def confirmed(self, topic: str, partition: int, offset: int) -> None:
        """Nothing to do."""

    def forget(self, topic: str) -> None:
        """Nothing to do."""


class Still:
    """Stands for a consumer."""

    def __init__(self, address: object, queue: str, level: int, *rest: object) -> None:
        self.queue, self.level, self.topic = queue, level, f"forebay.{queue}.{level}"
        self.parts = Parts()
        self.parts.given([(self.topic, 0)])
        self.error: KafkaError | None = None
        self.end = 0

    def comes(self, id: str) -> None:
        """A message is brought."""
        part = self.parts.expects((self.topic, 0), self.end)
        assert part is not None
        self.parts.add(part, self.end, Pack([Message(id, self.queue, b"")], part, self.end), 1)
        self.end += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    monkeypatch.setattr(kafka, "Inbox", Still)
    one = Kafka("kafka://127.0.0.1:1/")
    one._link = cast(KafkaLink, Cluster())
    return one


def cluster_of(broker: Kafka) -> Cluster:
    return cast(Cluster, broker._link)


def inbox_of(broker: Kafka, queue: str) -> Still:
    return cast(Still, broker._inboxes[queue, 1])


@pytest.mark.parametrize("code", [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED])
async def test_a_queue_whose_topics_are_refused_holds_up_no_other(
    broker: Kafka, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    cluster_of(broker).refused["bad"] = code
    assert not await broker.lease(["bad", "good"], 1, 0.0, 15.0)
    for id in ("1", "2", "3"):
        inbox_of(broker, "good").comes(id)
        assert [delivery.message.id for delivery in await broker.lease(["bad", "good"], 2, 0.0, 15.0)] == [id]
    with pytest.raises(DependencyError, match=r"bad\.high") as caught:
        await broker.lease(["bad"], 1, 0.0, 15.0)
    assert caught.value.code == "broker_unavailable"
    assert caplog.text.count("no jobs of bad are taken; it is tried again, others go on") == 1


async def test_a_queue_whose_group_is_refused_holds_up_no_other_and_gives_out_what_it_brings(broker: Kafka) -> None:
    await broker.lease(["bad", "good"], 1, 0.0, 15.0)
    bad, good = inbox_of(broker, "bad"), inbox_of(broker, "good")
    bad.error = cast(Any, KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    waiting = asyncio.create_task(broker.lease(["bad", "good"], 1, 10.0, 15.0))
    await asyncio.sleep(0.01)
    good.comes("1")
    broker._arrived()
    assert [delivery.message.id for delivery in await waiting] == ["1"]
    with pytest.raises(DependencyError, match="lacks a permission"):
        await broker.lease(["bad"], 1, 10.0, 15.0)
    bad.comes("2")
    assert [delivery.message.id for delivery in await broker.lease(["bad"], 1, 0.0, 15.0)] == ["2"]


async def test_what_is_away_for_all_is_raised_for_all(broker: Kafka) -> None:
    cluster_of(broker).refused["bad"] = KafkaError._TRANSPORT
    with pytest.raises(DependencyError, match="cannot be reached"):
        await broker.lease(["good", "bad"], 1, 0.0, 15.0)
    cluster_of(broker).refused.clear()
    assert not await broker.lease(["bad"], 1, 0.0, 15.0)


async def test_messages_of_one_call_are_confirmed_though_the_topic_of_others_is_refused(
    broker: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    cluster_of(broker).refused["bad"] = KafkaError.UNKNOWN_TOPIC_OR_PART
    mixed = [Message("1", "good", b""), Message("2", "bad", b""), Message("3", "other", b"")]
    for _ in range(2):
        assert list(await broker.publish(mixed)) == [True, False, True]
    assert cluster_of(broker).sent == ["1", "3"] * 2
    assert caplog.text.count("jobs for topic forebay.bad.normal are not sent") == 1
    with pytest.raises(DependencyError, match=r"bad\.normal"):
        await broker.publish(mixed[1:2])
