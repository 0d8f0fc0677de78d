"""Partitions that are ours for now, and what of them is here."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from typing import Final

from forebay.brokers.packs import Pack
from forebay.brokers.port import Delivery

AHEAD_JOBS: Final = 8192
AHEAD_BYTES: Final = 32 << 20
"""Of one topic that are here and nobody has, about. Each partition has an equal share of it, and is fetched from until
that is full, then not until half of it is taken: of a backlog the first ones would otherwise fill it all, again and
again, and what waits in the last ones would wait until the first are empty."""
Place = tuple[str, int]
"""A topic and the number of a partition."""


class Part:
    """One partition, from when it was given to us until it is taken away. A message is done with when all before it
    are; `waiting` are those that are not done, by their offsets, None for one that is to become a dead letter."""

    __slots__ = ("asked", "begin", "is_ours", "kept_bytes", "kept_jobs", "next", "parts", "place", "waiting")

    def __init__(self, parts: Parts, place: Place) -> None:
        self.parts, self.place = parts, place
        self.is_ours = True
        self.waiting: OrderedDict[int, Pack | None] = OrderedDict()
        self.begin = self.next = -1
        """The first offset that came, and the one after the last; -1: none has come."""
        self.asked = -1
        """What the broker was told, and has not refused."""
        self.kept_jobs = self.kept_bytes = 0
        """That are here and nobody has."""

    @property
    def lowest(self) -> int:
        """The offset before which all is done with."""
        return next(iter(self.waiting)) if self.waiting else self.next

    def add(self, offset: int, pack: Pack | None) -> None:
        """A message has come."""
        if self.begin < 0:
            self.begin = self.asked = offset
        self.waiting[offset] = pack
        self.next = offset + 1


class Parts:
    """Those of one topic. Filled by the thread that fetches, emptied in the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[Place, Part] = {}
        self._kept: deque[tuple[Pack, int]] = deque()
        """Packs some of whose messages nobody has, as they came, with their sizes."""

    # -- the thread that fetches --------------------------------------------------------------------------------------

    def given(self, places: Iterable[Place]) -> None:
        """These are ours now."""
        with self._lock:
            for place in places:
                self._parts[place] = Part(self, place)

    def taken_away(self, places: Iterable[Place]) -> list[tuple[Place, int]]:
        """These are not ours any more: nobody gets what is here of them, and what is acked of them later is passed
        over. Where each is done with."""
        with self._lock:
            gone = [part for place in places if (part := self._parts.pop(place, None)) is not None]
            for part in gone:
                part.is_ours = False
            self._kept = deque((pack, size) for pack, size in self._kept if pack.owner.is_ours)
            return [(part.place, part.lowest) for part in gone if part.lowest > part.begin]

    def expects(self, place: Place, offset: int) -> Part | None:
        """Whose a message is that has come; None: nobody's. One that stands before what came last begins the partition
        anew, which somebody has made anew, too."""
        part = self._parts.get(place)
        if part is not None and offset < part.next:
            self.taken_away([place])
            self.given([place])
            part = self._parts[place]
        return part

    def add(self, part: Part, offset: int, pack: Pack | None, nbytes: int) -> None:
        """A message has come."""
        with self._lock:
            part.add(offset, pack)
            if pack is not None:
                self._kept.append((pack, nbytes))
                part.kept_jobs += len(pack.messages)
                part.kept_bytes += nbytes

    def to_commit(self) -> list[tuple[Place, int]]:
        """How far partitions are done with of which the broker was not told; it counts as told now."""
        with self._lock:
            moved = [part for part in self._parts.values() if part.lowest > part.asked]
            for part in moved:
                part.asked = part.lowest
            return [(part.place, part.asked) for part in moved]

    def not_committed(self, places: Collection[Place]) -> None:
        """The broker has to be told again."""
        with self._lock:
            for place in places:
                if (part := self._parts.get(place)) is not None:
                    part.asked = part.begin

    def full(self, before: Collection[Place]) -> set[Place]:
        """Of which no more should be fetched, when it was these `before`."""
        found = set()
        with self._lock:
            share = 1 / max(1, len(self._parts))
            for place, part in self._parts.items():
                filled = max(part.kept_jobs / AHEAD_JOBS, part.kept_bytes / AHEAD_BYTES)
                if filled >= (share / 2 if place in before else share):
                    found.add(place)
        return found

    def places(self) -> list[Place]:
        """Those that are ours."""
        with self._lock:
            return list(self._parts)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def take(self, most: int) -> list[Delivery]:
        """Up to `most` messages that nobody has."""
        found: list[Delivery] = []
        with self._lock:
            while self._kept and len(found) < most:
                pack, size = self._kept[0]
                handed = pack.hand_out(most - len(found))
                found += handed
                pack.owner.kept_jobs -= len(handed)
                if not pack.kept:
                    self._kept.popleft()
                    pack.owner.kept_bytes -= size
        return found

    def put_back(self, pack: Pack, taken: Collection[int]) -> bool:
        """Messages of a pack could not be sent anew: they are here again, the next that are taken. False: their
        partition is not ours any more."""
        with self._lock:
            if not pack.owner.is_ours:
                return False
            pack.keep(list(taken))
            if not any(each is pack for each, _ in self._kept):
                self._kept.appendleft((pack, 0))
            pack.owner.kept_jobs += len(taken)
            return True

    def done(self, part: Part, offset: int) -> None:
        """A message is done with."""
        with self._lock:
            part.waiting.pop(offset, None)

    def waits(self, place: Place, end: int) -> int | None:
        """How many messages of a partition nobody has; None: it is not ours."""
        with self._lock:
            part = self._parts.get(place)
            if part is None or part.next < 0:
                return None
            kept = sum(pack.owner is part for pack, _ in self._kept)
            return kept + max(0, end - part.next)

    def holds(self) -> bool:
        """Whether somebody has anything of them."""
        with self._lock:
            waiting = [pack for part in self._parts.values() for pack in part.waiting.values()]
            return any(pack is None or "held" in pack.states or "sending" in pack.states for pack in waiting)

    def begun(self) -> list[Pack]:
        """Packs that are done with in part, of which nothing before is still to be done with as a whole: the rest of
        them may be sent anew, and the pack is done with then."""
        found = []
        with self._lock:
            for part in self._parts.values():
                for pack in part.waiting.values():
                    if pack is None or pack.whole:
                        break
                    found.append(pack)
        return found

    def reached(self, place: Place) -> int:
        """The offset after the last that came; -1: none has."""
        with self._lock:
            part = self._parts.get(place)
            return -1 if part is None else part.next
