"""`Kafka`: topics of a Kafka cluster, beside a store of records.

Messages that are published in one call travel in packs. A worker has partitions of a model's topics for as long as it
is in the model's group, and tells how far it is done with each: a message is done with when all before it are. Kafka
takes nothing back, so what is given back is published anew.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError

from forebay.brokers.kafka_dead import DeadLetters
from forebay.brokers.kafka_errors import FAILURES, UNKNOWN_TOPICS, failure, is_refusal, is_too_large, setup_failure
from forebay.brokers.kafka_inbox import Inbox, taken
from forebay.brokers.kafka_link import KafkaLink
from forebay.brokers.kafka_parts import Part
from forebay.brokers.kafka_sending import Record
from forebay.brokers.kafka_topics import dead_name, group_name, topic_name
from forebay.brokers.kafka_url import KafkaAddress, parse_url
from forebay.brokers.packs import Pack, each_confirmed, packed, portions
from forebay.brokers.port import PRIORITY_LEVELS, Capabilities, Confirmed, Delivery, Depth, Message
from forebay.brokers.refusals import Refusals
from forebay.core.errors import DependencyError
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

PACK_JOBS: Final = 32
PACK_BYTES: Final = 64 << 10
"""Most of one record."""
SPREAD_JOBS: Final = 8
"""Of a burst, parted so that each worker gets some, so many stay together."""
STEADY_S: Final = 0.1
"""What follows other messages so soon is no burst: the partitions take turns with whole packs, each of which costs a
round trip, since a broker answers the requests of one connection one after the other."""
IDLE_S: Final = 30.0
"""Who has not leased from a model for so long, and has nothing of it, leaves its partitions to others."""


class Kafka:
    """A `Broker`. It is connected to when it is first used."""

    def __init__(
        self,
        url: str,
        *,
        pack_jobs: int = PACK_JOBS,
        pack_bytes: int = PACK_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `SetupError` for a URL that no Kafka can have. `clock`: tells a burst from what keeps coming."""
        self._clock = clock
        self.capabilities = Capabilities(
            "offset", extends=False, orders=False, counts="packs" if pack_jobs > 1 else "messages"
        )
        self.address: KafkaAddress = parse_url(url)
        self._pack_jobs, self._pack_bytes = pack_jobs, pack_bytes
        self._link = KafkaLink(self.address)
        self._dead = DeadLetters(self._link, self._send)
        self._inboxes: dict[tuple[str, int], Inbox] = {}
        self._turn = random.randrange(1 << 16)
        """Which partition is next."""
        self._published_s: dict[str, float] = {}
        """When something was last, by topic."""
        self._arrival = asyncio.Event()
        self._alone, self._unsent = Refusals[str](), Refusals[str]()
        """Queues that nothing is taken from, and topics that nothing can be sent to, while others can be used."""
        self._leases = Counter[str]()
        """Calls of `lease` that are under way, by queue."""
        self._left_s: dict[str, float] = {}
        """When the last of a queue's leases ended."""
        self._idling: asyncio.TimerHandle | None = None
        self._side: set[asyncio.Task[None]] = set()
        """What is done meanwhile: consumers that end, dead letters that are sent."""
        self._closed = False

    async def check(self) -> str:
        """Name and size of the cluster, once it is seen that topics can be made there. Raises `SetupError` where an
        operator has something to mend, else `DependencyError`."""
        try:
            await self._link.reach()
        except DependencyError as error:
            raise self._link.setup_failure() or error from None
        try:
            await self._link.topics.need(dead_name(self.address))
        except FAILURES as error:
            raise setup_failure(error, self.address) or failure(error, self.address) from None
        return self._link.cluster

    # -- the port -----------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        """In packs, all on their way together. Of none it tells, by raising, that the brokers are known to be away."""
        await self._open()
        if not messages:
            return []
        places = {
            (message.queue, message.level): topic_name(self.address, message.queue, message.level)
            for message in messages
        }
        partitions = await self._partitions_of(places)
        share = self._pack_jobs
        steady_s = self._clock() - STEADY_S
        if any(self._published_s.get(topic, -math.inf) < steady_s for topic in partitions):
            # Each partition gets some of a burst: it may be another worker's.
            share = max(SPREAD_JOBS, -(-len(messages) // max(partitions.values())))
        self._published_s.update(dict.fromkeys(partitions, self._clock()))
        sendable = [at for at, message in enumerate(messages) if places[message.queue, message.level] in partitions]
        packs = [
            [sendable[at] for at in positions]
            for positions in portions([messages[at] for at in sendable], min(self._pack_jobs, share), self._pack_bytes)
        ]

        async def send_at(packs: Sequence[Sequence[int]]) -> Sequence[Confirmed]:
            records = []
            for positions in packs:
                first = messages[positions[0]]
                topic = places[first.queue, first.level]
                number = self._partition(first.id, partitions[topic])
                records.append(Record(topic, number, packed([messages[at] for at in positions])))
            return await self._send(records)

        try:
            return await each_confirmed(packs, len(messages), send_at)
        finally:
            self._published_s.update(dict.fromkeys(partitions, self._clock()))

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """What has come, or comes next, of the partitions that are ours. The first lease from a queue joins its group,
        which takes some seconds."""
        names, until_s = list(dict.fromkeys(queues)), time.monotonic() + wait_s
        await self._open()
        if not names or most < 1:
            return []
        self._leases.update(names)
        try:
            inboxes = await self._listen(names)
            while True:
                arrival, changed = self._arrival, self._link.changed
                found = taken(inboxes, most)
                if found:
                    return found
                left_s = until_s - time.monotonic()
                if left_s > 0:
                    self._look_for_errors(inboxes)
                if not self._alone.to_ask(names):
                    raise DependencyError(self._alone.why(names), code="broker_unavailable")
                if left_s <= 0:
                    return found
                await _either(arrival, changed, left_s)
                self._check_open()
                if (error := self._link.is_away()) is not None:
                    raise error
        finally:
            self._leave(names)

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """Nothing to do: they are ours until their partitions are not."""
        self._check_open()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with when all before them are. The broker is told within a fraction of a second."""
        self._check_open()
        for pack, at in (one.receipt for one in deliveries):
            pack.settle(at, "done")
            self._end(pack)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Published anew, at the ends of their queues; where that fails, they are leased from here again."""
        self._check_open()
        packs: dict[Pack, None] = {}
        for pack, at in (one.receipt for one in deliveries):
            if pack.settle(at, "given back"):
                packs[pack] = None
        await self._send_anew(list(packs))

    async def depth(self, queue: str) -> Depth:
        """What other workers have counts as waiting, since only they know of it. A pack counts as one message."""
        await self._open()
        topics, link = [topic_name(self.address, queue, level) for level in range(PRIORITY_LEVELS)], self._link.topics
        try:
            counts = await link.need(*topics)
            places = [[(topic, number) for number in range(count)] for topic, count in zip(topics, counts, strict=True)]
            ends = await link.ends([place for level in places for place in level])
            if any(end < 0 for end in ends.values()):
                return Depth(-1)
            waiting = 0
            for level, (topic, its) in enumerate(zip(topics, places, strict=True)):
                inbox = self._inboxes.get((queue, level))
                here = {place: None if inbox is None else inbox.parts.waits(place, ends[place]) for place in its}
                others = [place for place in its if here[place] is None]
                begins = await link.begins(group_name(topic), others, ends) if others else {}
                waiting += sum(max(0, ends[place] - begin) for place, begin in begins.items())
                waiting += sum(count or 0 for count in here.values())
        except FAILURES as error:
            self._forget(topics, error)
            raise failure(error, self.address) from None
        return Depth(waiting)

    async def bury(self, messages: Sequence[Message]) -> Sequence[bool]:
        """To the topic of dead letters; its key is the topic that it came in."""
        await self._open()
        return await self._dead.keep(messages)

    async def close(self) -> None:
        """Tell how far all is done with, and leave the groups."""
        if self._closed:
            return
        if self._idling is not None:
            self._idling.cancel()
        packs = [pack for inbox in self._inboxes.values() for pack in inbox.parts.begun()]
        for pack in packs:
            pack.give_back("kept", "held")
        await self._send_anew(packs)
        self._closed = True
        self._arrived()
        for work in self._side:
            work.cancel()
        await asyncio.gather(*(inbox.end() for inbox in self._inboxes.values()), *self._side, return_exceptions=True)
        await self._link.close()

    # -- packs --------------------------------------------------------------------------------------------------------

    def _end(self, pack: Pack) -> None:
        if pack.is_over and not pack.given_back():
            part: Part = pack.owner
            part.parts.done(part, pack.tag)

    async def _send_anew(self, packs: Sequence[Pack]) -> None:
        """What is given back of these, also where their partitions are not ours any more: who has those may have passed
        over the message while its job ran here."""
        taken = [pack.take_to_send() for pack in packs]
        messages = [pack.messages[at] for pack, places in zip(packs, taken, strict=True) for at in places]
        confirmed: Sequence[Confirmed] = [False] * len(messages)
        try:
            confirmed = await self.publish(messages)
        except DependencyError:
            pass
        finally:
            told = iter(confirmed)
            for pack, places in zip(packs, taken, strict=True):
                again = [at for at in places if not next(told)]
                pack.sent([at for at in places if at not in again], True)
                if again and not pack.owner.parts.put_back(pack, again):
                    pack.sent(again, False)  # the store's reaper sees to what nobody has
                self._end(pack)
            self._arrived()

    # -- consumers ----------------------------------------------------------------------------------------------------

    async def _listen(self, queues: Sequence[str]) -> list[list[Inbox]]:
        """The consumers of queues, by level. Of those that are refused only what came before is given out."""
        for queue in self._alone.to_ask(queues):
            topics = [topic_name(self.address, queue, level) for level in range(PRIORITY_LEVELS)]
            try:
                await self._link.topics.need(*topics)
            except FAILURES as error:
                if not is_refusal(error):
                    raise failure(error, self.address) from None
                self._leave_alone(queue, error)
                continue
            self._check_open()
            self._consume(queue)
        return [
            [self._inboxes[queue, level] for level in range(PRIORITY_LEVELS)]
            for queue in queues
            if (queue, 0) in self._inboxes
        ]

    def _consume(self, queue: str) -> None:
        """From all levels of a queue, whose topics are there."""
        for level in range(PRIORITY_LEVELS):
            if (queue, level) not in self._inboxes:
                self._inboxes[queue, level] = Inbox(
                    self.address, queue, level, self._arrived, self._begin_to_bury, self._link.blame, self._is_away
                )

    def _leave_alone(self, queue: str, error: BaseException | KafkaError) -> None:
        words = failure(error, self.address).message
        if self._alone.note(queue, words):
            names = fields(model=queue)
            log.error("no jobs of %s are taken; it is tried again, others go on: %s", queue, words, extra=names)

    def _begin_to_bury(self, part: Part, offset: int, body: bytes) -> None:
        self._aside(self._dead.bury(part, offset, body))

    def _leave(self, names: Sequence[str]) -> None:
        self._leases.subtract(names)
        for name in names:
            self._left_s[name] = time.monotonic()
            if not self._leases[name]:
                del self._leases[name]
        if self._idling is None and not self._closed:
            self._idling = asyncio.get_running_loop().call_later(IDLE_S, self._look_what_is_idle)

    def _look_what_is_idle(self) -> None:
        self._idling = None
        idle_s = time.monotonic() - IDLE_S
        for name in {name for name, _ in self._inboxes} - self._leases.keys():
            inboxes = [self._inboxes[name, level] for level in range(PRIORITY_LEVELS)]
            if self._left_s.get(name, 0.0) <= idle_s and not any(inbox.parts.holds() for inbox in inboxes):
                for level in range(PRIORITY_LEVELS):
                    self._aside(self._inboxes.pop((name, level)).end())
        if self._inboxes and not self._closed:
            self._idling = asyncio.get_running_loop().call_later(IDLE_S / 2, self._look_what_is_idle)

    def _look_for_errors(self, inboxes: Sequence[Sequence[Inbox]]) -> None:
        """A queue that has one is left alone, and what it brings all the same is given out."""
        for inbox in [inbox for levels in inboxes for inbox in levels]:
            if (error := inbox.error) is not None:
                inbox.error = None
                self._forget([inbox.topic], error)
                self._leave_alone(inbox.queue, error)

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _partitions_of(self, places: Mapping[tuple[str, int], str]) -> dict[str, int]:
        """How many each topic has. Those that are refused are left out, unless all are, which is raised."""
        try:
            return dict(zip(places.values(), await self._link.topics.need(*places.values()), strict=True))
        except FAILURES as error:
            failed = failure(error, self.address)
            if len(places) == 1 or not is_refusal(error):
                raise failed from None
        found: dict[str, int] = {}
        for (queue, _), topic in places.items():
            try:
                [found[topic]] = await self._link.topics.need(topic)
            except FAILURES as error:
                failed = failure(error, self.address)
                if not is_refusal(error):
                    raise failed from None
                if self._unsent.note(topic, failed.message):
                    log.error("jobs for topic %s are not sent: %s", topic, failed.message, extra=fields(model=queue))
        if not found:
            raise failed
        return found

    async def _send(self, records: Sequence[Record]) -> list[Confirmed]:
        confirmed: list[Confirmed] = []
        for record, offset, error in await self._link.sender.send(records):
            confirmed.append(None if is_too_large(error) else error is None)
            if error is None:
                self._link.topics.confirmed(record.topic, record.partition, offset)
            elif is_too_large(error):
                self._link.topics.is_small_for(record.topic, len(record.body))
            else:
                log.debug("a message to %s was not confirmed: %s", record.topic, error)
                # It may be gone, which is not always told as such.
                self._link.topics.forget(record.topic)
                self._link.blame(error)
        return confirmed

    def _partition(self, id: str, count: int) -> int:
        """One after the other; where messages are alone, those of one id follow each other."""
        if self._pack_jobs == 1:
            return zlib.crc32(id.encode()) % count
        self._turn += 1
        return self._turn % count

    def _forget(self, topics: Sequence[str], error: Any) -> None:
        """Look for topics again before they are used, where the error says that one may be gone."""
        told = error.args[0] if isinstance(error, BaseException) and error.args else error
        if getattr(told, "code", lambda: None)() in UNKNOWN_TOPICS:
            for topic in topics:
                self._link.topics.forget(topic)

    async def _open(self) -> None:
        """Raises `DependencyError` where this is closed, or the brokers are known to be away."""
        self._check_open()
        await self._link.reach()

    def _is_away(self) -> bool:
        return self._link.is_away() is not None

    def _check_open(self) -> None:
        if self._closed:
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")

    def _arrived(self) -> None:
        """Whoever waits looks again."""
        self._arrival.set()
        self._arrival = asyncio.Event()

    def _aside(self, work: Any) -> None:
        doing = asyncio.ensure_future(work)
        self._side.add(doing)
        doing.add_done_callback(self._side.discard)


async def _either(one: asyncio.Event, other: asyncio.Event, within_s: float) -> None:
    waiting = [asyncio.ensure_future(each.wait()) for each in (one, other)]
    try:
        await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
