"""Answers kept in this process: bounded in bytes, the least recently used go first. Takes every answer at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from forebay.cache.entry import OVERHEAD_BYTES, Entry, KeptRows
from forebay.cache.key import digest_of, digest_of_id

WHOLE_SHARE: Final = 1 / 4
"""Of all bytes, for whole answers to bodies (`MemoryCache.remember`)."""


class MemoryCache:
    """All models of one process. Called on its event loop only."""

    __slots__ = ("_nbytes", "_whole", "entries", "evicted", "generation", "max_bytes", "pending", "whole_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._nbytes = 0
        self.evicted = 0
        self.generation = 0
        """Another one whenever something was dropped: what was being computed then is not kept."""
        self.whole_bytes = 0
        """Of the whole answers that are remembered; they are part of `nbytes`."""
        self._whole: OrderedDict[bytes, Entry] = OrderedDict()
        """Entries that have such, by key, the one used last at the end."""
        self.entries: OrderedDict[bytes, Entry | KeptRows] = OrderedDict()
        """By key, the one used last at the end: an entry, or the batch in which one is. For others only to look whether
        a key is there, while nothing is `pending`."""
        self.pending: KeptRows | None = None
        """A batch whose rows are to be taken in (`settle`) before anything else is done: one step for all of them."""

    def __len__(self) -> int:
        self.settle()
        return len(self.entries)

    @property
    def nbytes(self) -> int:
        """What all of it counts for."""
        self.settle()
        return self._nbytes

    def get(self, key: bytes, now: float) -> Entry | None:
        """An entry that may still be served, perhaps stale; it is then the one used last."""
        entry = self.peek(key)
        if entry is None:
            return None
        if now >= entry.stale_until:
            self.remove(entry)
            return None
        self.entries.move_to_end(key)
        return entry

    def touch(self, entry: Entry) -> None:
        """It was served by a whole answer that is remembered."""
        self.entries.move_to_end(entry.key)
        self._whole.move_to_end(entry.key)

    def peek(self, key: bytes) -> Entry | None:
        """An entry, without using it."""
        self.settle()
        kept = self.entries.get(key)
        if type(kept) is KeptRows:
            kept = self.entries[key] = kept.entry(key)
        return kept  # type: ignore[return-value]

    def named(self, id: str) -> Entry | None:
        """The entry of this id. It looks through all of them."""
        self.settle()
        for kept in self.entries.values():
            if isinstance(kept, Entry) and kept.id == id:
                return kept
        digest = digest_of_id(id)
        return next((self.peek(key) for key in self.entries if digest_of(key) == digest), None)

    def put(self, entry: Entry) -> None:
        """Keep an answer, in place of an older one."""
        self.settle()
        self.remove_key(entry.key)
        self.entries[entry.key] = entry
        self._nbytes += entry.nbytes
        if self._nbytes > self.max_bytes:
            self._make_room()

    def settle(self) -> None:
        """Take in the rows that are pending. What is here by now came from a computation that began later."""
        rows = self.pending
        if rows is None:
            return
        self.pending, rows.closed = None, True
        entries, starts = self.entries, rows.starts
        if not entries.keys().isdisjoint(starts):
            starts = rows.starts = {key: start for key, start in starts.items() if key not in entries}
        if 2 * len(starts) * rows.row_bytes < len(rows.data):
            rows.compact()
            starts = rows.starts
        entries.update(dict.fromkeys(starts, rows))
        self._nbytes += len(starts) * (OVERHEAD_BYTES + rows.row_bytes) + sum(map(len, starts))
        if self._nbytes > self.max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        while self._nbytes > self.max_bytes and self.entries:
            key, kept = self.entries.popitem(last=False)
            self._gone(key, kept)
            self.evicted += 1

    def remember(self, entry: Entry, table: dict[bytes, object], body: bytes, answer: object, nbytes: int) -> None:
        """Keep in `table` the whole answer to a body, as long as its entry is here; it counts as `nbytes` more.

        Those that were used longest ago are forgotten beyond a share of all bytes: a whole answer takes more than its
        entry, and would stand in the place of others that are worth more.
        """
        if body in table or self.entries.get(entry.key) is not entry:
            return
        table[body] = answer
        if entry.memos is None:
            entry.memos = []
        entry.memos.append((table, body, nbytes))
        entry.nbytes += nbytes
        self._nbytes += nbytes
        self.whole_bytes += nbytes
        self._whole[entry.key] = entry
        self._whole.move_to_end(entry.key)
        while self.whole_bytes > self.max_bytes * WHOLE_SHARE:
            self._forget_whole(self._whole.popitem(last=False)[1])
        self._make_room()

    def _forget_whole(self, entry: Entry) -> None:
        memos, entry.memos = entry.memos or (), None
        for table, body, nbytes in memos:
            table.pop(body, None)
            entry.nbytes -= nbytes
            self._nbytes -= nbytes
            self.whole_bytes -= nbytes

    def remove(self, entry: Entry) -> None:
        """Forget one entry, if it is here."""
        if self.entries.get(entry.key) is entry:
            self.remove_key(entry.key)

    def remove_key(self, key: bytes) -> None:
        """Forget what is kept under a key, if anything is."""
        kept = self.entries.pop(key, None)
        if kept is not None:
            self._gone(key, kept)

    def drop(self, goes: Callable[[Entry], bool], digest: bytes = b"") -> int:
        """Forget all for which this holds, or if there is a digest that of it; returns how many. `goes` is asked once
        for all rows of a batch that have no entry of their own: it must not look at what tells them apart."""
        self.settle()
        self.generation += 1
        if digest:
            found = [key for key in self.entries if digest_of(key) == digest]
            gone = [key for key in found if (entry := self.peek(key)) is not None and goes(entry)]
            for key in gone:
                self.remove_key(key)
            return len(gone)
        gone = []
        last: KeptRows | None = None
        last_goes = False
        for key, kept in self.entries.items():
            if isinstance(kept, Entry):
                if goes(kept):
                    gone.append(key)
                continue
            if kept is not last:
                last, last_goes = kept, goes(kept.entry(key))
            if last_goes:
                gone.append(key)
        for key in gone:
            self.remove_key(key)
        return len(gone)

    def _gone(self, key: bytes, kept: Entry | KeptRows) -> None:
        if not isinstance(kept, Entry):
            self._nbytes -= kept.nbytes_of(key)
            return
        if kept.memos is not None:
            del self._whole[key]
            self._forget_whole(kept)
        self._nbytes -= kept.nbytes
