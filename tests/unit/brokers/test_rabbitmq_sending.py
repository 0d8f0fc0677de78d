"""What a RabbitMQ that refuses one queue costs the messages for others: nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from aiormq import exceptions as amqp
from aiormq import spec

from forebay.brokers.port import Message
from forebay.brokers.rabbitmq_link import Session
from forebay.brokers.rabbitmq_queues import Queues
from forebay.brokers.rabbitmq_sending import send
from forebay.brokers.rabbitmq_url import parse_url
from forebay.brokers.refusals import Refusals


class Gone:
    """Queues of which `bad` was there, was deleted, and may not be made again."""

    is_known = True

    async def need_dead(self) -> None:
        """It is there."""

    async def need(self, queue: str, level: int) -> str:
        if queue == "bad" and not self.is_known:
            raise amqp.ChannelAccessRefused("refused")
        return queue

    def forget(self, name: str) -> None:
        self.is_known = False


async def test_messages_of_one_call_are_confirmed_though_the_queue_of_others_is_gone_and_may_not_be_made() -> None:
    async def basic_publish(body: bytes, *, routing_key: str, **options: Any) -> spec.Basic.Ack:
        if routing_key == "bad":
            returned = spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="bad")
            raise amqp.PublishError(cast(Any, SimpleNamespace(delivery=returned)), returned)
        return spec.Basic.Ack(1)

    publishing = SimpleNamespace(basic_publish=basic_publish)
    session = cast(Session, SimpleNamespace(publishing=publishing, address=parse_url("amqp://127.0.0.1/")))
    packs = [[Message("1", "bad", b"")], [Message("2", "good", b"")]]
    queues = cast(Queues, Gone())
    for _ in range(2):
        assert await send(queues, session, packs, Refusals()) == [False, True]
