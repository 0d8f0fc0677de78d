"""The implementations under the contract of jobs, and how a test opens one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tests.contract.brokers.connections import queues_of

from forebay.brokers.memory import MemoryBroker
from forebay.brokers.port import Broker
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.memory_store import MemoryStore
from forebay.jobs.redis_records import RedisRecords
from forebay.jobs.store import JobQueue, JobReader
from forebay.jobs.webhooks import WebhookQueue
from forebay.testing import FakeClock


class Jobs(JobQueue, JobReader, WebhookQueue, Protocol):
    """All ports in one object."""


@dataclass(frozen=True)
class Store:
    """An empty store. `pass_s` moves its clock (and may really wait); real time alone moves it by less than 10 s a
    test. `other` is the same store as another process sees it. `orders`: jobs that nobody has had yet are leased in
    the order of their acceptance. `bounds_exactly`: bounds hold to the job, and not only about."""

    jobs: Jobs
    other: Jobs
    pass_s: Callable[[float], Awaitable[None]]
    orders: bool = True
    bounds_exactly: bool = True


Opener = Callable[[], AbstractAsyncContextManager[Store]]

START_MS = 1_800_000_000_000


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Store]:
    """`MemoryJobs` with a clock that only the test moves."""
    now_ms = START_MS

    async def pass_s(seconds: float) -> None:
        nonlocal now_ms
        now_ms += round(seconds * 1000)

    jobs = MemoryJobs(lambda: now_ms)
    yield Store(jobs, jobs, pass_s)
    await jobs.close()


class Together(BrokeredQueue):
    """All ports, over one store."""

    def __init__(self, store: MemoryStore | RedisRecords, broker: Broker) -> None:
        super().__init__(store, broker)
        self.read, self.events, self.cancel, self.delete = store.read, store.events, store.cancel, store.delete
        self.asked = store.asked
        self.due_webhooks, self.settle_webhooks = store.due_webhooks, store.settle_webhooks
        self.list, self.changes = store.list, store.changes


def brokered(kind: str) -> Opener:
    """`BrokeredQueue` over records in memory and one kind of broker."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        clock = FakeClock(START_MS / 1000)
        store, queues = MemoryStore(lambda: round(clock() * 1000)), queues_of(kind, clock)

        async def pass_s(seconds: float) -> None:
            clock.advance(seconds)

        jobs = Together(store, MemoryBroker(queues))
        # A second consumer of a log would get parts of it, which no other gets at while it does not look.
        other = jobs if kind == "memory-offset" else Together(store, MemoryBroker(queues))
        yield Store(jobs, other, pass_s, queues.capabilities.orders)
        await jobs.close()
        await other.close()

    return opened


IMPLEMENTATIONS: dict[str, Opener] = {
    "memory": memory,
    "brokered-item": brokered("memory-item"),
    "brokered-connection": brokered("memory-connection"),
    "brokered-offset": brokered("memory-offset"),
}
