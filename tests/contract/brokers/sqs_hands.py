"""An SQS as an operator sees it, with the queues of one URL, and a broker that is closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.contract.brokers.sqs import MovedClock, by_hand
from tests.contract.brokers.test_broker import PATIENCE_S

from forebay.brokers.sqs import PACK_BYTES, PACK_JOBS, Sqs
from forebay.brokers.sqs_url import parse_url


@contextlib.asynccontextmanager
async def connected(
    url: str, clock: MovedClock | None = None, pack_jobs: int = PACK_JOBS, pack_bytes: int = PACK_BYTES
) -> AsyncIterator[Sqs]:
    """Closed in the end."""
    broker = Sqs(url, pack_jobs=pack_jobs, pack_bytes=pack_bytes, clock=clock or MovedClock())
    try:
        yield broker
    finally:
        await broker.close()


async def queue_url(url: str, name: str) -> str:
    async with by_hand(url) as client:
        return str((await client.get_queue_url(QueueName=f"{parse_url(url).prefix}-{name}"))["QueueUrl"])


async def bodies(url: str, name: str) -> list[str]:
    """Of what anybody can have of a queue now; it is held for a second."""
    async with by_hand(url) as client:
        found: list[str] = []
        queue = await queue_url(url, name)
        while got := (await client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=1)).get(
            "Messages"
        ):
            found += [message["Body"] for message in got]
        return found


async def counts(url: str, name: str, visible: int, held: int = 0) -> None:
    """Wait until a queue has so many messages."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    async with by_hand(url) as client, asyncio.timeout(PATIENCE_S):
        queue = await queue_url(url, name)
        while True:
            told = (await client.get_queue_attributes(QueueUrl=queue, AttributeNames=names))["Attributes"]
            if [int(told[each]) for each in names] == [visible, held]:
                return
            await asyncio.sleep(0.05)
