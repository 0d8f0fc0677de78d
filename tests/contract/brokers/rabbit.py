"""`RabbitMq` under the contract of brokers, with queues of its own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import aio_pika
from tests.contract.brokers.connections import Service
from tests.contract.brokers.rabbit_nodes import rabbitmq_url

from forebay.brokers.port import Broker
from forebay.brokers.rabbitmq import RabbitMq

KINDS = {"rabbitmq": 1, "rabbitmq-packs": 32}
"""How many messages share one at most."""


@contextlib.asynccontextmanager
async def queues_of_its_own() -> AsyncIterator[str]:
    """A URL with a prefix that nobody else has; its queues are deleted in the end."""
    url = rabbitmq_url()
    prefix = f"test-{secrets.token_hex(6)}"
    yield f"{url}?prefix={prefix}"
    await deleted(url, prefix)


async def deleted(url: str, prefix: str) -> None:
    """Delete what tests make under a prefix. What is not there is deleted too, as far as RabbitMQ is concerned."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        for model in MODELS:
            for level in ("high", "normal", "low"):
                await channel.queue_delete(f"{prefix}.{model}.{level}")
        await channel.queue_delete(f"{prefix}.dead")
        await channel.exchange_delete(f"{prefix}.dead")


MODELS = ("q", "a", "b", "c", "none", "other", "m", "n", "x", "mlp")
"""Every queue that tests use."""


@contextlib.asynccontextmanager
async def rabbitmq(kind: str) -> AsyncIterator[Service]:
    """An empty broker."""
    brokers: list[RabbitMq] = []
    async with queues_of_its_own() as url:

        async def connect() -> Broker:
            brokers.append(RabbitMq(url, pack_jobs=KINDS[kind]))
            return brokers[-1]

        async def pass_s(seconds: float) -> None:
            """What is held is held until its connection ends."""

        yield Service(connect, pass_s)
        for broker in brokers:
            await broker.close()
