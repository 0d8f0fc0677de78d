"""Records of jobs in this process's memory: every rule about them, without waiting for anything.

What becomes free to be run is told to `on_ready`; who queues it, and how, is not known here.
"""

from __future__ import annotations

import bisect
import heapq
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from forebay.core.errors import RequestError
from forebay.jobs.ids import is_id
from forebay.jobs.record import CANCELED, OVERDUE, SILENT, TERMINAL, JobError, JobRecord, JobSpec, State, transition
from forebay.jobs.store import (
    EVENT_BYTES,
    Bounds,
    Change,
    Event,
    Finish,
    Gone,
    LeasedJob,
    Look,
    NewJob,
    Page,
    Partial,
    Reaped,
    Submission,
    retry_after_s,
)

_LOOKED_AT_A_PAGE = 1000
_KEPT_MARKER_S = 3600.0
"""That a job was deleted, or is gone, is known for as long as its record would be kept, and for this at least."""


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@dataclass(slots=True, eq=False)
class Entry:
    """A job as it is kept. `record.spec` is without its body, which is dropped at the end unless the job failed."""

    record: JobRecord
    body: bytes
    nbytes: int
    order: int
    """Of acceptance: 1 is the first."""
    key: str
    fingerprint: str
    events: list[Event]
    nonce: str = ""
    lease_end_ms: int = 0
    due_ms: int = 0
    """Not to be run before; 0: at once."""
    queued_ms: int = 0
    """Since when it is free to be run."""
    told: int = 0
    ended: str = ""
    """The last finish that took effect, so that the same one more is known: its nonce and kind."""


@dataclass(slots=True)
class Load:
    """What one model's jobs come to."""

    waiting: int = 0
    waiting_bytes: int = 0
    running: int = 0
    full_since_ms: int | None = None

    def add(self, state: State, nbytes: int, sign: Literal[1, -1]) -> None:
        """Count a job in, or out."""
        if state == "queued":
            self.waiting += sign
            self.waiting_bytes += sign * nbytes
        elif state == "running":
            self.running += sign


