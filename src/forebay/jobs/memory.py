"""`MemoryJobs`: jobs in this process's memory, for tests and for embedding. They end with the process."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from weakref import WeakSet

from forebay.brokers.port import PRIORITY_LEVELS
from forebay.jobs.ids import wall_ms
from forebay.jobs.memory_records import Entry, MemoryRecords
from forebay.jobs.memory_webhooks import MemoryWebhooks
from forebay.jobs.record import STATE_NAMES, TERMINAL, JobRecord, JobSpec, State
from forebay.jobs.store import (
    EVENTS_BYTES,
    Bounds,
    Change,
    Event,
    Finish,
    LeasedJob,
    Look,
    NewJob,
    Page,
    Partial,
    QueueDepth,
    Reaped,
    Submission,
)
from forebay.jobs.subscription import Subscription
from forebay.jobs.webhooks import Delivery, Settled


class KeptInMemory:
    """What all that keeps jobs in memory have in common: looking, waiting, and what runs. `now_ms` is its clock,
    milliseconds since 1970."""

    def __init__(self, now_ms: Callable[[], int], on_ready: Callable[[Entry], None]) -> None:
        self._now_ms = now_ms
        self._records = MemoryRecords(now_ms, on_ready, self._publish)
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._webhooks = MemoryWebhooks(now_ms)
        self._closed = False

    async def due_webhooks(self, most: int, hold_s: float) -> Sequence[Delivery]:
        """Deliveries that are due."""
        due = self._webhooks.take(most, hold_s)
        known = [one for one in due if isinstance(self._records.read(one.id, False), JobRecord)]
        if len(known) < len(due):
            await self.settle_webhooks([Settled(one.id) for one in due if one not in known])
        return known

    async def settle_webhooks(self, settled: Sequence[Settled]) -> None:
        """Note what became of deliveries."""
        for one in settled:
            self._webhooks.settle(one)

    async def extend(self, jobs: Sequence[LeasedJob], lease_s: float) -> Sequence[bool]:
        """Keep jobs."""
        return [self._records.extend(job, lease_s) for job in jobs]

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        """Add events of running jobs."""
        return [self._records.tell(partial) for partial in partials]

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        """Commit how jobs ended."""
        return [self._records.finish(finish) for finish in finishes]

    async def read(self, ids: Sequence[str], *, output: bool = True) -> Sequence[Look]:
        """Records as they are now."""
        return [self._records.read(id, output) for id in ids]

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        """The events of a job above `after`."""
        return self._records.events(id, after, most_bytes)

    async def asked(self, ids: Sequence[str]) -> Sequence[JobSpec | None]:
        """What was asked for, with bodies."""
        return [self._records.asked(id) for id in ids]

    async def cancel(self, ids: Sequence[str]) -> Sequence[Look]:
        """Cancel what is not finished."""
        return [self._records.cancel(id) for id in ids]

    async def delete(self, id: str) -> bool:
        """Forget a job."""
        return self._records.delete(id)

    async def list(
        self, tenant: str | None, *, model: str = "", state: str = "", cursor: str = "", limit: int = 50
    ) -> Page:
        """A page of records, the newest ids first."""
        return self._records.page(tenant, model, state, cursor, limit)

    def changes(self, states: Collection[State] = STATE_NAMES) -> Subscription:
        """Changes from now on."""
        subscription = Subscription(states)
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        return subscription

    async def close(self) -> None:
        """End every wait: `changes` end."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _publish(self, change: Change) -> None:
        if change.state in TERMINAL:
            look = self._records.read(change.id, output=False)
            if isinstance(look, JobRecord) and look.spec.webhook:
                self._webhooks.owe(change.id)
        for subscription in self._subscriptions:
            subscription.add(change)


class MemoryJobs(KeptInMemory):
    """A `JobQueue` and `JobReader`. Waiting is in real time.

    Everything that a call does it does at once, so that canceling a call loses nothing.
    """

    def __init__(self, now_ms: Callable[[], int] = wall_ms) -> None:
        super().__init__(now_ms, self._enqueue)
        self._ready: defaultdict[str, tuple[list[tuple[int, Entry]], ...]] = defaultdict(
            lambda: tuple([] for _ in range(PRIORITY_LEVELS))
        )
        self._arrival = asyncio.Event()

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs."""
        return [self._records.submit(job, bounds) for job in new]

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        """Claim jobs; waits `wait_s` of real time for the first."""
        until = time.monotonic() + wait_s
        while True:
            arrival = self._arrival
            jobs = self._claim(models, most, lease_s)
            left_s = until - time.monotonic()
            if jobs or left_s <= 0 or self._closed:
                return jobs
            try:
                async with asyncio.timeout(left_s):
                    await arrival.wait()
            except TimeoutError:
                pass

    async def reap(self) -> Reaped:
        """Do what has become due; this process always leads."""
        return self._records.reap()

    async def depth(self, model: str) -> QueueDepth:
        """What waits and runs for one model; `oldest_s` without delayed ones."""
        if model not in self._records.loads:
            return QueueDepth(0, 0, 0)
        load = self._records.loads[model]
        heads = [heap[0][1].record.created_ms for heap in self._ready[model] if _has_head(heap)]
        oldest_s = (self._now_ms() - min(heads)) / 1000 if heads else 0.0
        return QueueDepth(load.waiting, load.waiting_bytes, load.running, max(0.0, oldest_s))

    async def close(self) -> None:
        """End every wait: `lease` returns none, and `changes` end."""
        await super().close()
        self._arrival.set()

    def _enqueue(self, entry: Entry) -> None:
        spec = entry.record.spec
        heapq.heappush(self._ready[spec.model][spec.level], (entry.order, entry))
        self._arrival.set()
        self._arrival = asyncio.Event()

    def _claim(self, models: Sequence[str], most: int, lease_s: float) -> Sequence[LeasedJob]:
        jobs: list[LeasedJob] = []
        for level in range(PRIORITY_LEVELS):
            heaps = [self._ready[model][level] for model in models if model in self._ready]
            while len(jobs) < most and (heaps := [heap for heap in heaps if _has_head(heap)]):
                entry = heapq.heappop(min(heaps, key=lambda heap: heap[0][0]))[1]
                job = self._records.claim(entry, lease_s)
                if job is not None:
                    jobs.append(job)
        return jobs


def _has_head(heap: list[tuple[int, Entry]]) -> bool:
    """Whether there is a job to run, once those that are queued no more are taken away."""
    while heap and heap[0][1].record.state != "queued":
        heapq.heappop(heap)
    return bool(heap)
