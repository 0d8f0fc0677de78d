"""A store and a broker in memory that lose things, go away and wait, as a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from forebay.brokers.memory import HeldQueues, MemoryBroker
from forebay.brokers.port import Confirmed, Depth, Message
from forebay.core.errors import DependencyError
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.ids import JobIds
from forebay.jobs.memory_store import MemoryStore
from forebay.jobs.record import JobSpec, Output
from forebay.jobs.record_store import Carried, Claimed, Due
from forebay.jobs.store import Bounds, Finish, Gone, LeasedJob, NewJob
from forebay.testing import FakeClock

AMPLE = Bounds(1_000_000, 1 << 40)
LEASE_S = 15.0
IDS = JobIds()


class FlakyStore(MemoryStore):
    """Is away while `away`, waits for `gate` before it claims, and follows while another leads."""

    away, follows = False, False
    gate: asyncio.Event | None = None

    async def claim(self, carried: Sequence[Carried], lease_s: float) -> Sequence[Claimed]:
        if self.gate is not None:
            await self.gate.wait()
        self._answer()
        return await super().claim(carried, lease_s)

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        self._answer()
        return await super().finish(finishes)

    async def due(self, republish_after_s: float, published: Collection[str] = ()) -> Due:
        due = await super().due(republish_after_s, published)
        return msgspec.structs.replace(due, reaped=msgspec.structs.replace(due.reaped, leader=not self.follows))

    def _answer(self) -> None:
        if self.away:
            raise DependencyError("the store is away")


class LossyBroker(MemoryBroker):
    """Confirms nothing that it loses; is away while `away`; takes no more for the queue that is `full`, and nothing of
    more than `most_bytes`; refuses all that is asked of the queue that is `barred`."""

    loses, away = False, False
    full, barred = "", ""
    most_bytes = 1 << 30

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        self._look_at(*(message.queue for message in messages))
        if self.loses:
            return [False] * len(messages)
        told = [None if len(message.payload) > self.most_bytes else message.queue != self.full for message in messages]
        await super().publish([message for message, taken in zip(messages, told, strict=True) if taken])
        return told

    async def ack(self, deliveries: Sequence[object]) -> None:
        if self.away:
            raise DependencyError("the broker is away", code="broker_unavailable")
        await super().ack(deliveries)  # type: ignore[arg-type]

    async def depth(self, queue: str) -> Depth:
        self._look_at(queue)
        return await super().depth(queue)

    def _look_at(self, *queues: str) -> None:
        if self.barred in queues:
            raise DependencyError(f"queue {self.barred} is refused", code="broker_unavailable")


class BuryingBroker(LossyBroker):
    """Keeps dead letters, unless `barred` is "dead"."""

    def __init__(self, queues: HeldQueues) -> None:
        super().__init__(queues)
        self.buried: list[Message] = []

    async def bury(self, messages: Sequence[Message]) -> Sequence[bool]:
        self._look_at("dead")
        self.buried += messages
        return [True] * len(messages)


class Site:
    """One store, one broker, and a queue over them."""

    def __init__(self, kind: type[LossyBroker] = LossyBroker) -> None:
        self.clock = FakeClock(1_800_000_000.0)
        self.queues = HeldQueues(True, self.clock)
        self.use(FlakyStore(self.now_ms))
        self.broker = kind(self.queues)
        self.queue = BrokeredQueue(self.store, self.broker, republish_after_s=60.0, inline_bytes=1000)

    def now_ms(self) -> int:
        return round(self.clock() * 1000)

    def use(self, store: FlakyStore) -> None:
        """Work with this store from now on."""
        self.store = store
        if hasattr(self, "broker"):
            self.queue = BrokeredQueue(store, self.broker, republish_after_s=60.0, inline_bytes=1000)

    async def submit(
        self, count: int = 1, body: bytes = b"x", retention_s: float = 1000.0, metadata: dict[str, str] | None = None
    ) -> list[JobSpec]:
        one = JobSpec(id="", model="m", tenant="t", body=body, retention_s=retention_s, metadata=metadata)
        specs = [msgspec.structs.replace(one, id=IDS.new()) for _ in range(count)]
        await self.queue.submit([NewJob(spec) for spec in specs], AMPLE)
        return specs

    async def lose(self, count: int = 1, body: bytes = b"x") -> list[JobSpec]:
        """Jobs whose messages are lost, though they were confirmed."""
        specs = await self.submit(count, body)
        lost = {spec.id for spec in specs}
        waiting = self.queues._waiting["m", 1]
        kept = [message for message in waiting if message.id not in lost]
        waiting.clear()
        waiting.extend(kept)
        return specs

    async def lease(self, most: int = 10) -> Sequence[LeasedJob]:
        return await self.queue.lease(["m"], most, 0.0, LEASE_S)

    async def succeed(self, jobs: Sequence[LeasedJob]) -> None:
        done = await self.queue.finish([Finish(job, "succeeded", output=Output(b"y")) for job in jobs])
        assert list(done) == [True] * len(jobs)

    async def state(self, spec: JobSpec) -> str | None:
        [look] = await self.store.read([spec.id])
        if isinstance(look, Gone):
            return "gone"
        return look.state if look is not None else None

    async def carries(self) -> Depth:
        return await self.broker.depth("m")