@dataclass(slots=True)
class MemoryRecords:
    """All jobs. `now_ms` is the clock of this store: milliseconds since 1970."""

    now_ms: Callable[[], int]
    on_ready: Callable[[Entry], None]
    on_change: Callable[[Change], None]
    loads: defaultdict[str, Load] = field(default_factory=lambda: defaultdict(Load))
    _entries: dict[str, Entry] = field(default_factory=dict)
    _ids: list[str] = field(default_factory=list)
    """Sorted."""
    _keys: dict[tuple[str, str], str] = field(default_factory=dict)
    _markers: dict[str, tuple[Literal["gone", "deleted"], str, int]] = field(default_factory=dict)
    _alarms: list[tuple[int, str]] = field(default_factory=list)
    """A heap of instants at which to look at a job; what is due then is seen by looking."""
    _accepted: int = 0

    def submit(self, new: NewJob, bounds: Bounds) -> Submission:
        """Accept one job."""
        spec = new.spec
        known = self._known(new)
        if known is not None:
            return known
        nbytes, now, load = len(spec.body), self.now_ms(), self.loads[spec.model]
        if load.waiting >= bounds.jobs or load.waiting_bytes + nbytes > bounds.nbytes:
            load.full_since_ms = now if load.full_since_ms is None else load.full_since_ms
            return Submission("full", spec.id, 0, retry_after_s((now - load.full_since_ms) / 1000))
        if load.waiting * 2 <= bounds.jobs and load.waiting_bytes * 2 <= bounds.nbytes:
            load.full_since_ms = None
        self.on_ready(self.insert(spec, now, new.key, new.fingerprint))
        return Submission("created", spec.id, now)

    def insert(self, spec: JobSpec, created_ms: int, key: str = "", fingerprint: str = "") -> Entry:
        """A queued record where there is none."""
        self._accepted += 1
        record = JobRecord(spec=msgspec.structs.replace(spec, body=b""), state="queued", created_ms=created_ms)
        events = [Event(1, "status", "queued", 0)]
        entry = Entry(record, spec.body, len(spec.body), self._accepted, key, fingerprint, events)
        entry.queued_ms = created_ms
        self._entries[spec.id] = entry
        bisect.insort(self._ids, spec.id)
        if key:
            self._keys[spec.tenant, key] = spec.id
        if spec.ttl_s is not None:
            self._wake_at(created_ms + _ms(spec.ttl_s), spec.id)
        self.loads[spec.model].add("queued", entry.nbytes, 1)
        self._tell(record)
        return entry

    def find(self, id: str) -> Entry | Literal["gone", "deleted"] | None:
        """A job as it is kept, or why it is not any more."""
        entry = self._entries.get(id)
        if entry is None:
            return self._markers[id][0] if id in self._markers else None
        return entry

    def seize(self, entry: Entry) -> None:
        """Make free what the reaper would, where it has not come by yet."""
        self._look_at(entry, self.now_ms())

    def _known(self, new: NewJob) -> Submission | None:
        id = self._keys.get((new.spec.tenant, new.key), new.spec.id) if new.key else new.spec.id
        entry = self._entries.get(id)
        if entry is not None and isinstance(self.read(id, output=False), Gone):
            self._forget(entry, "gone")
            return self._known(new)
        if entry is None:
            return Submission("replayed", id) if id in self._markers else None
        created_ms = entry.record.created_ms
        if new.key and entry.key == new.key and entry.fingerprint != new.fingerprint:
            return Submission("mismatch", id, created_ms)
        return Submission("replayed", id, created_ms)

    def claim(self, entry: Entry, lease_s: float) -> LeasedJob | None:
        """Begin an attempt of a queued job; None where its time to start is over."""
        record, now = entry.record, self.now_ms()
        if self._overdue(record, now):
            self._end(entry, "expired", OVERDUE)
            return None
        entry.nonce, entry.lease_end_ms, entry.told = secrets.token_hex(8), now + _ms(lease_s), 0
        record.attempt += 1
        record.started_ms = now
        self._move(entry, "running")
        self._wake_at(entry.lease_end_ms, record.spec.id)
        spec = msgspec.structs.replace(record.spec, body=entry.body)
        return LeasedJob(spec, record.attempt, entry.nonce)

    def extend(self, job: LeasedJob, lease_s: float) -> bool:
        """Keep one job; False where it is no longer the caller's."""
        entry = self._own(job)
        if entry is None:
            return False
        entry.lease_end_ms = self.now_ms() + _ms(lease_s)
        self._wake_at(entry.lease_end_ms, job.spec.id)
        return True

    def tell(self, partial: Partial) -> bool:
        """Add what a running job told; False where it is no longer the caller's."""
        entry = self._own(partial.job)
        if entry is None:
            return False
        if partial.number and partial.number <= entry.told:
            return True
        entry.told = partial.number or entry.told
        record = entry.record
        if partial.progress is not None:
            record.progress = partial.progress
            self._add(entry, "progress")
        if partial.piece is not None:
            self._add(entry, "output", partial.piece)
        return True

    def finish(self, finish: Finish) -> bool:
        """Commit one end; False where the job is no longer the caller's."""
        entry = self._entries.get(finish.job.spec.id)
        ended = f"{finish.job.nonce} {finish.kind}"
        if entry is not None and entry.ended == ended:
            return True
        entry = self._own(finish.job)
        if entry is None:
            return False
        entry.ended = ended
        if finish.kind == "release":
            entry.record.attempt -= 1
            self._requeue(entry, 0.0)
        elif finish.kind != "retry":
            entry.record.output, entry.record.metrics = finish.output, finish.metrics
            self._end(entry, finish.kind, finish.error)
        elif entry.record.attempt < entry.record.spec.max_attempts:
            self._requeue(entry, finish.delay_s)
        else:
            entry.record.metrics = finish.metrics
            self._end(entry, "failed", finish.error)
        return True

    def cancel(self, id: str) -> Look:
        """Cancel one job unless it is finished."""
        entry = self._entries.get(id)
        if entry is not None and entry.record.state not in TERMINAL:
            self._end(entry, "canceled", CANCELED)
        return self.read(id)

    def delete(self, id: str) -> bool:
        """Forget one job, and that it ever was."""
        self.cancel(id)
        if not isinstance(self.read(id), JobRecord):
            return False
        self._forget(self._entries[id], "deleted")
        return True

    def read(self, id: str, output: bool = True) -> Look:
        """One record, as a copy."""
        entry = self._entries.get(id)
        if entry is None:
            why, tenant, _ = self._markers.get(id, ("deleted", "", 0))
            return Gone(tenant) if why == "gone" else None
        record = entry.record
        if record.state in TERMINAL and self._kept_until_ms(record) <= self.now_ms():
            return Gone(record.spec.tenant)
        return msgspec.structs.replace(record, output=record.output if output else None)

    def events(self, id: str, after: int, most_bytes: int) -> list[Event]:
        """The next events of one job above `after`."""
        if not isinstance(self.read(id, output=False), JobRecord):
            return []
        events = self._entries[id].events
        begin = end = bisect.bisect_right(events, after, key=lambda event: event.sequence)
        while end < len(events) and (most_bytes >= (size := EVENT_BYTES + len(events[end].piece)) or end == begin):
            most_bytes -= size
            end += 1
        return events[begin:end]

    def asked(self, id: str) -> JobSpec | None:
        """What was asked for, with its body; None where that is not kept any more."""
        look = self.read(id, output=False)
        if not isinstance(look, JobRecord) or (look.state in TERMINAL and look.state != "failed"):
            return None
        return msgspec.structs.replace(look.spec, body=self._entries[id].body)

    def page(self, tenant: str | None, model: str, state: str, cursor: str, limit: int) -> Page:
        """One page; looks at no more than a thousand records for it."""
        if cursor and not is_id(cursor):
            raise RequestError(f"cursor {cursor!r} is none that a page of jobs gave; leave it out to begin anew")
        end = bisect.bisect_left(self._ids, cursor) if cursor else len(self._ids)
        begin = max(0, end - _LOOKED_AT_A_PAGE)
        found: list[JobRecord] = []
        for index in range(end - 1, begin - 1, -1):
            look = self.read(self._ids[index], output=False)
            if not isinstance(look, JobRecord):
                continue
            if tenant in (None, look.spec.tenant) and model in ("", look.spec.model) and state in ("", look.state):
                found.append(look)
                if len(found) >= limit:
                    return Page(found, self._ids[index] if index else "")
        return Page(found, self._ids[begin] if begin else "")

    def reap(self) -> Reaped:
        """Look at all jobs that asked for it by now."""
        now, counts = self.now_ms(), Counter[str]()
        while self._alarms and self._alarms[0][0] <= now:
            id = heapq.heappop(self._alarms)[1]
            entry = self._entries.get(id)
            if entry is None:
                if id in self._markers and self._markers[id][2] <= now:
                    del self._markers[id]
                continue
            done = self._look_at(entry, now)
            if done is not None:
                counts[done] += 1
        return Reaped(
            leader=True,
            requeued=counts["requeued"],
            failed=counts["failed"],
            released=counts["released"],
            expired=counts["expired"],
            forgotten=counts["forgotten"],
        )

    def _look_at(self, entry: Entry, now: int) -> str | None:
        record = entry.record
        if record.state == "running":
            if entry.lease_end_ms > now:
                return None
            if record.attempt >= record.spec.max_attempts:
                self._end(entry, "failed", SILENT)
                return "failed"
            self._requeue(entry, 0.0)
            return "requeued"
        if record.state == "queued":
            if self._overdue(record, now):
                self._end(entry, "expired", OVERDUE)
                return "expired"
            if not 0 < entry.due_ms <= now:
                return None
            entry.due_ms, entry.queued_ms = 0, now
            self.on_ready(entry)
            return "released"
        if self._kept_until_ms(record) > now:
            return None
        self._forget(entry, "gone")
        return "forgotten"

    def _own(self, job: LeasedJob) -> Entry | None:
        entry = self._entries.get(job.spec.id)
        if entry is None or entry.record.state != "running" or entry.nonce != job.nonce:
            return None
        return entry

    def _overdue(self, record: JobRecord, now: int) -> bool:
        ttl_s = record.spec.ttl_s
        return ttl_s is not None and record.created_ms + _ms(ttl_s) <= now

    def _kept_until_ms(self, record: JobRecord) -> int:
        return record.finished_ms + _ms(record.spec.retention_s)

    def _requeue(self, entry: Entry, delay_s: float) -> None:
        """Another attempt, from `delay_s` on. What this one told is of no more use to anybody."""
        entry.nonce = ""
        entry.record.progress = 0.0
        entry.events = [event for event in entry.events if event.kind == "status"]
        self._move(entry, "queued")
        entry.queued_ms = self.now_ms()
        id, ttl_s = entry.record.spec.id, entry.record.spec.ttl_s
        if ttl_s is not None:
            self._wake_at(entry.record.created_ms + _ms(ttl_s), id)
        if delay_s > 0:
            entry.due_ms = self.now_ms() + _ms(delay_s)
            self._wake_at(entry.due_ms, id)
        else:
            self.on_ready(entry)

    def _end(self, entry: Entry, state: State, error: JobError | None) -> None:
        record = entry.record
        entry.nonce = ""
        if state != "failed":
            entry.body = b""
        record.error, record.finished_ms = error, self.now_ms()
        self._move(entry, state)
        self._wake_at(self._kept_until_ms(record), record.spec.id)

    def _forget(self, entry: Entry, why: Literal["gone", "deleted"]) -> None:
        spec = entry.record.spec
        del self._entries[spec.id]
        del self._ids[bisect.bisect_left(self._ids, spec.id)]
        if entry.key:
            del self._keys[spec.tenant, entry.key]
        until = self.now_ms() + _ms(max(spec.retention_s, _KEPT_MARKER_S))
        self._markers[spec.id] = (why, spec.tenant, until)
        self._wake_at(until, spec.id)

    def _wake_at(self, instant_ms: int, id: str) -> None:
        heapq.heappush(self._alarms, (instant_ms, id))

    def _move(self, entry: Entry, state: State) -> None:
        """The only place where a job's state changes, and with it what is counted and told."""
        record = entry.record
        load, before = self.loads[record.spec.model], record.state
        transition(record, state)
        load.add(before, entry.nbytes, -1)
        load.add(state, entry.nbytes, 1)
        entry.events.append(Event(record.sequence, "status", state, record.attempt, record.progress))
        self._tell(record)

    def _add(self, entry: Entry, kind: Literal["progress", "output"], piece: bytes = b"") -> None:
        record = entry.record
        record.sequence += 1
        entry.events.append(Event(record.sequence, kind, record.state, record.attempt, record.progress, piece))
        self._tell(record)

    def _tell(self, record: JobRecord) -> None:
        self.on_change(Change(record.spec.id, record.sequence, record.state, record.spec.model))
