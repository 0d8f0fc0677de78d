"""The waiting items of one model: their lanes, their order, their number. What is too late leaves here."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from forebay.batching.admission import Margins
from forebay.batching.item import Item
from forebay.batching.lane import Lane
from forebay.batching.latency import LatencyModel

T = TypeVar("T", bound=Item)

NEVER: Final = float("inf")
ROUNDING_S: Final = 1e-5
"""`wake_at` names an instant at which what it waits for is surely past, whatever the rounding."""


class Queue(Generic[T]):
    """Lanes of items in order of key. The batcher is a queue with rules."""

    def __init__(self, latency: LatencyModel) -> None:
        self.latency = latency
        self.depth_rows = 0
        """Rows that wait in the queue."""
        self.depth_bytes = 0
        self._lanes: dict[Hashable, Lane[T]] = {}
        self._lane: Lane[T] = Lane(object())
        """Any one of the lanes; nearly always the only one."""
        self._expired: list[T] = []
        self.margins = Margins()
        self._work_s = 0.0
        """Seconds of work that wait in lanes of variable length, at the best batch sizes."""

    def _lane_of(self, item: T) -> Lane[T]:
        lane = self._lanes.get(item.lane)
        if lane is None:
            if not self._lane.items:
                self._lanes.pop(self._lane.name, None)
            lane = self._lanes[item.lane] = Lane(item.lane)
            if len(self._lanes) == 1:
                self._lane = lane
        return lane

    def _enqueue(self, lane: Lane[T], item: T, key: float, *, before_equals: bool = False) -> None:
        if (item.priority or item.behind_s) and not lane.mixed:
            lane.mixed = True
            lane.next_expiry = min((i.deadline for i in lane.items), default=NEVER)
        if lane.mixed:
            lane.next_expiry = min(lane.next_expiry, item.deadline)
        item.order = key
        lane.insert(key, item, before_equals=before_equals)
        lane.rows += item.rows
        lane.wide += item.rows > 1
        self.depth_rows += item.rows
        self.depth_bytes += item.nbytes
        if item.length:
            self._work_s += item.rows * self.latency.curve(item.length).unit_s

    @property
    def any_expired(self) -> bool:
        """Whether `pull` has come upon items that are too late: `take_expired` returns them."""
        return bool(self._expired)

    def discard(self, item: T) -> bool:
        """The client left. False if the item does not wait here."""
        if item.order is None:
            return False
        lane = self._lanes[item.lane]
        self._left(lane, item)
        lane.ghosts += 1
        if not lane.rows or lane.ghosts > 64 + len(lane.items) // 2:
            lane.sweep()
            self._forget_if_empty(lane)
        return True

    def take_all(self) -> list[T]:
        """Empty the queue; the items are the caller's."""
        taken = [item for lane in self._lanes.values() for item in lane.items if item.order is not None]
        for item in taken:
            self.discard(item)
        return taken

    def _left(self, lane: Lane[T], item: T) -> None:
        item.order = None
        lane.rows -= item.rows
        lane.wide -= item.rows > 1
        self.depth_rows -= item.rows
        self.depth_bytes -= item.nbytes
        if item.length:
            self._work_s -= item.rows * self.latency.curve(item.length).unit_s

    def _forget_if_empty(self, lane: Lane[T]) -> None:
        if not lane.items and len(self._lanes) > 1:
            del self._lanes[lane.name]
            if self._lane is lane:
                self._lane = next(iter(self._lanes.values()))

    def _take_singly(self, lane: Lane[T], skip: int, cap: int, start: float) -> list[T]:
        """Take item by item after the first `skip`: some are ghosts, have several rows, or a deadline out of order."""
        taken: list[T] = []
        rows = passed = 0
        for item in lane.items[skip:] if skip else lane.items:
            if item.order is not None:
                if taken and (rows + item.rows > cap or rows + item.rows > self._rows_in_time(item, start)):
                    break
                taken.append(item)
                rows += item.rows
            else:
                lane.ghosts -= 1
            passed += 1
        lane.drop(skip, passed)
        return taken

    def _drop_late(self, lane: Lane[T], start: float) -> None:
        """Move heads that would end after their deadline, even alone, to the expired."""
        if lane.mixed:
            lane.sweep()
            if lane.items and start > lane.next_expiry - self._alone_s(lane.head):
                self._drop_late_anywhere(lane, start)
            return
        passed = 0
        for item in lane.items:
            if item.order is None:
                lane.ghosts -= 1
            elif start > item.deadline - self._alone_s(item):
                self._left(lane, item)
                self.margins.expired(item)
                self._expired.append(item)
            else:
                break
            passed += 1
        if passed:
            lane.drop(0, passed)

    def _drop_late_anywhere(self, lane: Lane[T], start: float) -> None:
        lane.sweep()
        kept: list[tuple[float, T]] = []
        for key, item in zip(lane.keys, lane.items, strict=True):
            if start > item.deadline - self._alone_s(item):
                self._left(lane, item)
                self.margins.expired(item)
                self._expired.append(item)
            else:
                kept.append((key, item))
        lane.keep(kept)
        lane.next_expiry = min((item.deadline for _, item in kept), default=NEVER)

    def _alone_s(self, item: T) -> float:
        return self.latency.predict(item.rows, item.length)

    def _rows_in_time(self, item: T, start: float) -> int:
        """The most rows that a batch with this item may have to meet its deadline."""
        return self.latency.curve(item.length).rows_within((item.deadline - start) / self.latency.band)
