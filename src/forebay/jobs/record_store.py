"""The port of a store that keeps records and queues nothing: what `BrokeredQueue` needs beside a `Broker`.

As for `JobQueue`: errors are `DependencyError` (store_unavailable) within a bounded time, and calls may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from forebay.jobs.record import JobSpec
from forebay.jobs.store import (
    Bounds,
    Finish,
    JobReader,
    LeasedJob,
    NewJob,
    Partial,
    QueueDepth,
    Reaped,
    Submission,
)

INLINE_BYTES: Final = 200_000
"""Jobs that are larger, with all that they carry, stay in the store, and their messages only name them. The smallest
messages that brokers usually take, 256 KiB of text at SQS, hold so much."""


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as a message carries it. `spec` is None where it is too large for that, where it is of a version that
    its publisher does not know, or where what came is unreadable; then its record must be there. `created_ms` is by the
    store's clock. Of this process only: `named`, no message carries the spec, which is not whole here; `foreign`, a
    spec of another version as it came."""

    id: str
    created_ms: int = 0
    spec: JobSpec | None = None
    named: bool = False
    foreign: dict[str, Any] | None = None


class Due(msgspec.Struct, frozen=True):
    """What one round of the reaper left to be done: `jobs`, whole, that need a message now, and the `models` some of
    whose jobs have waited so long that their messages may be lost."""

    reaped: Reaped
    jobs: Sequence[Carried] = ()
    models: Sequence[str] = ()


Claimed = LeasedJob | Literal["stale", "unknown"]
"""What a message led to: a job to run, or nothing. stale: the job is finished, deleted, gone, not due, or running
elsewhere. unknown: there is no record, and none can be made from the message."""


class RecordStore(JobReader, Protocol):
    """Records, without their queue."""

    async def create(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs as `JobQueue.submit` does; those that are created need a message, which the caller publishes."""
        ...

    async def claim(self, carried: Sequence[Carried], lease_s: float) -> Sequence[Claimed]:
        """Begin an attempt of each job that may run now, also of one whose worker's lease has ended. A record that is
        missing is made anew, unless it was deleted or its retention, counted from its creation, is over."""
        ...

    async def extend(self, jobs: Sequence[LeasedJob], lease_s: float) -> Sequence[bool]:
        """As in `JobQueue`."""
        ...

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        """As in `JobQueue`."""
        ...

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        """As in `JobQueue`; of what is queued again, the caller gives the message back, unless it is delayed."""
        ...

    async def due(self, republish_after_s: float, published: Collection[str] = ()) -> Due:
        """One round of the reaper, led by one process; `models` have jobs unclaimed for `republish_after_s`. Jobs come
        again in the next round unless they are among the `published` then: those whose messages were confirmed."""
        ...

    async def lost(self, model: str, republish_after_s: float, empty: bool) -> Sequence[Carried]:
        """Jobs of a model, whole, whose messages seem to be lost: unclaimed for `republish_after_s` while its queue is
        `empty`, or while one of their level that was accepted so much later was claimed. They count as published
        now."""
        ...

    async def depth(self, model: str) -> QueueDepth:
        """As in `JobQueue`."""
        ...

    async def close(self) -> None:
        """End the connection."""
        ...
