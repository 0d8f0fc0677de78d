"""The topic of what is no job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from forebay.brokers.kafka_errors import FAILURES, failure
from forebay.brokers.kafka_link import KafkaLink
from forebay.brokers.kafka_parts import Part
from forebay.brokers.kafka_sending import Record
from forebay.brokers.kafka_topics import dead_name, topic_name
from forebay.brokers.packs import packed
from forebay.brokers.port import Confirmed, Message
from forebay.core.errors import DependencyError

log = logging.getLogger("forebay.jobs")

_AGAIN_S = 1.0


class DeadLetters:
    """Keeps what an operator may want to look at. `send` hands over records."""

    def __init__(self, link: KafkaLink, send: Callable[[Sequence[Record]], Awaitable[Sequence[Confirmed]]]) -> None:
        self._link, self._send = link, send
        self._name = dead_name(link.address)

    async def keep(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Whether each was confirmed; its key is the topic that it came in. Raises `DependencyError`."""
        try:
            await self._link.topics.need(self._name)
        except FAILURES as error:
            raise failure(error, self._link.address) from None
        topics = [topic_name(self._link.address, message.queue, message.level) for message in messages]
        records = [Record(self._name, 0, packed([one]), topic) for one, topic in zip(messages, topics, strict=True)]
        return [told is True for told in await self._send(records)]

    async def bury(self, part: Part, offset: int, body: bytes) -> None:
        """Keep what cannot be read, then be done with it; also with what can never be kept, for which its partition's
        position would wait for ever."""
        topic, number = part.place
        where = f"{topic}/{number}/{offset}"
        while part.is_ours:
            try:
                await self._link.reach()
                await self._link.topics.need(self._name)
                [told] = await self._send([Record(self._name, 0, body, where)])
                if told is None:
                    log.error("the message at %s is no job, and too large for a dead letter: it is passed over", where)
                if told is not False:
                    part.parts.done(part, offset)
                    return
            except (*FAILURES, DependencyError) as error:
                log.warning("a message of %s waits to become a dead letter: %s", topic, error)
            await asyncio.sleep(_AGAIN_S)
