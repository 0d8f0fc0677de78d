"""`MemoryStore`: records in this process's memory beside another broker."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import msgspec

from forebay.jobs.ids import wall_ms
from forebay.jobs.memory import KeptInMemory
from forebay.jobs.memory_records import Entry
from forebay.jobs.record_store import Carried, Claimed, Due
from forebay.jobs.store import Bounds, NewJob, QueueDepth, Reaped, Submission


class MemoryStore(KeptInMemory):
    """A `RecordStore`. `now_ms` is its clock, milliseconds since 1970."""

    def __init__(self, now_ms: Callable[[], int] = wall_ms) -> None:
        super().__init__(now_ms, self._note)
        self._free: defaultdict[str, list[tuple[int, int, Entry]]] = defaultdict(list)
        """Heaps by model: since when each job is free, when it was accepted."""
        self._freed: list[Entry] = []
        """Since the last round of the reaper began."""
        self._due: dict[str, Entry] = {}
        """Freed by the reaper, and not told to be published since."""
        self._claimed_ms: dict[tuple[str, int], int] = {}
        """By model and level: when the youngest job was accepted that was claimed so far."""

    async def create(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs."""
        return [self._records.submit(job, bounds) for job in new]

    async def claim(self, carried: Sequence[Carried], lease_s: float) -> Sequence[Claimed]:
        """Begin attempts."""
        return [self._claim(one, lease_s) for one in carried]

    async def due(self, republish_after_s: float, published: Collection[str] = ()) -> Due:
        """One round of the reaper; this process always leads."""
        for id in published:
            self._due.pop(id, None)
        self._freed.clear()
        reaped: Reaped = self._records.reap()
        self._due |= {entry.record.spec.id: entry for entry in self._freed}
        self._due = {
            id: entry for id, entry in self._due.items() if entry.record.state == "queued" and not entry.due_ms
        }
        before_ms = self._now_ms() - round(republish_after_s * 1000)
        models = [model for model in self._free if (head := self._head_ms(model)) is not None and head <= before_ms]
        return Due(reaped, [_whole(entry) for entry in self._due.values()], models)

    async def lost(self, model: str, republish_after_s: float, empty: bool) -> Sequence[Carried]:
        """Jobs whose messages seem to be lost."""
        after_ms, now, free = round(republish_after_s * 1000), self._now_ms(), self._free[model]
        waiting: list[Entry] = []
        while (head := self._head_ms(model)) is not None and head <= now - after_ms:
            waiting.append(heapq.heappop(free)[2])
        lost: list[Entry] = []
        for entry in waiting:
            claimed_ms = self._claimed_ms.get((model, entry.record.spec.level), 0)
            if empty or claimed_ms >= entry.queued_ms + after_ms:
                entry.queued_ms = now
                lost.append(entry)
            heapq.heappush(free, (entry.queued_ms, entry.order, entry))
        return [_whole(entry) for entry in lost]

    async def depth(self, model: str) -> QueueDepth:
        """What waits and runs for one model; `oldest_s` since it was last queued."""
        if model not in self._records.loads:
            return QueueDepth(0, 0, 0)
        load, head = self._records.loads[model], self._head_ms(model)
        oldest_s = 0.0 if head is None else max(0.0, (self._now_ms() - head) / 1000)
        return QueueDepth(load.waiting, load.waiting_bytes, load.running, oldest_s)

    def _claim(self, carried: Carried, lease_s: float) -> Claimed:
        now, found = self._now_ms(), self._records.find(carried.id)
        if found is None:
            spec = carried.spec
            if spec is None or carried.created_ms + round(spec.retention_s * 1000) <= now:
                return "unknown"
            found = self._records.insert(spec, carried.created_ms)
        elif not isinstance(found, Entry):
            return "stale"
        self._records.seize(found)
        if found.record.state != "queued" or found.due_ms:
            return "stale"
        key = (found.record.spec.model, found.record.spec.level)
        self._claimed_ms[key] = max(self._claimed_ms.get(key, 0), found.record.created_ms)
        return self._records.claim(found, lease_s) or "stale"

    def _note(self, entry: Entry) -> None:
        heapq.heappush(self._free[entry.record.spec.model], (entry.queued_ms, entry.order, entry))
        self._freed.append(entry)

    def _head_ms(self, model: str) -> int | None:
        """Since when the job is free that is so for longest; drops what is free no more, or was queued anew."""
        free = self._free[model]
        while free:
            queued_ms, _, entry = free[0]
            if entry.record.state == "queued" and entry.queued_ms == queued_ms and not entry.due_ms:
                return queued_ms
            heapq.heappop(free)
        return None


def _whole(entry: Entry) -> Carried:
    record = entry.record
    return Carried(record.spec.id, record.created_ms, msgspec.structs.replace(record.spec, body=entry.body))
