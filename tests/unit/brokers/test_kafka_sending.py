"""What becomes of messages to a Kafka while the client library fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from forebay.brokers import kafka_sending
from forebay.brokers.kafka_sending import Record, Sender
from forebay.brokers.kafka_url import parse_url


class Fatal:
    """A producer that takes nothing any more."""

    def produce(self, *record: object, on_delivery: Callable[[object, object], None]) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL))

    def poll(self, within_s: float) -> int:
        return 0

    def purge(self) -> None:
        """Nothing is on its way."""

    def __len__(self) -> int:
        return 0


class Good(Fatal):
    """One whose messages are confirmed at once."""

    def produce(self, *record: object, on_delivery: Callable[[object, object], None]) -> None:
        on_delivery(None, None)


async def test_who_sends_while_no_new_producer_can_be_made_is_told_of_what_was_not_sent_and_later_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    can_be_made: list[Fatal] = [Fatal()]

    def made(settings: object, logger: object) -> Fatal:
        if not can_be_made:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "ssl.ca.location failed"))
        return can_be_made.pop()

    monkeypatch.setattr(kafka_sending, "Producer", made)
    sender = Sender(parse_url("kafka://127.0.0.1:1"), lambda error: None, lambda: None)
    for _ in range(2):
        [sent] = await sender.send([Record("topic", 0, b"")])
        assert sent.error is not None
    can_be_made.append(Good())
    [sent] = await sender.send([Record("topic", 0, b"")])
    assert sent.error is None
    sender.close()
