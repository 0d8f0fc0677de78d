"""The queues of one house in an SQS."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from tests.contract.brokers.moto_servers import MotoServer, sqs_url
from tests.contract.brokers.sqs import by_hand

from forebay.brokers.port import Message
from forebay.brokers.sqs import Sqs

COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")


class SqsCarrier:
    """Queues with a prefix of their own. `url` names both."""

    def __init__(self, server: MotoServer | None = None) -> None:
        """`server`: the one that they are in; else it is one that others use too."""
        self._prefix = f"test-{secrets.token_hex(6)}"
        self.url = sqs_url(self._prefix, server=server)

    def left(self) -> dict[str, int]:
        """What is in its queues, that of dead letters too, by their names; then they are deleted."""
        return asyncio.run(self._left())

    def is_empty(self) -> bool:
        """Nothing waits, nothing is held."""
        return asyncio.run(self._left(deletes=False)) == {}

    async def _left(self, *, deletes: bool = True) -> dict[str, int]:
        left: dict[str, int] = {}
        async with by_hand(self.url) as client:
            for queue in (await client.list_queues(QueueNamePrefix=self._prefix)).get("QueueUrls", ()):
                told = (await client.get_queue_attributes(QueueUrl=queue, AttributeNames=list(COUNTS)))["Attributes"]
                if count := sum(int(told[name]) for name in COUNTS):
                    left[queue.rpartition("/")[2].removeprefix(f"{self._prefix}-")] = count
                if deletes:
                    await client.delete_queue(QueueUrl=queue)
        return left

    def publish(self, messages: Sequence[Message], times: int) -> None:
        """Publish messages again and again, each time in one call."""

        async def publish() -> None:
            broker = Sqs(self.url)
            for _ in range(times):
                assert all(await broker.publish(messages))
            await broker.close()

        asyncio.run(publish())
