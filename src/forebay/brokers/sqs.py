"""`Sqs`: queues of an AWS SQS, beside a store of records.

Messages that are published in one call travel in packs. A pack is held as long as any of it is worked on, and deleted
when each of its messages is done with; where some are given back while others run, those are sent anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from forebay.brokers.packs import Pack, each_confirmed, portions, settled
from forebay.brokers.port import PRIORITY_LEVELS, Capabilities, Confirmed, Delivery, Depth, Message
from forebay.brokers.sqs_errors import FAILURES, failure, setup_failure
from forebay.brokers.sqs_holding import delete, hold, show
from forebay.brokers.sqs_inbox import Inbox
from forebay.brokers.sqs_link import CALL_TIMEOUT_S, SqsLink
from forebay.brokers.sqs_queues import Place, Queues
from forebay.brokers.sqs_sending import bury, send
from forebay.brokers.sqs_url import SqsAddress, parse_url
from forebay.core.errors import DependencyError

log = logging.getLogger("forebay.jobs")

PACK_JOBS: Final = 32
PACK_BYTES: Final = 46 << 10
"""Most of one message. With ids, and as text, that is what SQS takes the price of one call for."""
IDLE_S: Final = 1.0
"""When nobody has leased from a queue for so long, what was received goes back."""
_SAME_S: Final = 0.5
"""A lease that would be prolonged by less than this is left as it is: jobs of one pack are renewed one by one."""


class Sqs:
    """A `Broker`. SQS is asked when it is first used."""

    def __init__(
        self,
        url: str,
        *,
        pack_jobs: int = PACK_JOBS,
        pack_bytes: int = PACK_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `SetupError` for a URL that no SQS can have."""
        self.capabilities = Capabilities(
            "item", extends=True, orders=False, counts="packs" if pack_jobs > 1 else "messages"
        )
        self.address: SqsAddress = parse_url(url)
        self._pack_jobs, self._pack_bytes, self._clock = pack_jobs, pack_bytes, clock
        self.link = SqsLink(self.address)
        self._queues = Queues(self.link)
        self._inbox = Inbox(self.link, self._queues, clock, self._arrived)
        self._leases = Counter[str]()
        """Calls of `lease` that are under way, by queue."""
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    async def check(self) -> str:
        """What it is, once it is seen that queues can be made and used there. Raises `SetupError` where an operator has
        something to mend, else `DependencyError`."""
        await self.link.check()
        try:
            await self._queues.need_dead()
        except FAILURES as error:
            raise setup_failure(error, self.address) or failure(error, self.address) from None
        place = self.address.endpoint or f"AWS, region {self.link.region}"
        return f"SQS ({place}; queues {self.address.prefix}-*)"

    # -- the port -----------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        """In packs, all on their way together. Of none it tells, by raising, that SQS cannot be reached."""
        self._check_open()
        await self.link.ready()

        async def send_at(packs: Sequence[Sequence[int]]) -> list[Confirmed]:
            return await self._send([[messages[at] for at in positions] for positions in packs])

        packs = list(portions(messages, self._pack_jobs, self._pack_bytes))
        return await each_confirmed(packs, len(messages), send_at)

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """What was received, is there, or comes."""
        names, until_s = list(dict.fromkeys(queues)), time.monotonic() + wait_s
        self._check_open()
        await self.link.ready()
        if not names or most < 1:
            return []
        self._enter(names)
        places, alone = _places(names, *range(PRIORITY_LEVELS)), self._inbox.alone
        try:
            await self._look(names, most, lease_s)
            while True:
                self._check_open()
                await self._inbox.freshen(names, lease_s)
                found = self._inbox.take(names, most)
                if found:
                    return found
                if not alone.to_ask(places):
                    raise DependencyError(alone.why(places), code="broker_unavailable")
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return found
                await self._inbox.arrives(self._inbox.watch(places, most, lease_s), left_s)
        finally:
            self._leave(names)

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """Each pack as long as any of it is worked on."""
        self._check_open()
        soon_s = self._clock() + lease_s - _SAME_S
        packs = dict.fromkeys(delivery.receipt.pack for delivery in deliveries)
        ending = [pack for pack in packs if self._inbox.is_ours(pack) and pack.owner.until_s < soon_s]
        if ending:
            await self.link.apart(hold(self.link, ending, lease_s, self._clock))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Each pack when all of it is done with. What SQS does not hear of comes again, and leads to nothing then."""
        self._check_open()
        await self._end([pack for pack in settled(deliveries, "done") if not pack.left])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Whole packs at once, parts of them as packs of their own."""
        self._check_open()
        await self._end(settled(deliveries, "given back"))

    async def depth(self, queue: str) -> Depth:
        """What SQS tells, which is about so; a pack counts as one message."""
        self._check_open()
        await self.link.ready()
        places = _places([queue], *range(PRIORITY_LEVELS))
        counts = await asyncio.gather(*map(self._count, places))
        here = sum(map(self._inbox.kept_of, places))
        waiting, leased = (sum(column) for column in zip(*counts, strict=True))
        return Depth(waiting + here, leased=max(0, leased - here) if self._pack_jobs == 1 else -1)

    async def bury(self, messages: Sequence[Message]) -> Sequence[bool]:
        """To the queue of dead letters."""
        self._check_open()
        await self.link.ready()
        return await asyncio.gather(*[bury(self.link, self._queues, message) for message in messages])

    async def close(self) -> None:
        """Wait for what still receives, then give back what is here."""
        if self._closed:
            return
        self._closed = True
        for timer in self._resting.values():
            timer.cancel()
        self._inbox.wake()
        await self.link.end(self.address.poll_s + CALL_TIMEOUT_S)
        packs = list(self._inbox.packs)
        for pack in packs:
            pack.give_back("kept", "held")
        await self._end(packs)
        await self.link.close()

    # -- ends of packs ------------------------------------------------------------------------------------------------

    async def _end(self, packs: Sequence[Pack]) -> None:
        """Whatever can be done with these now. What SQS is not told stays as it is until its lease ends."""
        if packs:
            await self.link.apart(self._end_packs(list(dict.fromkeys(packs))))

    async def _end_packs(self, packs: Sequence[Pack]) -> None:
        ours = [pack for pack in packs if self._inbox.is_ours(pack)]
        for pack in packs:
            # Where its lease has ended all of it comes again, and of that the records decide.
            if not pack.left and pack not in ours:
                self._inbox.packs.pop(pack, None)
        await self._send_anew([pack for pack in ours if pack.given_back() and (pack.left or not pack.whole)])
        over = [pack for pack in ours if pack.is_over and pack in self._inbox.packs]
        for pack in over:
            del self._inbox.packs[pack]
        again = [pack for pack in over if pack.given_back()]
        done = [pack for pack in over if not pack.given_back()]
        try:
            await asyncio.gather(delete(self.link, done), show(self.link, again))
            self._inbox.seen_filled(pack.owner.place for pack in again)
        except DependencyError as error:
            log.debug("what was done with in part may come again: %s", error.message)

    async def _send_anew(self, packs: Sequence[Pack]) -> None:
        """What is given back of these, all on its way together."""
        if not packs:
            return
        taken = [pack.take_to_send() for pack in packs]
        sending = [[pack.messages[at] for at in places] for pack, places in zip(packs, taken, strict=True)]
        confirmed: list[Confirmed] = [False] * len(packs)
        try:
            confirmed = await self._send(sending)
        except DependencyError:
            pass  # it is tried again when all of a pack is over; else that comes again whole
        finally:
            for pack, places, is_confirmed in zip(packs, taken, confirmed, strict=True):
                pack.sent(places, is_confirmed)

    async def _send(self, packs: Sequence[Sequence[Message]]) -> list[Confirmed]:
        confirmed = await send(self.link, self._queues, packs) if packs else []
        self._inbox.seen_filled({(pack[0].queue, pack[0].level) for pack in packs})
        return confirmed

    # -- leasing ------------------------------------------------------------------------------------------------------

    async def _look(self, names: Sequence[str], most: int, lease_s: float) -> None:
        """Level by level, so that none is received before a higher one is known to have less than is wanted."""
        for level in range(PRIORITY_LEVELS):
            here = self._inbox.count(names, level)
            if here >= most:
                return
            try:
                await self._inbox.look(_places(names, level), most - here, lease_s)
            except DependencyError:
                if not self._inbox.count(names, level):
                    raise
                return

    def _enter(self, names: Sequence[str]) -> None:
        self._leases.update(names)
        for name in names:
            if (timer := self._resting.pop(name, None)) is not None:
                timer.cancel()

    def _leave(self, names: Sequence[str]) -> None:
        """A lease ended. Unless another of its queues begins soon, what was received goes back."""
        self._leases.subtract(names)
        for name in names:
            if not self._leases[name]:
                del self._leases[name]
                self._arrived(name)

    def _arrived(self, name: str) -> None:
        if not self._closed and name not in self._leases and name not in self._resting:
            self._resting[name] = asyncio.get_running_loop().call_later(IDLE_S, self._rest, name)

    def _rest(self, name: str) -> None:
        del self._resting[name]
        if packs := self._inbox.rest(name):
            self.link.begin(self._end_packs(packs))

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _count(self, place: Place) -> tuple[int, int]:
        """Messages that anybody can have, and that somebody has."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        for is_last in (False, True):
            try:
                queue = await self._queues.need(place)
                answer = await self.link.call("GetQueueAttributes", QueueUrl=queue.url, AttributeNames=names)
                break
            except FAILURES as error:
                if is_last:
                    raise failure(error, self.address) from error
                self._queues.forget(place)
        waiting, leased = (int(answer.get("Attributes", {}).get(name, 0)) for name in names)
        return waiting, leased

    def _check_open(self) -> None:
        if self._closed:
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")


def _places(names: Sequence[str], *levels: int) -> list[Place]:
    return [(name, level) for level in levels for name in names]
