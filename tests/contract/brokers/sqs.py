"""`Sqs` under the contract of brokers, with queues of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from aiobotocore.session import AioSession
from tests.contract.brokers.connections import Service
from tests.contract.brokers.moto_servers import shared_server, sqs_url

from forebay.brokers.port import Broker
from forebay.brokers.sqs import Sqs
from forebay.brokers.sqs_url import parse_url

KINDS = {"sqs": (1, "no"), "sqs-packs": (32, "no"), "sqs-fifo": (32, "yes")}
"""How many messages share one at most, and whether queues are FIFO."""


class MovedClock:
    """That of who holds, which moves with the server's."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed_s

    async def pass_s(self, seconds: float) -> None:
        """Move both on. Where the server is not ours the time really passes."""
        server = shared_server()
        if server is None:
            await asyncio.sleep(seconds)
            return
        await asyncio.to_thread(server.pass_s, seconds)
        self.passed_s += seconds


@contextlib.asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[Any]:
    """A client of an operator's."""
    address = parse_url(url)
    making = AioSession().create_client(
        "sqs", region_name=address.region or None, endpoint_url=address.endpoint or None
    )
    async with making as client:
        yield client


@contextlib.asynccontextmanager
async def queues_of_its_own(**options: str) -> AsyncIterator[str]:
    """A URL with a prefix that nobody else has; its queues are deleted in the end."""
    prefix = f"test-{secrets.token_hex(6)}"
    url = sqs_url(prefix, None, **options)
    yield url
    async with by_hand(url) as client:
        for queue in (await client.list_queues(QueueNamePrefix=prefix)).get("QueueUrls", ()):
            await client.delete_queue(QueueUrl=queue)


@contextlib.asynccontextmanager
async def sqs(kind: str) -> AsyncIterator[Service]:
    """An empty broker."""
    pack_jobs, fifo = KINDS[kind]
    brokers: list[Sqs] = []
    clock = MovedClock()
    async with queues_of_its_own(fifo=fifo) as url:

        async def connect() -> Broker:
            brokers.append(Sqs(url, pack_jobs=pack_jobs, clock=clock))
            return brokers[-1]

        yield Service(connect, clock.pass_s)
        await asyncio.gather(*(broker.close() for broker in brokers))
