"""The brokers under contract, how a test opens them, and the table of what each kind can do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from forebay.brokers.memory import HeldQueues, LogQueues, MemoryBroker, Queues
from forebay.brokers.port import Broker, Capabilities
from forebay.testing import FakeClock

CAPABILITIES = {
    "memory-item": Capabilities("item", extends=True, orders=True),
    "memory-connection": Capabilities("connection", extends=False, orders=True),
    "memory-offset": Capabilities("offset", extends=False, orders=False),
    "redis-streams": Capabilities("item", extends=True, orders=True),
    "rabbitmq": Capabilities("connection", extends=False, orders=True),
    "rabbitmq-packs": Capabilities("connection", extends=False, orders=True, counts="packs"),
    "sqs": Capabilities("item", extends=True, orders=False),
    "sqs-packs": Capabilities("item", extends=True, orders=False, counts="packs"),
    "sqs-fifo": Capabilities("item", extends=True, orders=False, counts="packs"),
    "kafka": Capabilities("offset", extends=False, orders=False),
    "kafka-packs": Capabilities("offset", extends=False, orders=False, counts="packs"),
    "own-broker": Capabilities("item", extends=True, orders=True),
}


@dataclass(frozen=True)
class Service:
    """A broker that holds nothing yet. `connect` makes one more connection to it, `pass_s` moves its clock."""

    connect: Callable[[], Awaitable[Broker]]
    pass_s: Callable[[float], Awaitable[None]]


Opener = Callable[[], AbstractAsyncContextManager[Service]]


def queues_of(kind: str, clock: FakeClock) -> Queues:
    """Queues in memory of one kind."""
    if kind == "memory-offset":
        return LogQueues()
    return HeldQueues(kind == "memory-item", clock)


def memory(kind: str) -> Opener:
    """Opens queues in memory of one kind, with a clock that only the test moves."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Service]:
        clock = FakeClock()
        queues = queues_of(kind, clock)
        connections: list[MemoryBroker] = []

        async def connect() -> Broker:
            connections.append(MemoryBroker(queues))
            return connections[-1]

        async def pass_s(seconds: float) -> None:
            clock.advance(seconds)

        yield Service(connect, pass_s)
        for connection in connections:
            await connection.close()

    return opened


IMPLEMENTATIONS: dict[str, Opener] = {
    kind: memory(kind) for kind in ("memory-item", "memory-connection", "memory-offset")
}
