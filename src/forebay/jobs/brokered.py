"""`BrokeredQueue`: a store that keeps records, and a broker that carries messages about them, as one `JobQueue`.

Record, publish, confirm; the record decides. A message only says that a job may be there to run, so one too many is
acked unrun, and one too few is published again by the reaper.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from forebay.brokers.port import Broker, Burying, Delivery, Message
from forebay.core.errors import DependencyError
from forebay.jobs.record import ENVELOPE_VERSION, JobSpec
from forebay.jobs.record_store import INLINE_BYTES, Carried, RecordStore
from forebay.jobs.store import Bounds, Finish, LeasedJob, NewJob, Partial, QueueDepth, Reaped, Submission
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

_ID_SHOWN = 100
_DUE_AT_ONCE = 500
"""So many are published in one call when they are due: what was confirmed before a call that fails is known."""


class BrokeredQueue:
    """A `JobQueue` over a `RecordStore` and a `Broker`, which it closes with itself."""

    def __init__(
        self,
        store: RecordStore,
        broker: Broker,
        *,
        republish_after_s: float = 60.0,
        inline_bytes: int = INLINE_BYTES,
    ) -> None:
        self._store, self._broker = store, broker
        self._burying = broker if isinstance(broker, Burying) else None
        self._republish_after_s, self._inline_bytes = republish_after_s, inline_bytes
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Carried).decode
        self._published: list[str] = []
        """What was due and is confirmed, until the store was told."""
        self._abandoned: set[asyncio.Future[Sequence[LeasedJob]]] = set()

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs; `unconfirmed` are those whose messages the broker did not confirm. Where it cannot be asked, or
        fails, that is raised as `DependencyError` (broker_unavailable); where it is known to be away, nothing is begun.
        """
        await self._broker.publish(())
        answers = await self._store.create(new, bounds)
        created = [
            Carried(job.spec.id, answer.created_ms, job.spec)
            for job, answer in zip(new, answers, strict=True)
            if answer.outcome == "created"
        ]
        unconfirmed = {job.id for job in created}.difference(await self._publish(created))
        return [
            msgspec.structs.replace(answer, outcome="unconfirmed")
            if answer.outcome == "created" and answer.id in unconfirmed
            else answer
            for answer in answers
        ]

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        """Claim up to `most` jobs; messages that lead to none are acked on the way."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            deliveries = await self._broker.lease(models, most, left_s, lease_s)
            if not deliveries:
                return []
            jobs = await self._unless_canceled(deliveries, lease_s)
            if jobs:
                return jobs

    async def extend(self, jobs: Sequence[LeasedJob], lease_s: float) -> Sequence[bool]:
        """Keep jobs, and their messages where that is needed."""
        kept = await self._store.extend(jobs, lease_s)
        if self._broker.capabilities.extends:
            await self._broker.extend([job.receipt for job, own in zip(jobs, kept, strict=True) if own], lease_s)
        return kept

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        """Add events of running jobs."""
        return await self._store.tell(partials)

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        """Commit how jobs ended, then ack their messages; those of jobs that may run again at once are given back, and
        those of refused ends too: the store may have lost the job, of which this may be the last copy. Who claims it
        next learns what is to become of it."""
        done = await self._store.finish(finishes)
        given_back, over = [], []
        for finish, own in zip(finishes, done, strict=True):
            if not own or finish.kind == "release" or (finish.kind == "retry" and finish.delay_s <= 0):
                given_back.append(finish.job.receipt)
            else:
                over.append(finish.job.receipt)
        await self._broker.ack(over)
        await self._broker.release(given_back)
        return done

    async def reap(self) -> Reaped:
        """One round: the store's, then messages for what needs them. What is not confirmed comes round again; why some
        was not even sent is told beside what the store's half has done, which is done all the same."""
        due = await self._store.due(self._republish_after_s, self._published)
        self._published.clear()
        if not due.reaped.leader:
            return due.reaped
        # Model by model: one whose queue the broker refuses keeps no other's jobs back.
        unsent = ""
        for jobs in _by_model(due.jobs):
            try:
                self._published += await self._publish(jobs)
            except DependencyError as error:
                unsent = unsent or error.message
        republished = due.reaped.republished
        for model in due.models:
            try:
                republished += await self._republish(model)
            except DependencyError as error:
                unsent = unsent or error.message
                if error.code != "broker_unavailable":
                    break  # it is the store, which no other model's call would fare better with
        return msgspec.structs.replace(due.reaped, republished=republished, unsent=unsent)

    async def _republish(self, model: str) -> int:
        """Messages for jobs of a model that have lost theirs."""
        empty = (await self._broker.depth(model)).waiting == 0
        return len(await self._publish(await self._store.lost(model, self._republish_after_s, empty)))

    async def depth(self, model: str) -> QueueDepth:
        """By the records."""
        return await self._store.depth(model)

    async def close(self) -> None:
        """Give back what a canceled `lease` left behind, then close broker and store."""
        if self._abandoned:
            await asyncio.wait(self._abandoned)
        try:
            await self._broker.close()
        finally:
            await self._store.close()

    async def _publish(self, jobs: Iterable[Carried]) -> list[str]:
        """Ids of those that the broker confirmed."""
        messages = [self._message(job, job.spec) for job in jobs if job.spec is not None]
        confirmed = list(await self._broker.publish(messages)) if messages else []
        # Where the broker takes less than is inline here, the record has it.
        large = [at for at, is_confirmed in enumerate(confirmed) if is_confirmed is None]
        if large:
            named = [self._named(messages[at]) for at in large]
            for at, is_confirmed in zip(large, await self._broker.publish(named), strict=True):
                confirmed[at] = is_confirmed
        return [message.id for message, is_confirmed in zip(messages, confirmed, strict=True) if is_confirmed]

    def _message(self, job: Carried, spec: JobSpec) -> Message:
        if not job.named and len(spec.body) <= self._inline_bytes:
            payload = self._encode(job)
            if len(payload) <= self._inline_bytes:  # with all that comes beside the body, metadata above all
                return Message(job.id, spec.model, payload, spec.level)
        return Message(job.id, spec.model, self._encode(Carried(job.id, job.created_ms)), spec.level)

    def _named(self, message: Message) -> Message:
        """The same without its spec."""
        carried = self._decode(message.payload)
        return msgspec.structs.replace(message, payload=self._encode(Carried(carried.id, carried.created_ms)))

    async def _unless_canceled(self, deliveries: Sequence[Delivery], lease_s: float) -> Sequence[LeasedJob]:
        """Claim; whoever is canceled meanwhile leaves the jobs to be given back."""
        claiming = asyncio.ensure_future(self._claim(deliveries, lease_s))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            giving_back = asyncio.ensure_future(self._give_back(claiming))
            self._abandoned.add(giving_back)
            giving_back.add_done_callback(self._abandoned.discard)
            raise

    async def _give_back(self, claiming: asyncio.Future[Sequence[LeasedJob]]) -> Sequence[LeasedJob]:
        try:
            jobs = await claiming
            await self.finish([Finish(job, "release") for job in jobs])
        except DependencyError as error:
            log.warning("jobs of a canceled lease wait for its end: %s", error.message, extra=fields(code=error.code))
        return []

    async def _claim(self, deliveries: Sequence[Delivery], lease_s: float) -> Sequence[LeasedJob]:
        """The jobs that may run. Where the store cannot be asked, all messages are given back."""
        try:
            claimed = await self._store.claim([self._carried(each.message) for each in deliveries], lease_s)
        except DependencyError:
            await self._broker.release(deliveries)
            raise
        jobs, over, foreign = [], [], []
        for delivery, claim in zip(deliveries, claimed, strict=True):
            if isinstance(claim, LeasedJob):
                jobs.append(msgspec.structs.replace(claim, receipt=delivery))
            elif claim == "unknown" and self._burying is not None and not self._is_readable(delivery.message):
                foreign.append(delivery)
            else:
                over.append(delivery)
                if claim == "unknown":
                    log.warning("dropped a message whose job is not known, or no longer", extra=_names(delivery))
        await self._broker.ack(over)
        if foreign and self._burying is not None:
            await self._bury(self._burying, foreign)
        return jobs

    async def _bury(self, burying: Burying, deliveries: Sequence[Delivery]) -> None:
        """Keep with the dead letters what somebody else has written. Where that fails it is dropped: if it came again
        at once, it would keep workers busy for nothing."""
        buried: Sequence[bool] = [False] * len(deliveries)
        why = "that was not confirmed"
        try:
            buried = await burying.bury([delivery.message for delivery in deliveries])
        except DependencyError as error:
            why = error.message
        for delivery, is_kept in zip(deliveries, buried, strict=True):
            if is_kept:
                log.error("a message is no job; it went to the dead letters", extra=_names(delivery))
            else:
                log.error("dropped a message that is no job and no dead letter: %s", why, extra=_names(delivery))
        await self._broker.ack(deliveries)

    def _is_readable(self, message: Message) -> bool:
        """Whether it is a message of ours, whatever became of its job."""
        try:
            return self._decode(message.payload).id == message.id
        except msgspec.MsgspecError:
            return False

    def _carried(self, message: Message) -> Carried:
        """What a message says; what cannot be read says no more than its id."""
        try:
            carried = self._decode(message.payload)
        except msgspec.MsgspecError:
            return Carried(message.id)
        if carried.id != message.id:
            return Carried(message.id)
        if carried.spec is not None and carried.spec.envelope != ENVELOPE_VERSION:
            # A record that is made of it must hold for who knows that version.
            foreign = msgspec.msgpack.decode(message.payload)["spec"]
            return msgspec.structs.replace(carried, foreign=foreign)
        return carried


def _names(delivery: Delivery) -> dict[str, object]:
    """Of a log line; what others have written may be of any length."""
    id = delivery.message.id
    return fields(model=delivery.message.queue, job_id=id if len(id) <= _ID_SHOWN else f"{id[:_ID_SHOWN]}…")


def _by_model(jobs: Iterable[Carried]) -> Iterator[list[Carried]]:
    """Portions of one model each, in their order."""
    portions: defaultdict[str, list[Carried]] = defaultdict(list)
    for job in jobs:
        if job.spec is not None:
            portions[job.spec.model].append(job)
    for own in portions.values():
        for begin in range(0, len(own), _DUE_AT_ONCE):
            yield own[begin : begin + _DUE_AT_ONCE]
