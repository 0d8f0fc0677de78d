"""What a session was sent and nobody was given yet.

A consumer a queue is sent as much as a batch or two take. While nobody leases, nothing may lie here that others could
run: consumers end then, and what they brought goes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from aiormq import exceptions as amqp
from aiormq.abc import DeliveredMessage

from forebay.brokers.packs import Pack, PackError, unpacked
from forebay.brokers.port import PRIORITY_LEVELS, Delivery
from forebay.brokers.rabbitmq_link import Session
from forebay.brokers.rabbitmq_queues import Queues, queue_name

log = logging.getLogger("forebay.jobs")

FEWEST_SENT: Final = 2
MOST_SENT: Final = 512
_LEARN: Final = 0.1
"""Weight of a new message in the mean of how many jobs one has."""

Place = tuple[str, int]
"""A queue and its level."""


class Inbox:
    """Of one session. `arrival` is set when something has come, and another put in its place."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.queues = Queues(session)
        self.arrival = asyncio.Event()
        self.packs: dict[int, Pack] = {}
        """All that is neither acked nor given back, by tag."""
        self._kept: defaultdict[Place, deque[Pack]] = defaultdict(deque)
        self._consumers: dict[Place, int] = {}
        """Those that run, with how many messages each may be ahead."""
        self._jobs_a_message = 1.0
        self._changing = asyncio.Lock()

    @property
    def ended(self) -> bool:
        """Whether the connection is gone, and all that came on it with it."""
        return self.session.ended.done()

    async def listen(self, names: Sequence[str], most: int) -> None:
        """Have the messages of these queues sent. Raises what aiormq does, and `DependencyError`."""
        places = [(name, level) for level in range(PRIORITY_LEVELS) for name in names]
        if all(place in self._consumers for place in places):
            return
        async with self._changing:
            ahead = max(FEWEST_SENT, min(MOST_SENT, round(2 * most / self._jobs_a_message)))
            await self.session.call(self.session.consuming.basic_qos(prefetch_count=ahead))
            for place in places:
                if place not in self._consumers:
                    await self._begin(place, ahead)

    def take(self, names: Sequence[str], most: int) -> list[Delivery]:
        """Up to `most` of what is here, the higher levels first."""
        found: list[Delivery] = []
        for level in range(PRIORITY_LEVELS):
            for name in names:
                kept = self._kept.get((name, level))
                while kept and len(found) < most:
                    found += kept[0].hand_out(most - len(found))
                    if not kept[0].kept:
                        kept.popleft()
        return found

    def kept_of(self, name: str) -> int:
        """Messages of one queue that are here, as the broker counts them: a pack is one."""
        return sum(len(self._kept[name, level]) for level in range(PRIORITY_LEVELS))

    async def rest(self) -> list[Pack]:
        """End the consumers. Packs of which something was kept; that is to be given back now."""
        async with self._changing:
            channel = self.session.consuming
            for place in list(self._consumers):
                tag = queue_name(self.session.address, *place)
                callback = channel.consumers.get(tag)
                await self.session.call(channel.basic_cancel(tag))
                del self._consumers[place]
                if callback is not None:
                    # What was on its way still comes; without a consumer it would lie there until the session ends.
                    channel.consumers[tag] = callback
        kept = [pack for packs in self._kept.values() for pack in packs if pack.give_back("kept")]
        self._kept.clear()
        return kept

    def end(self, pack: Pack, *, again: bool) -> None:
        """Be done with a pack, or have it delivered `again`, to anybody."""
        if self.packs.pop(pack.tag, None) is not None:
            channel = self.session.consuming
            self.session.run(
                channel.basic_nack(pack.tag, requeue=True, wait=False)
                if again
                else channel.basic_ack(pack.tag, wait=False)
            )

    async def _begin(self, place: Place, ahead: int) -> None:
        channel = self.session.consuming
        name = await self.queues.need(*place)
        self._consumers[place] = ahead

        async def deliver(message: DeliveredMessage) -> None:
            self._deliver(place, message)

        channel.consumers.pop(name, None)
        try:
            await self.session.call(channel.basic_consume(name, deliver, consumer_tag=name))
        except amqp.ChannelNotFoundEntity:
            self.queues.forget(name)
            raise

    def _deliver(self, place: Place, message: DeliveredMessage) -> None:
        tag = message.delivery_tag
        assert tag is not None
        try:
            messages = unpacked(message.body, *place)
        except PackError as error:
            log.error(
                "a message in %s is no job; it goes to the queue of dead letters: %s",
                queue_name(self.session.address, *place),
                error,
            )
            self.session.run(self.session.consuming.basic_reject(tag, requeue=False, wait=False))
            return
        if place not in self._consumers:
            self.session.run(self.session.consuming.basic_nack(tag, requeue=True, wait=False))
            return
        self._jobs_a_message += _LEARN * (len(messages) - self._jobs_a_message)
        pack = self.packs[tag] = Pack(messages, self, tag)
        self._kept[place].append(pack)
        self._wake()

    def _wake(self) -> None:
        self.arrival.set()
        self.arrival = asyncio.Event()
