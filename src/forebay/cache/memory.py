"""Answers kept in this process: bounded in bytes, the least recently used go first. Takes every answer at once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from forebay.cache.entry import OVERHEAD_BYTES, Entry, KeptRows
from forebay.cache.key import digest_of, digest_of_id

WHOLE_SHARE: Final = 1 / 4
"""Of all bytes, for whole answers to bodies (`MemoryCache.remember`)."""


class MemoryCache:
    """All models of one process. Called on its event loop only.

    What nobody has asked for again stands by the batch in which it came (`KeptRows`): most never is, and to order each
    by its use would be half of what keeping it costs. The rows of a batch were used last when it came.
    """

    __slots__ = (
        "_batches",
        "_nbytes",
        "_uses",
        "_whole",
        "entries",
        "evicted",
        "generation",
        "max_bytes",
        "pending",
        "rows",
        "whole_bytes",
    )

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
        self._uses = 0
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        """By key, the one used last at the end. For others only to look whether a key is there."""
        self.rows: dict[bytes, KeptRows] = {}
        """The batch in which a row is that has no entry, by key; none is in `entries` too. For others only to look
        whether a key is there, while nothing is `pending`."""
        self._batches: OrderedDict[int, KeptRows] = OrderedDict()
        """Those that `rows` leads to, by when they came, the first one first."""
        self.pending: KeptRows | None = None
        """A batch whose rows are to be taken in (`settle`) before anything else is done: one step for all of them."""

    def __len__(self) -> int:
        self.settle()
        return len(self.entries) + len(self.rows)

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
        self._used(entry)
        return entry

    def touch(self, entry: Entry) -> None:
        """It was served by a whole answer that is remembered."""
        self._used(entry)
        self._whole.move_to_end(entry.key)

    def _used(self, entry: Entry) -> None:
        self._uses += 1
        entry.used = self._uses
        self.entries.move_to_end(entry.key)

    def peek(self, key: bytes) -> Entry | None:
        """An entry, without using it, unless it has stood by its batch until now."""
        self.settle()
        entry = self.entries.get(key)
        if entry is None:
            batch = self.rows.pop(key, None)
            if batch is not None:
                self.entries[key] = entry = batch.taken(key)
                self._used(entry)
                if not batch.starts:
                    del self._batches[batch.came]
        return entry

    def named(self, id: str) -> Entry | None:
        """The entry of this id. It looks through all of them."""
        self.settle()
        for entry in self.entries.values():
            if entry.id == id:
                return entry
        digest = digest_of_id(id)
        return next((self.peek(key) for key in self._keys() if digest_of(key) == digest), None)

    def _keys(self) -> list[bytes]:
        return [*self.entries, *self.rows]

    def put(self, entry: Entry) -> None:
        """Keep an answer, in place of an older one."""
        self.settle()
        self.remove_key(entry.key)
        self.entries[entry.key] = entry
        self._used(entry)
        self._nbytes += entry.nbytes
        if self._nbytes > self.max_bytes:
            self._make_room()

    def settle(self) -> None:
        """Take in the rows that are pending. What is here by now came from a computation that began later."""
        batch = self.pending
        if batch is None:
            return
        self.pending, batch.closed = None, True
        entries, rows, starts = self.entries, self.rows, batch.starts
        if entries and not entries.keys().isdisjoint(starts):
            starts = batch.starts = {key: start for key, start in starts.items() if key not in entries}
        wanted = len(rows) + len(starts)
        rows.update(dict.fromkeys(starts, batch))
        if len(rows) != wanted:
            starts = self._given_back(batch)
        if not starts:
            return
        if 2 * len(starts) * batch.row_bytes < len(batch.data):
            batch.compact()
            starts = batch.starts
        self._uses = batch.came = self._uses + 1
        self._batches[batch.came] = batch
        batch.nbytes = len(starts) * (OVERHEAD_BYTES + batch.row_bytes) + sum(map(len, starts))
        self._nbytes += batch.nbytes
        if self._nbytes > self.max_bytes:
            self._make_room()

    def _given_back(self, batch: KeptRows) -> dict[bytes, int]:
        """Some of what this batch has just taken was another's, and is so again: two engines of one model have computed
        it at once, while one takes the other's place. So rare that it is not looked for beforehand, which would cost a
        search for each row; here all batches are looked through. Returns what is left to it."""
        starts = batch.starts
        for other in self._batches.values():
            for key in other.starts.keys() & starts.keys():
                self.rows[key] = other
                del starts[key]
        return starts

    def _make_room(self) -> None:
        """What was used longest ago goes: an entry, or a row of a batch that came before."""
        while self._nbytes > self.max_bytes and (self.entries or self._batches):
            came = next(iter(self._batches), math.inf)
            if self.entries and next(iter(self.entries.values())).used < came:
                self._gone(self.entries.popitem(last=False)[1])
                self.evicted += 1
            else:
                self._shorten(next(iter(self._batches.values())))

    def _shorten(self, batch: KeptRows) -> None:
        """Forget so many rows of a batch that all has room; all of them where they are few among all."""
        rows, before = self.rows, len(batch.starts)
        if batch.nbytes < self.max_bytes >> 8:
            for key in batch.starts:
                del rows[key]
            self._nbytes -= batch.nbytes
            batch.starts = {}
        while batch.starts and self._nbytes > self.max_bytes:
            key, _ = batch.starts.popitem()
            self._lost_row(batch, key)
        self.evicted += before - len(batch.starts)
        if not batch.starts:
            del self._batches[batch.came]

    def _lost_row(self, batch: KeptRows, key: bytes) -> None:
        del self.rows[key]
        nbytes = batch.nbytes_of(key)
        batch.nbytes -= nbytes
        self._nbytes -= nbytes

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
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._gone(entry)
            return
        batch = self.rows.get(key)
        if batch is not None:
            del batch.starts[key]
            self._lost_row(batch, key)
            if not batch.starts:
                del self._batches[batch.came]

    def drop(self, goes: Callable[[Entry], bool], digest: bytes = b"") -> int:
        """Forget all for which this holds, or if there is a digest that of it; returns how many. `goes` is asked once
        for all rows of a batch that have no entry of their own: it must not look at what tells them apart."""
        self.settle()
        self.generation += 1
        if digest:
            found = [key for key in self._keys() if digest_of(key) == digest]
            gone = [key for key in found if (entry := self.peek(key)) is not None and goes(entry)]
        else:
            gone = [key for key, entry in self.entries.items() if goes(entry)]
            for batch in self._batches.values():
                if goes(batch.entry(next(iter(batch.starts)))):
                    gone += batch.starts
        for key in gone:
            self.remove_key(key)
        return len(gone)

    def _gone(self, entry: Entry) -> None:
        if entry.memos is not None:
            del self._whole[entry.key]
            self._forget_whole(entry)
        self._nbytes -= entry.nbytes
