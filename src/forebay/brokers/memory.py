"""`MemoryBroker`: queues in this process's memory, which hold deliveries as the three kinds of brokers do.

`HeldQueues` are like SQS (each delivery until its lease ends) or RabbitMQ (until the connection ends), `LogQueues` like
Kafka (parts of a queue belong to one consumer, who moves a position). They are shared; a `MemoryBroker` is one
connection to them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from forebay.brokers.port import PRIORITY_LEVELS, Capabilities, Confirmed, Delivery, Depth, Message
from forebay.core.clock import Clock
from forebay.core.errors import DependencyError

PARTS = 4
"""Of each queue and level in `LogQueues`: so many consumers of a queue have something to do."""


class Queues(Protocol):
    """Queues that connections share. `owner` is a connection, `receipts` are those that `take` gave."""

    capabilities: Capabilities
    arrival: asyncio.Event
    """Is set, and another put in its place, when there is something new to take."""

    def put(self, messages: Iterable[Message]) -> None: ...
    def take(self, owner: object, queues: Sequence[str], most: int, lease_s: float) -> list[Delivery]: ...
    def extend(self, owner: object, deliveries: Sequence[Delivery], lease_s: float) -> None: ...
    def ack(self, owner: object, deliveries: Sequence[Delivery]) -> None: ...
    def release(self, owner: object, deliveries: Sequence[Delivery]) -> None: ...
    def leave(self, owner: object) -> None: ...
    def depth(self, queue: str) -> Depth: ...

    def next_s(self) -> float | None:
        """Seconds until something that is held becomes free by itself; None: never."""
        ...


@dataclass(slots=True)
class _Held:
    message: Message
    owner: object
    end_s: float


class HeldQueues:
    """A delivery is one's own until `lease_s` has passed (`item`) or one's connection ends."""

    def __init__(self, holds_items: bool, clock: Clock = time.monotonic) -> None:
        self.capabilities = Capabilities("item" if holds_items else "connection", extends=holds_items, orders=True)
        self.arrival = asyncio.Event()
        self._expires, self._clock = holds_items, clock
        self._waiting: defaultdict[tuple[str, int], deque[Message]] = defaultdict(deque)
        self._held: dict[int, _Held] = {}
        self._receipts = itertools.count(1)

    def put(self, messages: Iterable[Message]) -> None:
        """Append to the queues."""
        for message in messages:
            self._waiting[message.queue, message.level].append(message)
        self._wake()

    def take(self, owner: object, queues: Sequence[str], most: int, lease_s: float) -> list[Delivery]:
        """What waits, the higher levels first."""
        self._return([receipt for receipt, held in self._held.items() if self._is_over(held)])
        taken: list[Delivery] = []
        for level in range(PRIORITY_LEVELS):
            for queue in queues:
                waiting = self._waiting[queue, level]
                while waiting and len(taken) < most:
                    receipt, message = next(self._receipts), waiting.popleft()
                    self._held[receipt] = _Held(message, owner, self._clock() + lease_s)
                    taken.append(Delivery(message, receipt))
        return taken

    def extend(self, owner: object, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """Hold longer."""
        for receipt in self._still_held(deliveries):
            self._held[receipt].end_s = self._clock() + lease_s

    def ack(self, owner: object, deliveries: Sequence[Delivery]) -> None:
        """Drop."""
        for receipt in self._still_held(deliveries):
            del self._held[receipt]

    def release(self, owner: object, deliveries: Sequence[Delivery]) -> None:
        """Put back to where they were taken."""
        self._return(self._still_held(deliveries))

    def leave(self, owner: object) -> None:
        """The connection ended."""
        if not self._expires:
            self._return([receipt for receipt, held in self._held.items() if held.owner is owner])

    def depth(self, queue: str) -> Depth:
        """Of all levels."""
        waiting = [message for level in range(PRIORITY_LEVELS) for message in self._waiting[queue, level]]
        held = [held for held in self._held.values() if held.message.queue == queue]
        over = [held.message for held in held if self._is_over(held)]
        nbytes = sum(len(message.payload) for message in [*waiting, *over])
        return Depth(len(waiting) + len(over), nbytes, len(held) - len(over))

    def next_s(self) -> float | None:
        """When the next lease ends."""
        if not (self._expires and self._held):
            return None
        return min(held.end_s for held in self._held.values()) - self._clock()

    def _is_over(self, held: _Held) -> bool:
        return self._expires and held.end_s <= self._clock()

    def _still_held(self, deliveries: Sequence[Delivery]) -> list[int]:
        """A receipt is given once, so that one of a lease that ended is found no more when another has the message."""
        receipts = dict.fromkeys(delivery.receipt for delivery in deliveries)
        return [receipt for receipt in receipts if receipt in self._held]

    def _return(self, receipts: Sequence[int]) -> None:
        for receipt in sorted(receipts, reverse=True):
            message = self._held.pop(receipt).message
            self._waiting[message.queue, message.level].appendleft(message)
        if receipts:
            self._wake()

    def _wake(self) -> None:
        self.arrival.set()
        self.arrival = asyncio.Event()


class _Place(NamedTuple):
    """The receipt of a message in a log; good as long as the part has not changed hands."""

    part: _Part
    turn: int
    offset: int


@dataclass(slots=True, eq=False)
class _Part:
    """One part of a queue's level. Offsets below `begin` are done with; those below `position` are given out."""

    log: deque[Message] = field(default_factory=deque)
    begin: int = 0
    position: int = 0
    acked: set[int] = field(default_factory=set)
    turn: int = 0
    """Counts its owners."""

    def ack(self, offset: int) -> None:
        """Be done with all up to the first that is not acked."""
        self.acked.add(offset)
        while self.begin in self.acked:
            self.acked.discard(self.begin)
            self.log.popleft()
            self.begin += 1

    def change_hands(self) -> None:
        """Its next owner begins where all before is acked."""
        self.turn += 1
        self.position = self.begin
        self.acked.clear()


