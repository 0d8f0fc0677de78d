"""The queues of one house in a RabbitMQ."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import aio_pika

from forebay.brokers.port import Message
from forebay.brokers.rabbitmq import RabbitMq

LEVELS = ("high", "normal", "low")


class Carrier:
    """Queues of some models with a prefix of their own. `url` names both."""

    def __init__(self, url: str, *models: str) -> None:
        """Without `models`: of `tallied`."""
        self._models = models or ("tallied",)
        self._plain_url, self._prefix = url, f"test-{secrets.token_hex(6)}"
        self.url = f"{url}?prefix={self._prefix}"

    def left(self) -> dict[str, int]:
        """What is in its queues, those of dead letters too, by their names; then they are deleted. Whoever held
        something must have ended."""
        return asyncio.run(self._left())

    async def _left(self) -> dict[str, int]:
        left: dict[str, int] = {}
        async with await aio_pika.connect(self._plain_url) as connection:
            for queue in [*(f"{model}.{level}" for model in self._models for level in LEVELS), "dead"]:
                channel = await connection.channel()
                name = f"{self._prefix}.{queue}"
                try:
                    declared = await channel.declare_queue(name, passive=True)
                except aio_pika.exceptions.ChannelNotFoundEntity:
                    continue
                if count := declared.declaration_result.message_count:
                    left[queue] = count
                await channel.queue_delete(name)
            await (await connection.channel()).exchange_delete(f"{self._prefix}.dead")
        return left

    def publish(self, messages: Sequence[Message], times: int) -> None:
        """Publish messages again and again, each time in one call."""

        async def publish() -> None:
            broker = RabbitMq(self.url)
            for _ in range(times):
                assert all(await broker.publish(messages))
            await broker.close()

        asyncio.run(publish())
