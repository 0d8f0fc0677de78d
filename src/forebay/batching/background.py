"""Items that nobody waits for at a connection (jobs): they run in what the others leave, in batches of their own."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Final, Generic, TypeVar

from forebay.batching.growth import grow
from forebay.batching.item import Batch, DispatchReason, Item
from forebay.batching.latency import LatencyModel
from forebay.batching.planner import WINDOW_FACTOR, WINDOW_MAX, Planner
from forebay.batching.policy import Policy
from forebay.batching.queue import NEVER, ROUNDING_S

T = TypeVar("T", bound=Item)

LATELY_S: Final = 10.0
"""Who has asked so lately may ask again: until then batches of jobs are short, and an instance is kept free."""
SHORT: Final = 0.5
"""How long such a batch may take, as a share of the round trip of a batch that somebody waits for ..."""
STRETCH: Final = 1.25
"""... or so many times what one row takes, where that is longer: where rows cost little beside a fixed part, a little
more time is many more rows."""
SHORT_ROWS: Final = 32
"""Rows that it may have at most, since reading and writing them costs time of the caller's loop, too."""
COMPANY_WEIGHT: Final = 0.1
LONGEST_WAIT_S: Final = 1.0
SHARE: Final = 0.02
"""Where others wait at all times, jobs get this share of one instance, but no turn before they have waited so long."""
TIMEOUT_SHARE: Final = 0.5
"""A batch is made no longer than this share of the shortest timeout in it."""


class Backlog(Generic[T]):
    """First come, first served, in lanes. An item's `order` is its number while it waits here, else None."""

    def __init__(self) -> None:
        self.rows = 0
        self._lanes: dict[Hashable, dict[int, T]] = {}
        self._first = self._last = 0

    def add(self, item: T) -> None:
        """Behind all others."""
        self._last += 1
        item.order = self._last
        lane = self._lanes.get(item.lane)
        if lane is None:
            self._lanes[item.lane] = {self._last: item}
        else:
            lane[self._last] = item
        self.rows += item.rows

    def put_back(self, item: T) -> None:
        """Before all others."""
        self._first -= 1
        item.order = self._first
        self._lanes[item.lane] = {self._first: item, **self._lanes.get(item.lane, {})}
        self.rows += item.rows

    def take(self, items: Iterable[T]) -> None:
        """These wait here no longer."""
        for item in items:
            lane = self._lanes[item.lane]
            del lane[item.order]
            item.order = None
            self.rows -= item.rows
            if not lane:
                del self._lanes[item.lane]

    def oldest(self, most: int) -> list[T]:
        """Up to so many items of the lane whose first has waited longest; they stay. There must be one."""
        lanes = self._lanes.values()
        lane = next(iter(lanes)) if len(lanes) == 1 else min(lanes, key=lambda lane: next(iter(lane)))
        return list(islice(lane.values(), most))

    def take_all(self) -> list[T]:
        """Empty it; the items are the caller's."""
        items = [item for lane in self._lanes.values() for item in lane.values()]
        self.take(items)
        return items


class BackgroundPlanner(Planner[T]):
    """A planner that knows what may wait behind the queue, and when it may run."""

    def __init__(self, policy: Policy, latency: LatencyModel) -> None:
        super().__init__(policy, latency)
        self.backlog: Backlog[T] = Backlog()
        self._company_at = -NEVER
        """When a batch was last sent that somebody waits for, or somebody was refused for want of time."""
        self._company_s = 0.0
        """What such batches take, on average."""
        self._turn_at = NEVER
        """From when on jobs may go before others."""

    def offer_background(self, item: T, now: float) -> None:
        """Let an item wait behind all others. It is never refused; how many there are is the caller's affair."""
        if not self.backlog.rows:
            self._turn_at = now + LONGEST_WAIT_S
        self.backlog.add(item)

    def discard(self, item: T) -> bool:
        """The client left. False if the item does not wait here."""
        if item.background is None:
            return super().discard(item)
        if item.order is None:
            return False
        self.backlog.take((item,))
        return True

    def take_all(self) -> list[T]:
        """Empty the queue; the items are the caller's."""
        return [*super().take_all(), *self.backlog.take_all()]

    def has_company(self, now: float) -> bool:
        """Whether somebody has asked lately, and may again: jobs then do as little harm as they can."""
        return now - self._company_at < LATELY_S

    def _met_company(self, batch: Batch[T], now: float) -> None:
        """A batch goes out that somebody waits for."""
        self._company_at = now
        self._company_s += COMPANY_WEIGHT * (batch.predicted_s - self._company_s)

    def _form_background(self, now: float) -> Batch[T] | None:
        """A batch of jobs that may go to an idle instance now, or None."""
        pool = self.pool
        if not pool.idle:
            return None
        company = self.has_company(now)
        if company and len(pool.idle) == 1 < len(pool.slots) and now < self._turn_at:
            return None  # whoever comes next finds an instance free
        if self.latency.version != self._version:
            self._replan()
        waiting = self.backlog.rows
        head = self.backlog.oldest(1)[0]
        limit = self._row_limit(waiting, head.length)
        longest_s = NEVER
        if company:
            limit = min(limit, SHORT_ROWS)
            alone_s = self.latency.predict(head.rows, head.length)
            longest_s = max(STRETCH * alone_s, SHORT * (pool.hand_over_s + self._company_s))
        window = self.backlog.oldest(min(WINDOW_MAX, WINDOW_FACTOR * limit) if head.length else limit)
        if head.length and len(window) > 1:
            probe = limit > self._rows_that_pay(head.length)
            places, _ = grow(window, self.latency, min(limit, self._max_rows), now, probe=probe)
            window = [window[place] for place in places]
        taken = self._fitting(window, limit, longest_s)
        self.backlog.take(taken)
        rows, length = sum([item.rows for item in taken]), max([item.length for item in taken])
        reason = DispatchReason.full if self.backlog.rows else DispatchReason.idle
        batch = Batch(taken, rows, length, head.lane, reason)
        batch.background = True
        batch.predicted_s = self.latency.predict(rows, length)
        if length:
            batch.padding_waste = 1 - sum(item.rows * item.length for item in taken) / (rows * length)
        self._turn_at = now + max(LONGEST_WAIT_S, batch.predicted_s / SHARE)
        return batch

    def _background_at(self) -> float:
        """When a job may go to an instance that is idle now: it is kept free for others, but not for ever."""
        if not self.backlog.rows or not self.pool.idle:
            return NEVER
        if self.depth_rows:
            return self._turn_at
        return min(self._turn_at, self._company_at + LATELY_S + ROUNDING_S)

    def _fitting(self, items: list[T], limit: int, longest_s: float) -> list[T]:
        """As many of them as may run together, in this order; one at least."""
        rows, length, due_s = 0, 0, longest_s
        for place, item in enumerate(items):
            assert item.background is not None
            timeout_s = item.background.timeout_s
            if timeout_s < NEVER:
                due_s = min(due_s, TIMEOUT_SHARE * timeout_s)
            rows, length = rows + item.rows, max(length, item.length)
            if place and (rows > limit or (due_s < NEVER and self.latency.predict(rows, length) > due_s)):
                return items[:place]
        return items
