"""Batch building: how many of the waiting items to run together, and which."""

from __future__ import annotations

from typing import Final, TypeVar

from forebay.batching.admission import ArrivalRate
from forebay.batching.growth import grow
from forebay.batching.item import Batch, DispatchReason, Item
from forebay.batching.lane import Lane
from forebay.batching.latency import Curve, LatencyModel
from forebay.batching.policy import Policy
from forebay.batching.pool import Pool
from forebay.batching.queue import Queue
from forebay.batching.window import choose_window

T = TypeVar("T", bound=Item)

WINDOW_FACTOR: Final = 4
"""Items looked at for one batch of different lengths, in multiples of the largest batch."""
WINDOW_MAX: Final = 256
PROBE_EVERY: Final = 50
"""After so many batches at the best size, one of twice that size is tried, so that a wrong measurement is found out."""
PROBE_EVERY_MIXED: Final = 200
"""The same where lengths vary: there a batch that does not pay costs more."""


class Planner(Queue[T]):
    """A queue that knows what its instances cost, and cuts batches accordingly."""

    def __init__(self, policy: Policy, latency: LatencyModel) -> None:
        super().__init__(latency)
        self.policy = policy
        self.pool: Pool[T] = Pool()
        self.seen_rows = 0
        """Rows ever offered, refused ones included."""
        self.rate = ArrivalRate()
        self._full_batches = 0
        self._max_rows = policy.max_batch_rows if policy.batching else 1
        latency.tabulate_to(policy.max_batch_rows)
        self._replan()

    def _form(self, lane: Lane[T], start: float) -> Batch[T] | None:
        """Take a batch that begins at `start` off the lane; None if all that waited was too late."""
        head = lane.head
        if head.deadline - start < self._limit_s or lane.mixed or lane.ghosts or lane.wide or head.length:
            self._drop_late(lane, start)
            if not lane.rows:
                return None
            head = lane.head
        waiting, length = lane.rows, head.length
        limit = self._row_limit(waiting, length)
        skip, cap = self._window(lane, start, limit)
        if length and len(lane.items) > 1:
            probe = limit > self._rows_that_pay(length)
            taken, late = self._choose(lane, skip, cap, start, probe=probe)
        else:
            late = cap < limit
            if not (lane.wide or lane.ghosts or lane.mixed or length):
                return self._slice(lane, skip, cap if late else limit, limit)
            taken = self._take_singly(lane, skip, min(cap, limit), start)
        for item in taken:
            self._left(lane, item)
        return self._batch(taken, waiting - lane.rows, lane, self._reason(lane, waiting, limit, late=late))

    def _slice(self, lane: Lane[T], skip: int, cap: int, limit: int) -> Batch[T]:
        """The usual case at its fastest: items of one row and one shape, all alive and in order of deadline."""
        waiting = lane.rows
        taken = lane.items[skip : skip + cap]
        rows = len(taken)
        lane.drop(skip, rows)
        nbytes = 0
        for item in taken:
            item.order = None
            nbytes += item.nbytes
        lane.rows = waiting - rows
        self.depth_rows -= rows
        self.depth_bytes -= nbytes
        return Batch(taken, rows, 0, lane.name, self._reason(lane, waiting, limit, late=cap < limit))

    def _reason(self, lane: Lane[T], waiting: int, limit: int, *, late: bool) -> DispatchReason:
        if lane.rows:
            return DispatchReason.deadline if late else DispatchReason.full
        return DispatchReason.delay if self.policy.max_queue_delay_s and waiting < limit else DispatchReason.idle

    def _batch(self, taken: list[T], rows: int, lane: Lane[T], reason: DispatchReason) -> Batch[T]:
        length = taken[0].length
        if not length or len(taken) == 1:
            return Batch(taken, rows, length, lane.name, reason)
        length = max(item.length for item in taken)
        batch = Batch(taken, rows, length, lane.name, reason)
        batch.padding_waste = 1 - sum(item.rows * item.length for item in taken) / (rows * length)
        return batch

    def _row_limit(self, waiting: int, length: int) -> int:
        """The most rows that pay: beyond it a row costs more than it saves. Now and then twice that, to make sure."""
        limit = self._rows_that_pay(length) if length else self._limit
        if limit < self._max_rows and waiting > limit:
            self._full_batches += 1
            if self._full_batches >= (PROBE_EVERY_MIXED if length else PROBE_EVERY):
                self._full_batches = 0
                return min(self._max_rows, 2 * limit)
        return limit

    def _window(self, lane: Lane[T], start: float, limit: int) -> tuple[int, int]:
        """Which items come next: how many to pass over, and the most rows that then end in time."""
        head = lane.head
        cap = self._rows_in_time(head, start)
        if head.length:
            # Where lengths vary, a batch is rarely full: what matters is whether the head may have enough company.
            limit = min(limit, self.latency.curve(head.length).enough_rows)
        if cap >= limit or cap >= lane.rows or len(lane.items) == 1 or limit == 1:
            return 0, cap or 1
        limit = min(limit, self._max_rows)
        deadlines = [item.deadline for item in lane.items[: WINDOW_FACTOR * limit]]
        curve = self.latency.curve(head.length)
        return choose_window(deadlines, start, curve, self.latency.band, limit, self._worth(curve, limit))

    def _worth(self, curve: Curve, limit: int) -> float:
        """Rows a second that could be done instead: all that an instance can do when more arrives than that."""
        best = limit / curve.seconds[limit]
        load = self.rate.rows_per_s / (best * max(1, len(self.pool.slots)))
        return best * min(1.0, max(0.0, (load - 0.7) / 0.3))

    def _choose(self, lane: Lane[T], skip: int, cap: int, start: float, *, probe: bool) -> tuple[list[T], bool]:
        """Take items of different lengths: those that cost least extra. The flag: a deadline stopped the growth."""
        lane.sweep()
        limit = self._max_rows
        window = lane.items[skip : skip + min(WINDOW_MAX, WINDOW_FACTOR * limit)]
        places, late = grow(window, self.latency, limit, start, probe=probe)
        chosen = {skip + place for place in places}
        taken = [lane.items[place] for place in sorted(chosen)]
        lane.keep([entry for place, entry in enumerate(zip(lane.keys, lane.items, strict=True)) if place not in chosen])
        return taken, late

    def _rows_that_pay(self, length: int) -> int:
        return min(self._max_rows, self.latency.curve(length).best_rows)

    def _replan(self) -> None:
        """Measured costs have changed: look up again what is derived from them."""
        latency = self.latency
        self._version = latency.version
        self.margins.expect_company(yes=latency.batches_pay())
        curve = latency.curve(0)
        self._limit = self._rows_that_pay(0)
        self._limit_s = curve.seconds[self._limit] * latency.band
        batches = self.policy.max_queue_rows // self._limit + 2
        self._easy_s = batches * self._limit_s + self.pool.hand_over_s
        self._work_s = sum(
            item.rows * latency.curve(item.length).unit_s
            for lane in self._lanes.values()
            for item in lane.items
            if item.order is not None and item.length
        )
