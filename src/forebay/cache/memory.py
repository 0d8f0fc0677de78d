"""Answers kept in this process: bounded in bytes, the least recently used go first. Takes every answer at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from forebay.cache.entry import Entry


class MemoryCache:
    """All models of one process. Called on its event loop only."""

    __slots__ = ("entries", "evicted", "generation", "max_bytes", "nbytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.evicted = 0
        self.generation = 0
        """Another one whenever something was dropped: what was being computed then is not kept."""
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        """By key, the one used last at the end. For others only to look at."""

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: bytes, now: float) -> Entry | None:
        """An entry that may still be served, perhaps stale; it is then the one used last."""
        entry = self.entries.get(key)
        if entry is None:
            return None
        if now >= entry.stale_until:
            self.remove(entry)
            return None
        self.entries.move_to_end(key)
        return entry

    def touch(self, entry: Entry) -> None:
        """It was served without being looked up. It must be here."""
        self.entries.move_to_end(entry.key)

    def peek(self, key: bytes) -> Entry | None:
        """An entry, without using it."""
        return self.entries.get(key)

    def named(self, id: str) -> Entry | None:
        """The entry whose id somebody was told."""
        return next((entry for entry in self.entries.values() if entry.id == id), None)

    def put(self, entry: Entry) -> None:
        """Keep an answer, in place of an older one."""
        entries = self.entries
        before = entries.setdefault(entry.key, entry)
        if before is not entry:
            self.remove(before)
            entries[entry.key] = entry
        self.nbytes += entry.nbytes
        while self.nbytes > self.max_bytes and entries:
            self._gone(entries.popitem(last=False)[1])
            self.evicted += 1

    def remember(self, entry: Entry, table: dict[bytes, object], body: bytes, answer: object, nbytes: int) -> None:
        """Keep in `table` the whole answer to a body, as long as its entry is here; it counts as `nbytes` more."""
        if body in table or self.entries.get(entry.key) is not entry:
            return
        table[body] = answer
        if entry.memos is None:
            entry.memos = []
        entry.memos.append((table, body))
        entry.nbytes += nbytes
        self.nbytes += nbytes
        while self.nbytes > self.max_bytes and self.entries:
            self._gone(self.entries.popitem(last=False)[1])
            self.evicted += 1

    def remove(self, entry: Entry) -> None:
        """Forget one entry, if it is here."""
        if self.entries.get(entry.key) is entry:
            del self.entries[entry.key]
            self._gone(entry)

    def drop(self, goes: Callable[[Entry], bool]) -> int:
        """Forget all for which this holds; returns how many."""
        self.generation += 1
        gone = [entry for entry in self.entries.values() if goes(entry)]
        for entry in gone:
            self.remove(entry)
        return len(gone)

    def _gone(self, entry: Entry) -> None:
        self.nbytes -= entry.nbytes
        if entry.memos is not None:
            for table, body in entry.memos:
                table.pop(body, None)
            entry.memos = None
