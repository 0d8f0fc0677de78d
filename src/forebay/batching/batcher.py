"""The batcher of one model: admission, order, batch building. Pure: no clock, no I/O, no threads.

The engine offers items, pulls batches after every burst of offers and every answer, and reports what became of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from forebay.batching.admission import Overtaking, batch_ahead, predicted_start
from forebay.batching.background import BackgroundPlanner
from forebay.batching.item import Batch, DispatchReason, Item, Refusal
from forebay.batching.lane import Lane
from forebay.batching.latency import LatencyModel
from forebay.batching.policy import Policy
from forebay.batching.pool import Slot
from forebay.batching.queue import NEVER, ROUNDING_S

T = TypeVar("T", bound=Item)

STRETCH_WEIGHT: Final = 0.05
PIECE_PACE: Final = 2.0
"""How much later than it could run at best a further piece of a split request stands in the queue."""

RELEASE_S: Final = 0.005
"""A row that is held for company goes so long before it would be too late: timers fire late, some by a millisecond."""


class Batcher(BackgroundPlanner[T]):
    """Queues items and says what to run next, where. Items are `queued` from `offer` until a pull, a discard or
    `take_expired` returns them; an item that was discarded must not be offered again."""

    def __init__(self, policy: Policy, latency: LatencyModel, timer_s: float = 0.0) -> None:
        """`timer_s`: how much later than asked the caller's timers may fire."""
        super().__init__(policy, latency)
        self._timer_s = timer_s
        self._overtaking = Overtaking()
        self._stretch = 1.0
        """How much longer than at its best batch size and without padding a row of variable length takes here."""
        self._ideal_s = self._spent_s = 0.0
        self._easy_deadline = 0.0

    # -- instances ----------------------------------------------------------------------------------------------------

    def add_instance(self, instance: int, now: float) -> None:
        """An instance came up and is idle."""
        self.pool.add(instance, now)
        self._settle(now)

    def remove_instance(self, instance: int, now: float) -> None:
        """An instance died or was drained: its batches are forgotten here, their items are the caller's."""
        self.pool.remove(instance)
        self._settle(now)

    @property
    def in_flight_rows(self) -> int:
        """Rows at the instances, running or waiting there."""
        return self.pool.in_flight_rows

    # -- into the queue -----------------------------------------------------------------------------------------------

    def offer(self, item: T, now: float) -> Refusal | None:
        """Let an item in, or say why not. None: it is queued."""
        rows = item.rows
        self.seen_rows += rows
        policy = self.policy
        if self.depth_rows + rows > policy.max_queue_rows or self.depth_bytes + item.nbytes > policy.max_queue_bytes:
            return Refusal("queue_full", max(0.001, self.backlog_s(now)))
        deadline = item.deadline
        lane = self._lane
        if item.lane != lane.name or item.priority or item.length or rows != 1 or lane.mixed:
            return self._offer_special(item, now)
        keys = lane.keys
        if keys and deadline < keys[-1]:
            return self._offer_special(item, now)
        if deadline < self._easy_deadline or deadline - now < self._easy_s:
            finish = self._forecast(lane, item, deadline, now)
            if finish > deadline:
                self._company_at = now
                return Refusal("deadline_unreachable", max(0.001, finish - deadline))
        item.order = deadline
        keys.append(deadline)
        lane.items.append(item)
        lane.rows += 1
        self.depth_rows += 1
        self.depth_bytes += item.nbytes
        return None

    def _offer_special(self, item: T, now: float) -> Refusal | None:
        lane = self._lane_of(item)
        key = self._key(item)
        finish = self._forecast(lane, item, key, now)
        if finish > item.deadline:
            self._forget_if_empty(lane)
            self._company_at = now
            return Refusal("deadline_unreachable", max(0.001, finish - item.deadline))
        if item.priority or lane.mixed:
            self._overtaking.admit(level_of(item.priority), rows=item.rows)
        self._enqueue(lane, item, key)
        return None

    def requeue(self, items: Iterable[T], now: float) -> None:
        """Put items back that an instance did not finish: no admission, and ahead of their equals."""
        for item in reversed(list(items)):
            if item.background is not None:
                self.backlog.put_back(item)
                continue
            self._enqueue(self._lane_of(item), item, self._key(item), before_equals=True)
        self._settle(now)

    def _key(self, item: T) -> float:
        """Earliest deadline first; a step of priority is a fixed head start, so that nothing is ever sorted again."""
        key = item.deadline + item.behind_s
        return key + (level_of(item.priority) - 1) * self.policy.ageing_s if item.priority else key

    # -- out of the queue ---------------------------------------------------------------------------------------------

    def pull(self, now: float) -> Batch[T] | None:
        """The next batch to send now, to `batch.instance`; None when nothing should go."""
        if self.backlog.rows and (not self.depth_rows or now >= self._turn_at):
            batch = self._pull_background(now)
            if batch is not None:
                return batch
        if not self.depth_rows:
            return None
        pool = self.pool
        if pool.idle:
            slot, start = pool.idle[0], now + pool.hand_over_s
        else:
            soonest = self._early_slot(now)
            if soonest is None:
                return None
            slot, start = soonest, max(soonest.free_at, now)
        if self.latency.version != self._version:
            self._replan()
        while self.depth_rows:
            lane = self._ripe_lane(now) if len(self._lanes) > 1 or self.policy.max_queue_delay_s else self._lane
            if lane is None:
                return None
            batch = self._form(lane, start)
            self._forget_if_empty(lane)
            if batch is not None:
                batch.predicted_s = self.latency.predict(batch.rows, batch.length)
                if batch.length:
                    self._learn_stretch(batch)
                self._met_company(batch, now)
                pool.send(slot, batch, now)
                self._settle(now)
                return batch
        return None

    def _pull_background(self, now: float) -> Batch[T] | None:
        batch = self._form_background(now)
        if batch is not None:
            self.pool.send(self.pool.idle[0], batch, now)
            self._settle(now)
        return batch

    def place(self, items: list[T], now: float) -> Batch[T] | None:
        """Send exactly these items, which are not queued, to an idle instance; None while there is none."""
        if not self.pool.idle:
            return None
        rows = sum(item.rows for item in items)
        length = max(item.length for item in items)
        batch = Batch(items, rows, length, items[0].lane, DispatchReason.full)
        batch.background = items[0].background is not None
        batch.predicted_s = self.latency.predict(rows, length)
        self.pool.send(self.pool.idle[0], batch, now)
        self._settle(now)
        return batch

    def _early_slot(self, now: float) -> Slot[T] | None:
        """A busy instance whose answer is due so soon that a batch sent now reaches it just in time."""
        slot = self.pool.soonest() if self.policy.hands_over_early else None
        if slot is not None and slot.free_at - now < self._early_s(slot):
            return slot
        return None

    def _early_s(self, slot: Slot[T]) -> float:
        """How long before its answer an instance may get the next batch: the hand-over cost, and as much more as
        the timer that wakes the caller for it may be late, where that is little beside the run itself."""
        running = slot.running
        late_s = min(self._timer_s, 0.1 * running.predicted_s) if running is not None else 0.0
        return self.pool.hand_over_s + late_s

    def _ripe_lane(self, now: float) -> Lane[T] | None:
        """The lane whose head goes first, of those that need not wait for company."""
        delay = self.policy.max_queue_delay_s
        best: Lane[T] | None = None
        for lane in self._lanes.values():
            if not lane.rows or (best is not None and lane.head.order >= best.head.order):
                continue
            if delay and lane.rows < self._limit and now < self._held_until(lane):
                continue
            best = lane
        return best

    def _held_until(self, lane: Lane[T]) -> float:
        head = lane.head
        latest = head.deadline - RELEASE_S - self.pool.hand_over_s - self.latency.predict99(lane.rows, head.length)
        return min(head.arrived + self.policy.max_queue_delay_s, latest)

    def take_expired(self, now: float) -> list[T]:
        """Queued items that can no longer make their deadline; they are off the queue."""
        for lane in list(self._lanes.values()):
            if lane.rows:
                self._drop_late(lane, now)
                self._forget_if_empty(lane)
        expired, self._expired = self._expired, []
        return expired

    # -- answers ------------------------------------------------------------------------------------------------------

    def finished(self, batch: Batch[T], now: float, busy_s: float) -> None:
        """The instance answered; `busy_s` is its own measure of the computing time."""
        self.latency.observe(batch.rows, batch.length, busy_s)
        if not batch.background:
            self.margins.answered(batch.items, batch.rows, now)
        self.pool.finished(batch, now, busy_s)
        self._settle(now)

    def _learn_stretch(self, batch: Batch[T]) -> None:
        ideal_s = sum(item.rows * self.latency.curve(item.length).unit_s for item in batch.items)
        self._ideal_s += STRETCH_WEIGHT * (ideal_s - self._ideal_s)
        self._spent_s += STRETCH_WEIGHT * (batch.predicted_s - self._spent_s)
        self._stretch = self._spent_s / self._ideal_s

    def aborted(self, batch: Batch[T], now: float) -> None:
        """The batch was taken back or failed: its place is free, nothing is learned."""
        self.pool.release(batch, now)
        self._settle(now)

    # -- forecasts ----------------------------------------------------------------------------------------------------

    def wake_at(self, now: float) -> float | None:
        """The next instant at which `pull` or `take_expired` could give something without any other call."""
        if self._expired:
            return now
        best = self._background_at()
        if not self.depth_rows:
            return None if best == NEVER else max(best, now)
        for lane in self._lanes.values():
            if not lane.rows:
                continue
            head = lane.head
            last_start = (lane.next_expiry if lane.mixed else head.deadline) - self._alone_s(head)
            best = min(best, last_start + ROUNDING_S)
            if self.pool.idle and self.policy.max_queue_delay_s:
                best = min(best, self._held_until(lane))
        if not self.pool.idle and self.policy.hands_over_early:
            slot = self.pool.soonest()
            if slot is not None and slot.free_at - self._early_s(slot) > now:
                best = min(best, slot.free_at - self._early_s(slot))
        return None if best == NEVER else max(best, now)

    def piece_rows(self, length: int) -> int:
        """The most rows of one request that are worth keeping together; a larger one is split before `offer`."""
        if not self.policy.batching:
            return self.policy.max_batch_rows
        return self._rows_that_pay(length)

    def behind_s(self, place: int, rows: int, length: int) -> float:
        """How far piece number `place`, from 0, of a split request stands back: as if each came when the one before
        it was done, at half the speed. Small requests that come meanwhile go between, and none waits for the whole."""
        return PIECE_PACE * place * self.latency.predict(rows, length)

    def backlog_s(self, now: float) -> float:
        """Seconds until a new item of the default priority would begin to run."""
        free_times = self.pool.free_times(now)
        if not free_times:
            return 0.0
        batch, _ = batch_ahead(self.depth_rows, 1, self._limit, self._limit)
        full_s = self._batch_s(self._limit)
        return max(0.0, predicted_start(free_times, batch, full_s, full_s) - now)

    def _batch_s(self, limit: int) -> float:
        """Seconds of a full batch of what waits."""
        if self._work_s > 0 and self.depth_rows:
            return self._work_s / self.depth_rows * limit * self._stretch
        return self.latency.predict(limit, 0)

    def _forecast(self, lane: Lane[T], item: T, key: float, now: float) -> float:
        """When a new item would be answered, with 99 % certainty.

        Those that will arrive before its batch begins are counted in at the present rate: a batch that is let grow
        until its first member is late would have to be cut to a few rows, and throughput would collapse.
        """
        free_times = self.pool.free_times(now)
        if not free_times:
            return now  # every instance is starting: the queue's bounds are the only limit
        latency, rows = self.latency, item.rows
        limit = max(rows, self._rows_that_pay(item.length))
        ahead, first_cap, other_batches = 0, limit, 0
        if lane.rows:
            skip, first_cap = self._window(lane, free_times[0], limit)
            count = len(lane.items)
            ahead = lane.rows if key >= lane.keys[-1] else lane.rows * lane.rank(key) // count
            ahead = max(0, ahead - skip)
            first_cap = min(first_cap, limit)
        if len(self._lanes) > 1:
            for other in self._lanes.values():
                if other is not lane and other.rows and other.head.order <= key:
                    other_batches += -(-other.rows // limit)
        batch, known = batch_ahead(ahead, rows, first_cap, limit)
        start = predicted_start(
            free_times, batch + other_batches, latency.predict(first_cap, item.length), self._batch_s(limit)
        )
        # Where lengths vary, the wait is uncertain because others go ahead in the queue: not what runs already.
        uncertain_s = start - (free_times[0] if item.length else now)
        wait_s = start - now + self.margins.of(item.length) * uncertain_s
        if lane.mixed or item.priority:
            able = limit * len(free_times) / self._batch_s(limit)
            wait_s = self._overtaking.delayed(wait_s, level_of(item.priority), able, self.policy.ageing_s)
        start = now + wait_s
        expected = int(self.rate.now(now, self.seen_rows, self._limit_s) * (start - now)) if limit > known else 0
        return start + latency.predict99(min(limit, known + expected), item.length)

    def _settle(self, now: float) -> None:
        """After anything changed at the instances: note what makes an admission an easy yes."""
        self.rate.update(now, self.seen_rows, self._limit_s)
        if self._lane.mixed:
            self._overtaking.update(now, self._limit_s)
        slots = self.pool.slots
        if not slots:
            self._easy_deadline = -NEVER
            return
        latest = now
        for slot in slots.values():
            if slot.free_at > latest:
                latest = slot.free_at
        self._easy_deadline = latest + self._easy_s


def level_of(priority: int) -> int:
    """0 high, 1 normal, 2 low, from a priority as clients give it."""
    return 1 if priority == 0 else 0 if priority == 1 else 2
