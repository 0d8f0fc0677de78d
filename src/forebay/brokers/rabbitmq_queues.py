"""What Forebay has in a RabbitMQ: a quorum queue for each model and level, and one for what cannot be read."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any, Final

from aiormq import exceptions as amqp
from aiormq.channel import Channel

from forebay.brokers.rabbitmq_link import Session
from forebay.brokers.rabbitmq_url import RabbitAddress

log = logging.getLogger("forebay.jobs")

_SETTLED_S: Final = 2.0
"""A queue that was seen first so long ago is one that works: another connection's may be seen before it does."""
LEVELS: Final = ("high", "normal", "low")
_NAME_BYTES = 200
_DELIVERIES: Final = 2_000_000_000
"""From 4.0 a message that was delivered so often, 20 times where nothing is said, leaves its queue. Ours are given back
for reasons that are not theirs, so the limit is one that is never met, in a form that 3.13 takes too."""


def queue_name(address: RabbitAddress, queue: str, level: int) -> str:
    """Where messages of a model's level wait."""
    if len(queue.encode()) > _NAME_BYTES - len(address.prefix.encode()):
        queue = hashlib.sha256(queue.encode()).hexdigest()
    return f"{address.prefix}.{queue}.{LEVELS[level]}"


def dead_name(address: RabbitAddress) -> str:
    """The exchange and the queue of what cannot be read."""
    return f"{address.prefix}.dead"


REFUSALS: Final = (amqp.ChannelAccessRefused, amqp.ChannelLockedResource, amqp.ChannelPreconditionFailed)
"""Why a queue can be neither found nor made, while others can."""


class Queues:
    """Makes sure of queues, once a session."""

    def __init__(self, session: Session) -> None:
        self._session, self._address = session, session.address
        self._known: dict[str, float] = {}
        """When each was first seen."""

    async def need(self, queue: str, level: int) -> str:
        """The name of a queue that is there. Raises what aiormq does, and `DependencyError`."""
        name = queue_name(self._address, queue, level)
        if name not in self._known:
            await self.count(queue, level)
        return name

    async def count(self, queue: str, level: int) -> int:
        """How many messages wait in a queue, which is made where it is not there."""
        await self.need_dead()
        name = queue_name(self._address, queue, level)
        waiting = await self._declare(name, self._arguments())
        self._known.setdefault(name, time.monotonic())
        return waiting

    def is_new(self, name: str) -> bool:
        """Whether it may only be about to work: then it refuses what is sent there."""
        return time.monotonic() < self._known.get(name, 0.0) + _SETTLED_S

    def forget(self, name: str) -> None:
        """It is not there any more."""
        self._known.pop(name, None)

    def _arguments(self) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-max-length": self._address.max_length,
            "x-max-length-bytes": self._address.max_length_bytes,
            "x-delivery-limit": _DELIVERIES,
            "x-dead-letter-exchange": dead_name(self._address),
            "x-dead-letter-strategy": "at-least-once",
        }

    async def need_dead(self) -> None:
        """Make sure of the exchange and the queue of what cannot be read. Raises as `need`."""
        name = dead_name(self._address)
        if name in self._known:
            return
        await self._session.ask(lambda channel: channel.exchange_declare(name, exchange_type="fanout", durable=True))
        await self._declare(name, {"x-queue-type": "quorum"})
        await self._session.ask(lambda channel: channel.queue_bind(name, name))
        self._known[name] = time.monotonic()

    async def _declare(self, name: str, arguments: dict[str, Any]) -> int:
        async def ask(channel: Channel) -> int:
            declared = await channel.queue_declare(name, durable=True, arguments=arguments)
            return declared.message_count or 0

        async def look(channel: Channel) -> int:
            return (await channel.queue_declare(name, passive=True)).message_count or 0

        try:
            return await self._session.ask(ask)
        except amqp.ChannelPreconditionFailed as error:
            # It was made with other words: by an operator, or with another URL. It does, but says what it holds to.
            try:
                waiting = await self._session.ask(look)
            except amqp.ChannelNotFoundEntity:
                raise error from None  # there is none, and none may be made: the vhost may have its limit of them
            if name not in self._known:
                log.warning("queue %s was made otherwise than Forebay would, and is used as it is: %s", name, error)
            return waiting
