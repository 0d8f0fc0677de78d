"""`RabbitMq`: quorum queues of a RabbitMQ (4.x; 3.13 written for), beside a store of records.

Messages that are published in one call travel in packs. A pack is acked when each of its messages is done with; where
some are given back while others run, those are published anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from forebay.brokers.packs import Pack, each_confirmed, portions, settled
from forebay.brokers.port import PRIORITY_LEVELS, Capabilities, Confirmed, Delivery, Depth, Message
from forebay.brokers.rabbitmq_errors import FAILURES, failure, most_bytes_of, setup_failure, unavailable
from forebay.brokers.rabbitmq_inbox import Inbox, Place
from forebay.brokers.rabbitmq_link import RabbitLink, Session
from forebay.brokers.rabbitmq_sending import bury, send
from forebay.brokers.rabbitmq_url import RabbitAddress, parse_url
from forebay.brokers.refusals import Refusals
from forebay.core.errors import DependencyError

log = logging.getLogger("forebay.jobs")

PACK_JOBS: Final = 32
PACK_BYTES: Final = 64 << 10
"""Most of one message. Above a batch or two, packs would keep from one worker what another could run."""
IDLE_S: Final = 0.5
"""When nobody has leased from a queue for so long, what was sent ahead goes back."""
_LOOK_S = 0.05
_RENEW_S: Final = 1.0
"""A connection that breaks and is made anew within it is no failure to those who wait for jobs."""
_AT_ONCE: Final = 256
"""Messages that are on their way to the broker and not confirmed, of one call."""
_SEND_S = 20.0
"""More than each message may take to be confirmed."""
T = TypeVar("T")


class RabbitMq:
    """A `Broker`. It is connected to when it is first used."""

    def __init__(self, url: str, *, pack_jobs: int = PACK_JOBS, pack_bytes: int = PACK_BYTES) -> None:
        """Raises `SetupError` for a URL that no RabbitMQ can have."""
        self.capabilities = Capabilities(
            "connection", extends=False, orders=True, counts="packs" if pack_jobs > 1 else "messages"
        )
        self.address: RabbitAddress = parse_url(url)
        self._pack_jobs, self._pack_bytes = pack_jobs, pack_bytes
        self._link = RabbitLink(self.address, self._begin)
        self._most_bytes: int | None = None
        """Of a message, as far as the broker has refused a larger one: each that it refuses costs the session."""
        self._inbox: Inbox | None = None
        self._alone, self._unsent = Refusals[Place](), Refusals[Place]()
        """Queues of which nothing is sent here, or can be sent there, while others can be used."""
        self._leases = Counter[str]()
        """Calls of `lease` that are under way, by queue."""
        self._left_s: dict[str, float] = {}
        """When the last of a queue's leases ended, where something may have been sent ahead since."""
        self._idling: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None
        self._closed = False

    async def check(self) -> str:
        """Name and version of the broker, once it is seen that queues can be made and used there. Raises `SetupError`
        where an operator has something to mend, else `DependencyError`."""
        version = await self._link.check()
        try:
            await (await self._open()).queues.need_dead()
        except FAILURES as error:
            raise setup_failure(error, self.address) or failure(error, self.address) from None
        return version

    # -- the port -----------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        """In packs, all on their way together. Of none it tells, by raising, that the broker cannot be reached."""
        await self._open()

        async def send_at(packs: Sequence[Sequence[int]]) -> list[Confirmed]:
            sent = [[messages[at] for at in positions] for positions in packs]
            inbox = await self._open()
            try:
                return await self._send(inbox, sent)
            except DependencyError as error:
                # Which of the two is known depends on who heard of it first.
                if not self._refused_as_large(error.__cause__, inbox.session.reason):
                    raise
            await self._link.renewed(inbox.session, _RENEW_S)
            return await self._send(await self._open(), sent)

        packs = list(portions(messages, self._pack_jobs, self._pack_bytes))
        return await each_confirmed(packs, len(messages), send_at)

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """What was sent ahead, or what is sent next. Goes on with the next connection where one breaks."""
        names, until_s = list(dict.fromkeys(queues)), time.monotonic() + wait_s
        renew_until_s = max(until_s, time.monotonic() + _RENEW_S)
        inbox = await self._open()
        if not names or most < 1:
            return []
        self._leases.update(names)
        try:
            while True:
                try:
                    return await self._lease_of(inbox, names, most, until_s)
                except DependencyError:
                    # RabbitMQ breaks a connection, too, that would consume from a queue which another is just making.
                    left_s = renew_until_s - time.monotonic()
                    if not inbox.ended or self._closed or left_s <= 0:
                        raise
                    await self._link.renewed(inbox.session, left_s)
                    inbox = await self._open()
        finally:
            self._leave(names)

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """Nothing to do: they are ours until the connection ends."""
        self._check_open()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Each pack when all of it is done with. After a broken connection there is nothing to ack any more."""
        self._check_open()
        await self._end([pack for pack in settled(deliveries, "done") if not pack.left])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Whole packs to where they were, parts of them to the ends of their queues."""
        self._check_open()
        packs = settled(deliveries, "given back")
        if spare := {pack.messages[0].queue for pack in packs} - self._leases.keys():
            # They would come back to this very connection, and lie here.
            packs += await self._rest(lambda name: name in spare and name not in self._leases)
        await self._end(packs)

    async def depth(self, queue: str) -> Depth:
        """A pack counts as one message. What other connections were sent ahead is not counted."""
        inbox = await self._open()
        counts = [await self._told(inbox.queues.count(queue, level)) for level in range(PRIORITY_LEVELS)]
        return Depth(sum(counts) + inbox.kept_of(queue))

    async def bury(self, messages: Sequence[Message]) -> Sequence[bool]:
        """To the queue of dead letters."""
        inbox = await self._open()
        return await self._told(inbox.session.call(bury(inbox.queues, inbox.session, messages), _SEND_S))

    async def close(self) -> None:
        """Give back what can be, then end the connection."""
        if self._closed:
            return
        if self._idling is not None:
            self._idling.cancel()
        if self._resting is not None:
            await asyncio.wait([self._resting])
        try:
            packs = await self._rest(lambda _: True)
            if self._inbox is not None:
                parts = [pack for pack in self._inbox.packs.values() if not pack.whole]
                for pack in parts:
                    pack.give_back("kept", "held")
                await self._end(packs + parts)
                await self._told(self._inbox.flush())
        except DependencyError as error:
            log.warning("what was done with in part may run again: %s", error.message)
        self._closed = True
        if self._inbox is not None:
            self._inbox.wake()
        await self._link.close()

    # -- ends of packs ------------------------------------------------------------------------------------------------

    async def _end(self, packs: Sequence[Pack]) -> None:
        """Whatever can be done with these now. What is not confirmed stays with the pack, which comes again whole."""
        # One that is not its inbox's any more was ended before.
        packs = [pack for pack in dict.fromkeys(packs) if pack.owner.packs.get(pack.tag) is pack]
        # Where the connection of a pack ended, all of it comes again, but may have come while its jobs still ran here:
        # then it was acked, and nothing would tell of those that are given back.
        anew = [pack for pack in packs if pack.left or not pack.whole or pack.owner.ended]
        await self._send_anew([pack for pack in anew if pack.given_back()])
        for pack in packs:
            if pack.is_over:
                inbox: Inbox = pack.owner
                inbox.end(pack, again=pack.given_back())

    async def _send_anew(self, packs: Sequence[Pack]) -> None:
        """What is given back of these, all on its way together."""
        if not packs or self._inbox is None or self._inbox.ended:
            return
        taken = [pack.take_to_send() for pack in packs]
        sending = [[pack.messages[at] for at in places] for pack, places in zip(packs, taken, strict=True)]
        confirmed: list[Confirmed] = [False] * len(packs)
        try:
            confirmed = await self._send(self._inbox, sending)
        except DependencyError:
            pass  # the store's reaper sees to what comes again with no pack
        finally:
            for pack, places, is_confirmed in zip(packs, taken, confirmed, strict=True):
                pack.sent(places, is_confirmed)

    async def _rest(self, is_spare: Callable[[str], bool]) -> list[Pack]:
        """Have nothing more sent of spare queues; packs of which something is to be given back."""
        if self._inbox is None or self._inbox.ended:
            return []
        return await self._told(self._inbox.rest(is_spare))

    def _leave(self, names: Sequence[str]) -> None:
        """A lease ended. Unless another of its queues begins soon, what was sent ahead goes back."""
        self._leases.subtract(names)
        now_s = time.monotonic()
        for name in names:
            self._left_s[name] = now_s
            if not self._leases[name]:
                del self._leases[name]
        self._look_in(IDLE_S)

    def _look_in(self, seconds: float) -> None:
        if self._idling is None and not self._closed:
            self._idling = asyncio.get_running_loop().call_later(seconds, self._look_what_is_idle)

    def _look_what_is_idle(self) -> None:
        self._idling = None
        # Those that are leased come here again when that ends.
        left = {name: left_s for name, left_s in self._left_s.items() if name not in self._leases}
        idle_s = time.monotonic() - IDLE_S
        idle = {name for name, left_s in left.items() if left_s <= idle_s}
        if idle and self._resting is None and not self._closed:
            left = {name: left_s for name, left_s in left.items() if name not in idle}
            self._resting = asyncio.create_task(self._rest_idly(idle), name="rabbitmq: idle")
        self._left_s = left
        if left:
            self._look_in(max(_LOOK_S, min(left.values()) - idle_s))

    async def _rest_idly(self, names: Collection[str]) -> None:
        try:
            await self._end(await self._rest(lambda name: name in names and name not in self._leases))
        except DependencyError:
            pass  # the connection ended, and with it all that it was sent
        finally:
            self._resting = None

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _send(self, inbox: Inbox, packs: Sequence[Sequence[Message]]) -> list[Confirmed]:
        session, confirmed = inbox.session, list[Confirmed]()
        for begin in range(0, len(packs), _AT_ONCE):
            some = packs[begin : begin + _AT_ONCE]
            sending = send(inbox.queues, session, some, self._unsent, self._most_bytes)
            confirmed += await self._told(session.call(sending, _SEND_S))
        return confirmed

    def _refused_as_large(self, *reasons: BaseException | None) -> bool:
        """Whether a session was ended for a message that is larger than the broker takes; none such is sent again."""
        most_bytes = next(filter(None, map(most_bytes_of, reasons)), None)
        if most_bytes is None:
            return False
        if self._most_bytes is None or most_bytes < self._most_bytes:
            self._most_bytes = most_bytes
            log.warning(
                "RabbitMQ at %s takes messages of %d bytes at most: jobs that do not fit travel by their ids alone; "
                "raise its max_message_size, and start this anew",
                self.address.shown,
                most_bytes,
            )
        return True

    async def _lease_of(self, inbox: Inbox, names: Sequence[str], most: int, until_s: float) -> Sequence[Delivery]:
        while True:
            await self._told(inbox.listen(names, most))
            arrival, found = inbox.arrival, inbox.take(names, most)
            left_s = until_s - time.monotonic()
            if found or left_s <= 0:
                return found
            await self._wait(inbox.session, arrival, left_s)

    async def _told(self, work: Awaitable[T]) -> T:
        """Await it; what is wrong with the broker is told as `DependencyError`."""
        try:
            return await work
        except FAILURES as error:
            raise failure(error, self.address) from error

    async def _open(self) -> Inbox:
        """That of the connection which stands. Raises `DependencyError` where none does."""
        self._check_open()
        await self._link.session()
        assert self._inbox is not None
        return self._inbox

    def _begin(self, session: Session) -> None:
        self._inbox = Inbox(session, self._alone)

    async def _wait(self, session: Session, arrival: asyncio.Event, within_s: float) -> None:
        arriving = asyncio.ensure_future(arrival.wait())
        try:
            either: set[asyncio.Future[Any]] = {arriving, session.ended}
            await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arriving.cancel()
        self._check_open()
        if session.ended.done():
            raise unavailable("the connection broke", self.address)

    def _check_open(self) -> None:
        if self._closed:
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")
