"""What was received and nobody was given yet, and the calls that receive.

A queue and level is looked at, which is answered at once, or watched: SQS holds a call until something comes. Neither
is ever canceled, since SQS would give what comes next to a call that nobody reads; so what it brings lies here, for the
next who leases. While nobody does, nothing may lie here that others could run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forebay.brokers.packs import Pack, PackError, unpacked
from forebay.brokers.port import PRIORITY_LEVELS, Delivery
from forebay.brokers.refusals import Refusals
from forebay.brokers.sqs_errors import FAILURES, code_of, failure, is_away, is_missing
from forebay.brokers.sqs_holding import Hold, delete, hold, visibility_s
from forebay.brokers.sqs_link import CALL_TIMEOUT_S, SqsLink
from forebay.brokers.sqs_queues import Place, Queue, Queues, dead_name, queue_name
from forebay.brokers.sqs_sending import ENTRIES
from forebay.brokers.sqs_text import read
from forebay.core.errors import DependencyError
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

EMPTY_S: Final = 1.0
"""A queue that was seen empty is not looked at again before, while it is asked for without waiting."""
_WIDEST: Final = 8
"""Calls at once that look at one queue, while each comes back full."""
_LEARN: Final = 0.1
"""Weight of a new message in the mean of how many jobs one has."""
_FRESH: Final = 0.75
"""Of what is given out with less of its lease than this, the lease is renewed first."""


@dataclass(slots=True)
class View:
    """Of a queue and level: when it was last seen empty, how many calls look at once, and the one that watches."""

    empty_s: float = float("-inf")
    width: int = 1
    watch: asyncio.Task[bool] | None = None
    watched_until_s: float = float("-inf")


class Inbox:
    """`on_arrival` is called with each queue, by its name, of which something came."""

    def __init__(
        self, link: SqsLink, queues: Queues, clock: Callable[[], float], on_arrival: Callable[[str], None]
    ) -> None:
        self._link, self._queues, self._clock, self._on_arrival = link, queues, clock, on_arrival
        self.packs: dict[Pack, None] = {}
        """All that was received and is neither done with nor given back, in order."""
        self._kept: defaultdict[Place, deque[Pack]] = defaultdict(deque)
        self._views: defaultdict[Place, View] = defaultdict(View)
        self.alone = Refusals[Place](clock)
        """Queues that are refused, and not asked for a while."""
        self._jobs_a_message = 1.0
        self._received = 0
        self._arrival = asyncio.Event()
        self._over_limit = False

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def look(self, places: Iterable[Place], most: int, lease_s: float) -> None:
        """Have what is there now, about `most` jobs of each, unless it is known to be empty, or left alone. Raises
        `DependencyError` where no call came through."""
        looking = []
        for place in self.alone.to_ask(places):
            if not self._is_empty(place):
                view, wanted = self._views[place], self._messages(most)
                for begin in range(0, min(wanted, ENTRIES * view.width), ENTRIES):
                    count = min(ENTRIES, wanted - begin)
                    looking.append(self._link.begin(self._receive(place, count, 0, lease_s)))
        if not looking:
            return
        await asyncio.wait(looking)
        failed = [task for task in looking if task.cancelled() or task.exception() is not None]
        if len(failed) == len(looking):
            await self._link.outcome(failed[0])

    def watch(self, places: Iterable[Place], most: int, lease_s: float) -> list[asyncio.Task[bool]]:
        """Have what comes; the calls that bring it."""
        watches = []
        for place in self.alone.to_ask(places):
            view = self._views[place]
            if view.watch is None or view.watch.done():
                count, poll_s = min(ENTRIES, self._messages(most)), self._link.address.poll_s
                view.watch = self._link.begin(self._receive(place, count, poll_s, lease_s))
                view.watched_until_s = self._clock() + poll_s
            watches.append(view.watch)
        return watches

    async def arrives(self, watches: Sequence[asyncio.Task[bool]], within_s: float) -> None:
        """Wait until something has come, or a watch has ended. Raises `DependencyError` where one has failed."""
        arriving = asyncio.ensure_future(self._arrival.wait())
        try:
            either: list[asyncio.Future[Any]] = [arriving, *watches]
            await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arriving.cancel()
        for watch in watches:
            if watch.done() and (watch.cancelled() or watch.exception() is not None):
                await self._link.outcome(watch)

    def seen_filled(self, places: Iterable[Place]) -> None:
        """Something was sent there: it is worth a look."""
        for place in places:
            self._views[place].empty_s = float("-inf")

    def _is_empty(self, place: Place) -> bool:
        view, now_s = self._views[place], self._clock()
        is_watched = view.watch is not None and not view.watch.done() and now_s < view.watched_until_s
        return is_watched or now_s < view.empty_s + EMPTY_S

    def _messages(self, jobs: int) -> int:
        return max(1, round(jobs / self._jobs_a_message))

    async def _receive(self, place: Place, count: int, wait_s: int, lease_s: float) -> bool:
        """Whether anything came."""
        seconds = visibility_s(lease_s)
        try:
            queue = await self._queues.need(place)
            answer = await self._link.call(
                "ReceiveMessage",
                CALL_TIMEOUT_S + wait_s,
                QueueUrl=queue.url,
                MaxNumberOfMessages=count,
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=seconds,
            )
        except FAILURES as error:
            if is_missing(error) and self._link.address.create:
                self._queues.forget(place)  # the next one makes it
                return False
            if code_of(error) != "OverLimit":
                if is_away(error):
                    raise failure(error, self._link.address) from error
                self._leave_alone(place, error)
                return False
            self._tell_of_limit(queue)
            await asyncio.sleep(min(wait_s, EMPTY_S))  # it was refused at once, whatever it would have waited for
            answer = {}
        messages = answer.get("Messages", ())
        view = self._views[place]
        if not messages:
            view.empty_s = self._clock()
        if wait_s == 0:
            view.width = min(_WIDEST, 2 * view.width) if len(messages) == ENTRIES else 1
        for message in messages:
            self._take_in(place, queue, message, self._clock() + seconds)
        if messages:
            self.wake()
            self._on_arrival(place[0])
        return bool(messages)

    def _leave_alone(self, place: Place, error: BaseException) -> None:
        """It is this queue that is refused, which is to hold up no other."""
        words = failure(error, self._link.address).message
        if self.alone.note(place, words):
            name, names = queue_name(self._link.address, place), fields(model=place[0])
            log.error("no jobs of queue %s are taken; it is tried again, others go on: %s", name, words, extra=names)

    def _take_in(self, place: Place, queue: Queue, message: Mapping[str, Any], until_s: float) -> None:
        held, text = Hold(place, queue.url, message["ReceiptHandle"], until_s), message.get("Body", "")
        self._received += 1
        try:
            messages = unpacked(read(text), *place)
        except PackError as error:
            log.error("a message in %s is no job; it goes to the queue of dead letters: %s", queue.url, error)
            self._link.begin(self._bury(Pack([], held, self._received), text))
            return
        pack = Pack(messages, held, self._received)
        self._jobs_a_message += _LEARN * (len(messages) - self._jobs_a_message)
        self.packs[pack] = None
        self._kept[place].append(pack)

    async def _bury(self, pack: Pack, text: str) -> None:
        """What fails on the way comes again, and is tried again then."""
        try:
            dead = await self._queues.need_dead()
            entry = {"Id": "0", "MessageBody": text}
            answer = await self._link.call("SendMessageBatch", QueueUrl=dead.url, Entries=[entry])
            if answer.get("Successful"):
                await delete(self._link, [pack])
        except (*FAILURES, DependencyError) as error:
            log.warning("a message did not reach %s: %s", dead_name(self._link.address), error)

    def _tell_of_limit(self, queue: Queue) -> None:
        if not self._over_limit:
            self._over_limit = True
            log.warning("%s: so many messages are held that SQS gives out no more (120,000 of a queue)", queue.url)

    # -- what is here -------------------------------------------------------------------------------------------------

    def count(self, names: Sequence[str], lowest: int) -> int:
        """Jobs of these queues that are here, of levels down to `lowest`."""
        places = [(name, level) for level in range(lowest + 1) for name in names]
        return sum(pack.kept for place in places for pack in self._ours(place))

    async def freshen(self, names: Sequence[str], lease_s: float) -> None:
        """Renew what has lain here for long, before it is given out. Raises `DependencyError`."""
        soon_s = self._clock() + _FRESH * visibility_s(lease_s)
        places = [(name, level) for level in range(PRIORITY_LEVELS) for name in names]
        stale = [pack for place in places for pack in self._ours(place) if pack.owner.until_s < soon_s]
        if stale:
            await self._link.apart(hold(self._link, stale, lease_s, self._clock))

    def take(self, names: Sequence[str], most: int) -> list[Delivery]:
        """Up to `most` of what is here, the higher levels first."""
        found: list[Delivery] = []
        for level in range(PRIORITY_LEVELS):
            for name in names:
                kept = self._ours((name, level))
                while kept and len(found) < most:
                    found += kept[0].hand_out(most - len(found))
                    if not kept[0].kept:
                        kept.popleft()
        return found

    def kept_of(self, place: Place) -> int:
        """Messages that are here, as SQS counts them: a pack is one."""
        return len(self._ours(place))

    def rest(self, name: str | None = None) -> list[Pack]:
        """Packs of which something was kept, of one queue or of all; that is to be given back now."""
        places = [place for place in list(self._kept) if name in (None, place[0])]
        packs = [pack for place in places for pack in self._kept.pop(place)]
        return [pack for pack in packs if pack.give_back("kept")]

    def is_ours(self, pack: Pack) -> bool:
        """Whether its lease has not ended."""
        return pack in self.packs and bool(self._clock() < pack.owner.until_s)

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._arrival.set()
        self._arrival = asyncio.Event()

    def _ours(self, place: Place) -> deque[Pack]:
        """Those that are kept; of what others may have by now nothing is given out any more."""
        kept = self._kept[place]
        for pack in [pack for pack in kept if not self.is_ours(pack)]:
            kept.remove(pack)
            if pack.give_back("kept") and not pack.left:
                self.packs.pop(pack, None)
        return kept
