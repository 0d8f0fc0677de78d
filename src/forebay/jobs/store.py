"""The ports of jobs: `JobQueue` for who submits and who works, `JobReader` for who looks and waits.

One object is both for a store that queues by itself (memory, Redis). With another broker, `BrokeredQueue` puts a store
and a `Broker` together. Calls take many jobs, so that one round trip serves many. Whatever goes wrong with the store
itself is raised as `DependencyError` (store_unavailable) within a bounded time; after it nobody knows whether the call
took effect, and every call may be repeated: repeating one that did take effect changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Literal, Protocol

import msgspec

from forebay.jobs.record import STATE_NAMES, JobError, JobRecord, JobSpec, Output, State


class NewJob(msgspec.Struct, frozen=True):
    """A job to be accepted. `key`: its Idempotency-Key, with `fingerprint`, a digest of what was asked with it."""

    spec: JobSpec
    key: str = ""
    fingerprint: str = ""
    known: bool = False
    """Its answer is in the cache of who submits it: it will be done at once. Of no account to the store."""


class Submission(msgspec.Struct, frozen=True):
    """What became of one new job.

    created: it is in the store and queued. replayed: its key (or its id) was used before, for `id`. mismatch: the key
    was used for another request. full: the queue's bounds are reached; `retry_after_s` says when to try again: later,
    the longer that has been so. unconfirmed: it is in the store, but who carries it did not say that it has it; it may
    run all the same, and is found by its key or id when the call is repeated. A key is forgotten together with its job.
    """

    outcome: Literal["created", "replayed", "mismatch", "full", "unconfirmed"]
    id: str
    created_ms: int = 0
    retry_after_s: float = 0.0


class Bounds(msgspec.Struct, frozen=True):
    """Most that may wait for one model, all levels together, delayed ones too; more is refused, as `full`. `nbytes`
    counts bodies, and may count more."""

    jobs: int
    nbytes: int


RETRY_AFTER_MOST_S = 60.0


def retry_after_s(full_for_s: float) -> float:
    """When to try again where a queue is full: later, the longer it has not been down to half of its bounds."""
    return min(RETRY_AFTER_MOST_S, 1.0 + max(0.0, full_for_s) / 2)


class LeasedJob(msgspec.Struct, frozen=True, eq=False):
    """A job that this process is to run. `receipt` belongs to the queue that gave it."""

    spec: JobSpec
    attempt: int
    nonce: str
    receipt: Any = None


class Finish(msgspec.Struct, frozen=True, eq=False):
    """How one leased job ended here.

    succeeded: with `output`. failed, expired, canceled: with `error`. retry: `error` cost this attempt; it is queued
    again after `delay_s`, or fails with `error` where no attempt is left. release: it was not run, or not because of
    itself; it is queued again at once and the attempt does not count.
    """

    job: LeasedJob
    kind: Literal["succeeded", "failed", "expired", "canceled", "retry", "release"]
    output: Output | None = None
    error: JobError | None = None
    delay_s: float = 0.0
    metrics: dict[str, Any] | None = None


class Partial(msgspec.Struct, frozen=True, eq=False):
    """What a running job tells before its end: how far it is, or a piece of its output (JSON); of both, two events.

    `number` counts those of one attempt from 1, in their order: one that is told again is not added again.
    """

    job: LeasedJob
    progress: float | None = None
    piece: bytes | None = None
    number: int = 0
    """0: not counted; told again, it is added again."""


class Reaped(msgspec.Struct, frozen=True):
    """What one round of the reaper did: jobs taken from workers that fell silent (`requeued`, or `failed` where no
    attempt was left), delayed ones that are due (`released`), `expired` ones, queued ones whose message was lost
    (`republished`), records past their retention (`forgotten`). `leader`: whether this process held the lock at all.
    `stores_lost`: the store is not the one of the last round, and has none of its jobs; of shards, how many. `unsent`:
    why some jobs that need a message were published by no call to the broker that carries them; they come round again.
    Empty: there were none."""

    leader: bool
    requeued: int = 0
    failed: int = 0
    released: int = 0
    expired: int = 0
    republished: int = 0
    forgotten: int = 0
    stores_lost: int = 0
    unsent: str = ""


class QueueDepth(msgspec.Struct, frozen=True):
    """Of one model: jobs that wait, their bytes, how many run, how long the oldest has waited: where another broker
    carries the jobs, since it was last queued, or published again."""

    waiting: int
    waiting_bytes: int
    running: int
    oldest_s: float = 0.0


class Change(msgspec.Struct, frozen=True):
    """Job `id` has a new event: its `sequence` and state now. An empty id says that `model` has new work."""

    id: str
    sequence: int
    state: State
    model: str = ""


class Event(msgspec.Struct, frozen=True):
    """One event of a job: a change of its state, progress, or a piece of output."""

    sequence: int
    kind: Literal["status", "progress", "output"]
    state: State
    attempt: int
    progress: float = 0.0
    piece: bytes = b""


EVENT_BYTES = 128
"""What an event counts for beside its piece, where events are read by bytes."""
EVENTS_BYTES = 256 << 10


class Page(msgspec.Struct, frozen=True):
    """Jobs, the newest first. `cursor` goes on behind them; empty: there are no more."""

    jobs: Sequence[JobRecord]
    cursor: str = ""


class JobQueue(Protocol):
    """Submitting and working."""

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs: record and message. `created` is told only when both are as durable as the store makes them."""
        ...

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        """Claim up to `most` jobs, higher levels first, then the oldest of each model. Waits up to `wait_s` for the
        first.

        They are `running` from now, under a nonce of their own, for `lease_s`. Those whose `ttl_s` is over become
        `expired` on the way. Canceling the call loses nothing.
        """
        ...

    async def extend(self, jobs: Sequence[LeasedJob], lease_s: float) -> Sequence[bool]:
        """Keep them for `lease_s` from now. False: it is no longer one's own (canceled, or taken over)."""
        ...

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        """Add events of running jobs. False as in `extend`."""
        ...

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        """Commit how jobs ended, then be done with their messages. False: it is no longer one's own, another answer
        stands or will. The same finish once more is True and changes nothing."""
        ...

    async def reap(self) -> Reaped:
        """One round of bringing every record to its end; called every second by every process, led by one."""
        ...

    async def depth(self, model: str) -> QueueDepth: ...

    async def close(self) -> None: ...