class LogQueues:
    """A part of a queue belongs to one of its consumers; who leases from a queue becomes one."""

    def __init__(self) -> None:
        self.capabilities = Capabilities("offset", extends=False, orders=False)
        self.arrival = asyncio.Event()
        self._parts: defaultdict[tuple[str, int], list[_Part]] = defaultdict(lambda: [_Part() for _ in range(PARTS)])
        self._consumers: defaultdict[str, list[object]] = defaultdict(list)

    def put(self, messages: Iterable[Message]) -> None:
        """Append to the logs; one id always to the same part."""
        for message in messages:
            number = zlib.crc32(message.id.encode()) % PARTS
            self._parts[message.queue, message.level][number].log.append(message)
        self._wake()

    def take(self, owner: object, queues: Sequence[str], most: int, lease_s: float) -> list[Delivery]:
        """What follows the positions of one's own parts, the higher levels first."""
        for queue in queues:
            if owner not in self._consumers[queue]:
                self._share_out(queue, [*self._consumers[queue], owner])
        taken: list[Delivery] = []
        for level in range(PRIORITY_LEVELS):
            for queue in queues:
                for part in self._own_parts(owner, queue, level):
                    while len(taken) < most and part.position < part.begin + len(part.log):
                        message = part.log[part.position - part.begin]
                        taken.append(Delivery(message, _Place(part, part.turn, part.position)))
                        part.position += 1
        return taken

    def extend(self, owner: object, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """Nothing to do: a part is one's own until it changes hands."""

    def ack(self, owner: object, deliveries: Sequence[Delivery]) -> None:
        """Move positions as far as all before is acked."""
        for _, place in self._held(deliveries):
            place.part.ack(place.offset)

    def release(self, owner: object, deliveries: Sequence[Delivery]) -> None:
        """A log cannot give one back: append it anew, and be done with the old one."""
        held = self._held(deliveries)
        self.put(message for message, _ in held)
        self.ack(owner, deliveries)

    def leave(self, owner: object) -> None:
        """The others get its parts."""
        for queue, consumers in self._consumers.items():
            if owner in consumers:
                self._share_out(queue, [consumer for consumer in consumers if consumer is not owner])

    def depth(self, queue: str) -> Depth:
        """Of all levels and parts."""
        parts = [part for level in range(PRIORITY_LEVELS) for part in self._parts[queue, level]]
        waiting = [
            message for part in parts for message in itertools.islice(part.log, part.position - part.begin, None)
        ]
        leased = sum(part.position - part.begin - len(part.acked) for part in parts)
        return Depth(len(waiting), sum(len(message.payload) for message in waiting), leased)

    def next_s(self) -> float | None:
        """Nothing becomes free by itself."""
        return None

    def _held(self, deliveries: Sequence[Delivery]) -> list[tuple[Message, _Place]]:
        places = [(delivery.message, delivery.receipt) for delivery in deliveries]
        return [
            (message, place)
            for message, place in places
            if place.turn == place.part.turn
            and place.offset >= place.part.begin
            and place.offset not in place.part.acked
        ]

    def _own_parts(self, owner: object, queue: str, level: int) -> list[_Part]:
        consumers = self._consumers[queue]
        return self._parts[queue, level][consumers.index(owner) :: len(consumers)]

    def _share_out(self, queue: str, consumers: list[object]) -> None:
        """Deal the parts to these; one that stays with its owner goes on where it is."""
        before, self._consumers[queue] = self._consumers[queue], consumers
        for number in range(PARTS):
            old = before[number % len(before)] if before else None
            if not consumers or consumers[number % len(consumers)] is not old:
                for level in range(PRIORITY_LEVELS):
                    self._parts[queue, level][number].change_hands()
        self._wake()

    def _wake(self) -> None:
        self.arrival.set()
        self.arrival = asyncio.Event()


class MemoryBroker:
    """One connection to queues in memory: a `Broker`."""

    def __init__(self, queues: Queues) -> None:
        self.capabilities = queues.capabilities
        self._queues = queues
        self._open = True

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        """Always confirmed."""
        self._connected().put(messages)
        return [True] * len(messages)

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """Waits `wait_s` of real time for the first."""
        until = time.monotonic() + wait_s
        while True:
            arrival = self._connected().arrival
            taken = self._queues.take(self, queues, most, lease_s)
            left_s = until - time.monotonic()
            if taken or left_s <= 0:
                return taken
            next_s = self._queues.next_s()
            try:
                async with asyncio.timeout(left_s if next_s is None else min(left_s, max(next_s, 0.001))):
                    await arrival.wait()
            except TimeoutError:
                pass

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """They are still being worked on."""
        self._connected().extend(self, deliveries, lease_s)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done with."""
        self._connected().ack(self, deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give them back."""
        self._connected().release(self, deliveries)

    async def depth(self, queue: str) -> Depth:
        """What a queue holds."""
        return self._connected().depth(queue)

    async def close(self) -> None:
        """End the connection; who waits in `lease` is refused."""
        if self._open:
            self._open = False
            self._queues.leave(self)
            self._queues.arrival.set()
            self._queues.arrival = asyncio.Event()

    def _connected(self) -> Queues:
        if not self._open:
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")
        return self._queues
