"""What a session was sent and nobody was given yet.

A consumer for each queue is sent about as much as two calls take beyond what is being worked on. While nobody leases,
nothing may lie here that others could run: consumers end then, and what they brought goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiormq import exceptions as amqp
from aiormq import spec
from aiormq.abc import DeliveredMessage

from forebay.brokers.packs import Pack, PackError, unpacked
from forebay.brokers.port import PRIORITY_LEVELS, Delivery
from forebay.brokers.rabbitmq_errors import failure
from forebay.brokers.rabbitmq_link import CALL_TIMEOUT_S, Session
from forebay.brokers.rabbitmq_queues import REFUSALS, Queues, queue_name
from forebay.brokers.refusals import Refusals
from forebay.core.errors import DependencyError
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

FEWEST_SENT: Final = 4
MOST_SENT: Final = 1024
AHEAD_BYTES: Final = 32 << 20
"""Of one queue and level; about, since how large messages are is learned from those that came."""
_LEARN: Final = 0.1
"""Weight of a new message in the means of how many jobs and bytes one has."""
DUMB_S: Final = 120.0
"""How long a queue is left alone that does not answer while its broker does: its members may be down, or lost; or one
that may not be consumed from."""
_LEVELS: Final = range(PRIORITY_LEVELS)
SOON_S: Final = 0.3
"""How long the other queues wait for one to answer that is new to this connection."""
SETTLE_S: Final = 0.1
"""Until something has come from each queue that is new to this connection, so that what is urgent is not left behind
what came first; but no longer, since most of them are empty."""
_ENDED_KEPT: Final = 64
"""Consumers that have ended and still take what was on its way to them."""

Place = tuple[str, int]
"""A queue and its level."""


@dataclass(slots=True, eq=False)
class Consumer:
    """One that was told of to the broker. `ahead`: most messages it is sent that are not acked; `unacked`: how many
    there are. A message that stays unacked for long takes from what is sent, so a consumer is replaced then."""

    place: Place
    tag: str
    ahead: int
    unacked: int = 0


class _Callbacks(dict[str, Any]):
    """Consumers by tag, as aiormq looks them up for what is delivered; `otherwise` gets what is for none of them."""

    def __init__(self, otherwise: Callable[[DeliveredMessage], Awaitable[None]]) -> None:
        super().__init__()
        self._otherwise = otherwise

    def get(self, tag: str, default: Any = None, /) -> Any:
        """Never None: a delivery without a consumer would be dropped, and stay unacked."""
        return super().get(tag, self._otherwise if default is None else default)


class Inbox:
    """Of one session. `arrival` is set when something has come, and another put in its place."""

    def __init__(self, session: Session, alone: Refusals[Place]) -> None:
        """`alone`: queues that were refused, or did not answer, in this session or an earlier one."""
        self.session = session
        self._alone = alone
        self.queues = Queues(session)
        self.arrival = asyncio.Event()
        self.packs: dict[int, Pack] = {}
        """All that is neither acked nor given back, by tag."""
        self._kept: defaultdict[Place, deque[Pack]] = defaultdict(deque)
        self._consumers: dict[Place, Consumer] = {}
        self._met: set[Place] = set()
        """All that ever had one here. A consumer that comes back after a long batch is not waited for: a worker would
        stand still for it each time."""
        self._answered: set[Place] = set()
        """All that can be consumed from, as far as is known."""
        self._trials: dict[Place, asyncio.Task[None]] = {}
        self._senders: dict[Pack, Consumer] = {}
        self._ended: deque[str] = deque()
        self._numbers = itertools.count(1)
        self._jobs_a_message, self._bytes_a_message = 1.0, 1.0
        self._changing = asyncio.Lock()
        session.consuming.consumers = _Callbacks(self._give_back)
        session.consuming.on_consumer_cancel_callbacks.add(self._is_over)

    @property
    def ended(self) -> bool:
        """Whether the connection is gone, and all that came on it with it."""
        return self.session.ended.done()

    async def listen(self, names: Sequence[str], most: int) -> None:
        """Have the messages of these queues sent, so that `most` jobs can come; of those that are refused none will.
        Raises what aiormq does, and `DependencyError`, also where all are refused."""
        wanted = max(FEWEST_SENT // 2, min(self._most_sent() // 2, round(most / self._jobs_a_message)))
        all_places = [(name, level) for level in _LEVELS for name in names]
        places = self._alone.to_ask(all_places)
        if places:
            if all(self._is_sent_enough(place, wanted) for place in places):
                return
            places = await self._listen(places, wanted)
        if not places:
            raise DependencyError(self._alone.why(all_places), code="broker_unavailable")

    async def _listen(self, places: Sequence[Place], wanted: int) -> list[Place]:
        """Those that are listened to then. Raises as `listen`."""
        async with self._changing:
            await self.session.call(self.session.consuming.basic_qos(prefetch_count=2 * wanted))
            found = await self._answering(await self._there(places))
            new = set(found) - self._met
            self._met |= new
            for place in found:
                if not self._is_sent_enough(place, wanted):
                    await self._end(place)
                    await self._begin(place, 2 * wanted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while not self.ended and any(not self._kept[place] for place in new):
                    await self.arrival.wait()
        return found

    async def _there(self, places: Sequence[Place]) -> list[Place]:
        """Those of these queues that are there, or could be made; others are left alone. Raises as `listen`."""
        found = []
        for place in places:
            await self.queues.need_dead()
            try:
                await self.queues.need(*place)
            except REFUSALS as error:
                self._leave_alone([place], error)
            else:
                found.append(place)
        return found

    async def _answering(self, places: Sequence[Place]) -> list[Place]:
        """Those of these queues that can be consumed from, as far as that is known soon. Raises as `listen`."""
        for place in places:
            if place not in self._answered and place not in self._trials:
                self._trials[place] = trial = asyncio.create_task(self._try(place), name="rabbitmq: trial")
                trial.add_done_callback(_heard)
        if trials := [self._trials[place] for place in places if place in self._trials]:
            await asyncio.wait(trials, timeout=SOON_S)
            if not self._answered.intersection(places):
                await asyncio.wait(trials, timeout=CALL_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        for place in places:
            if (trial_of := self._trials.get(place)) is None:
                continue
            if trial_of.done():
                del self._trials[place]
                trial_of.result()
            else:
                self._alone.note(place, self._dumb_words(place), CALL_TIMEOUT_S)
        return [place for place in places if place in self._answered]

    async def _try(self, place: Place) -> None:
        """Consume from a queue on a channel of its own: one whose members are lost never answers, and its channel does
        not do so any more either. A message that comes is given back by the channel's end. Raises as `listen`."""
        session, name = self.session, queue_name(self.session.address, *place)
        channel = await session.call(session.channel())
        try:
            await session.call(channel.basic_qos(prefetch_count=1))
            await session.call(channel.basic_consume(name, _ignore), ends=False)
        except TimeoutError:
            session.run(channel.close())
            if await session.answers():
                self._alone.note(place, self._dumb_words(place), DUMB_S)
                log.error("%s", self._dumb_words(place))
            else:
                session.end()
            return
        except (amqp.ChannelAccessRefused, amqp.ChannelLockedResource) as error:
            self._leave_alone([place], error, DUMB_S)
            return
        except amqp.ChannelNotFoundEntity:
            self.queues.forget(name)
            raise
        await session.call(channel.close())
        self._answered.add(place)
        self._alone.forget(place)
        self.wake()

    def _dumb_words(self, place: Place) -> str:
        name = queue_name(self.session.address, *place)
        return f"queue {name} does not answer; others go on. docs/rabbitmq.md says what to do"

    def _leave_alone(self, places: Sequence[Place], error: BaseException, pause_s: float | None = None) -> None:
        address = self.session.address
        for place in places:
            words = failure(error, address).message
            if self._alone.note(place, words, pause_s):
                name, names = queue_name(address, *place), fields(model=place[0])
                log.error(
                    "no jobs of queue %s are taken; it is tried again, others go on: %s", name, words, extra=names
                )

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

    async def rest(self, is_spare: Callable[[str], bool]) -> list[Pack]:
        """End the consumers of queues that are spare, which is asked again whenever time has passed. Packs of which
        something was kept; that is to be given back now."""
        async with self._changing:
            for place in list(self._consumers):
                if is_spare(place[0]):
                    await self._end(place)
        packs = [pack for place in list(self._kept) if is_spare(place[0]) for pack in self._kept.pop(place)]
        # Who began to lease meanwhile may have found a consumer that is no more.
        self.wake()
        return [pack for pack in packs if pack.give_back("kept")]

    def end(self, pack: Pack, *, again: bool) -> None:
        """Be done with a pack, or have it delivered `again`, to anybody."""
        if self.packs.pop(pack.tag, None) is not None:
            self._senders.pop(pack).unacked -= 1
            if self.ended:
                return  # its connection did that
            channel = self.session.consuming
            self.session.run(
                channel.basic_nack(pack.tag, requeue=True, wait=False)
                if again
                else channel.basic_ack(pack.tag, wait=False)
            )

    async def flush(self) -> None:
        """Wait until the broker has heard of all ends, of which it tells nothing. Raises as `listen`."""
        if not self.ended:
            await self.session.call(self.session.consuming.basic_qos(prefetch_count=FEWEST_SENT))

    def _most_sent(self) -> int:
        return max(FEWEST_SENT, min(MOST_SENT, int(AHEAD_BYTES / self._bytes_a_message)))

    def _is_sent_enough(self, place: Place, wanted: int) -> bool:
        consumer = self._consumers.get(place)
        if consumer is None:
            return False
        free = consumer.ahead - consumer.unacked + len(self._kept[place])
        return 2 * free >= wanted and consumer.ahead <= min(16 * wanted, 2 * self._most_sent())

    async def _begin(self, place: Place, ahead: int) -> None:
        channel = self.session.consuming
        name = await self.queues.need(*place)
        consumer = Consumer(place, f"forebay.{next(self._numbers)}", ahead)

        async def deliver(message: DeliveredMessage) -> None:
            self._deliver(consumer, message)

        self._consumers[place] = consumer
        try:
            await self.session.call(channel.basic_consume(name, deliver, consumer_tag=consumer.tag), ends=False)
        except TimeoutError:
            # The channel is of no use any more. Is it the broker that is silent, or this queue?
            if await self.session.answers():
                self._alone.note(place, self._dumb_words(place), DUMB_S)
                log.error("%s", self._dumb_words(place))
            self.session.end()
            raise
        except (amqp.ChannelAccessRefused, amqp.ChannelLockedResource) as error:
            # It has cost the channel, and so all that was sent on it. What holds for one of a model's queues most
            # likely holds for all.
            self._leave_alone([(place[0], level) for level in _LEVELS], error, DUMB_S)
            self.session.end()
            raise
        except amqp.ChannelNotFoundEntity:
            self.queues.forget(name)
            raise

    async def _end(self, place: Place) -> None:
        consumer = self._consumers.pop(place, None)
        if consumer is not None:
            await self.session.call(self._cancel(consumer))

    async def _cancel(self, consumer: Consumer) -> None:
        """All of it in one call: whoever waits may be canceled meanwhile, which must not stop it half-way."""
        channel = self.session.consuming
        if consumer.tag not in channel.consumers:
            return
        callback = channel.consumers[consumer.tag]
        await channel.basic_cancel(consumer.tag)
        if not self.ended:
            # What was on its way still comes, and is taken where the queue has another consumer by now.
            channel.consumers[consumer.tag] = callback
            self._ended.append(consumer.tag)
            if len(self._ended) > _ENDED_KEPT:
                channel.consumers.pop(self._ended.popleft(), None)

    def _deliver(self, consumer: Consumer, message: DeliveredMessage) -> None:
        tag, place, channel = message.delivery_tag, consumer.place, self.session.consuming
        assert tag is not None
        try:
            messages = unpacked(message.body, *place)
        except PackError as error:
            name = queue_name(self.session.address, *place)
            log.error("a message in %s is no job; it goes to the queue of dead letters: %s", name, error)
            self.session.run(channel.basic_reject(tag, requeue=False, wait=False))
            return
        if place not in self._consumers:
            self._requeue(tag)
            return
        self._jobs_a_message += _LEARN * (len(messages) - self._jobs_a_message)
        self._bytes_a_message += _LEARN * (len(message.body) - self._bytes_a_message)
        pack = self.packs[tag] = Pack(messages, self, tag)
        self._senders[pack] = consumer
        consumer.unacked += 1
        self._kept[place].append(pack)
        self.wake()

    async def _give_back(self, message: DeliveredMessage) -> None:
        """It came for a consumer that is not known any more, and would lie here until the session ends."""
        assert message.delivery_tag is not None
        self._requeue(message.delivery_tag)

    def _requeue(self, tag: int) -> None:
        self.session.run(self.session.consuming.basic_nack(tag, requeue=True, wait=False))

    def _is_over(self, frame: spec.Basic.Cancel) -> None:
        """The broker ended a consumer, for instance since its queue was deleted. Whoever leases begins anew."""
        for place, consumer in list(self._consumers.items()):
            if consumer.tag == frame.consumer_tag:
                del self._consumers[place]
                self.queues.forget(queue_name(self.session.address, *place))
        self.wake()

    def wake(self) -> None:
        """Whoever waits looks again."""
        self.arrival.set()
        self.arrival = asyncio.Event()


async def _ignore(message: DeliveredMessage) -> None:
    """What a trial was sent."""


def _heard(trial: asyncio.Task[None]) -> None:
    """Whoever would look at what a trial came to may be gone, with the session."""
    if not trial.cancelled():
        trial.exception()