class Gone(msgspec.Struct, frozen=True):
    """A job of this tenant was kept for its retention, and is not any more."""

    tenant: str


Look = JobRecord | Gone | None
"""None: there is none, or it was deleted."""


class JobReader(Protocol):
    """Looking and waiting. Who may see a job is its caller's affair: the record names its tenant."""

    async def read(self, ids: Sequence[str], *, output: bool = True) -> Sequence[Look]:
        """Records as they are now; bodies are left out, outputs too where they are not wanted."""
        ...

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        """The events with a sequence above `after`, in order: about `most_bytes` of them, one at least where there is
        any. Those of earlier attempts may be left out, but for the change of state that ended them."""
        ...

    async def asked(self, ids: Sequence[str]) -> Sequence[JobSpec | None]:
        """What was asked for, with bodies, to ask for it anew; None where there is no body any more. Bodies of failed
        jobs are kept as long as their records, those of others until they end. Raises `RequestError` (unsupported) for
        one that a newer release stored."""
        ...

    async def cancel(self, ids: Sequence[str]) -> Sequence[Look]:
        """Cancel what is not finished; the records as they are then. A run that goes on is discarded."""
        ...

    async def delete(self, id: str) -> bool:
        """Forget a job, canceling it if it is not finished; from then on there is none. False: there was none, or it
        is gone."""
        ...

    async def list(
        self, tenant: str | None, *, model: str = "", state: str = "", cursor: str = "", limit: int = 50
    ) -> Page:
        """Records without bodies and outputs; of every tenant where `tenant` is None. A page may be short, even empty,
        with a cursor: then go on. Raises `RequestError` (invalid_request) for a cursor that no page gave."""
        ...

    def changes(self, states: Collection[State] = STATE_NAMES) -> AsyncIterator[Sequence[Change]]:
        """All changes to these states from now on, for as long as it is iterated; other changes cost next to nothing.
        Changes may be lost (a connection breaks); an empty sequence says that some may have been, so that who waits
        looks again. The first one is empty, and comes when the subscription stands."""
        ...
