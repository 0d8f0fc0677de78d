"""Whatever happens to it: every item ends in exactly one way, no batch is too large or mixed, the counts add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.batching import Batch, Batcher
from forebay.batching.costs import Linear, minilm
from forebay.batching.simulate import SimItem

MakeItem = Callable[..., SimItem]
MakeBatcher = Callable[..., Batcher[SimItem]]

KINDS = st.tuples(
    st.integers(1, 4),  # rows
    st.sampled_from([0.01, 0.05, 0.3, 30.0]),  # timeout
    st.integers(0, 3),  # priority
    st.sampled_from(["a", "b"]),  # lane
    st.sampled_from([8, 30, 200]),  # length, where there are any
)
STEPS = st.one_of(
    st.tuples(st.just("offer"), KINDS),
    st.tuples(st.just("wait"), st.floats(1e-5, 0.1)),
    st.tuples(st.just("pull"), st.none()),
    st.tuples(st.just("finish"), st.floats(0.5, 3.0)),
    st.tuples(st.just("discard"), st.integers(0, 200)),
    st.tuples(st.just("crash"), st.integers(0, 1)),
    st.tuples(st.just("abort"), st.none()),
)


class Ledger:
    """Drives a batcher and keeps account of every item."""

    def __init__(self, make_item: MakeItem, batcher: Batcher[SimItem], cap: int, lengths: bool) -> None:
        self.make_item, self.batcher, self.cap, self.lengths = make_item, batcher, cap, lengths
        self.now = 0.0
        self.ends: dict[int, list[str]] = {}
        self.items: list[SimItem] = []
        self.running: list[Batch[SimItem]] = []

    def end(self, item: SimItem, how: str) -> None:
        self.ends[id(item)].append(how)

    def offer(self, kind: Any) -> None:
        rows, timeout, priority, lane, length = kind
        length = length if self.lengths else 0
        one = self.make_item(self.now, timeout, rows, length=length, priority=priority, lane=lane)
        self.items.append(one)
        self.ends[id(one)] = []
        if self.batcher.offer(one, self.now) is not None:
            self.end(one, "refused")

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for one in self.batcher.take_expired(self.now):
            self.end(one, "expired")

    def pull(self, _: Any) -> None:
        while (batch := self.batcher.pull(self.now)) is not None:
            self.check(batch)
            self.running.append(batch)
        for one in self.batcher.take_expired(self.now):
            self.end(one, "expired")

    def check(self, batch: Batch[SimItem]) -> None:
        assert batch.items
        assert batch.rows == sum(one.rows for one in batch.items)
        assert batch.rows <= self.cap or len(batch.items) == 1
        assert {one.lane for one in batch.items} == {batch.lane}
        assert batch.length == max(one.length for one in batch.items)
        assert 0 <= batch.padding_waste < 1
        assert all(not self.ends[id(one)] for one in batch.items), "an item that had its end already was dispatched"
        assert sum(other.instance == batch.instance for other in self.running) <= 1

    def finish(self, factor: float) -> None:
        if self.running:
            batch = self.running.pop(0)
            self.now += batch.predicted_s * factor
            self.batcher.finished(batch, self.now, batch.predicted_s * factor)
            for one in batch.items:
                self.end(one, "dispatched")

    def abort(self, _: Any) -> None:
        if self.running:
            batch = self.running.pop()
            self.batcher.aborted(batch, self.now)
            for one in batch.items:
                self.end(one, "dispatched")

    def discard(self, place: int) -> None:
        if place < len(self.items) and self.batcher.discard(self.items[place]):
            self.end(self.items[place], "discarded")

    def crash(self, instance: int) -> None:
        if instance not in self.batcher.pool.slots:
            self.batcher.add_instance(instance, self.now)
            return
        self.batcher.remove_instance(instance, self.now)
        for batch in [b for b in self.running if b.instance == instance]:
            self.running.remove(batch)
            self.batcher.requeue(batch.items, self.now)

    def settle(self) -> None:
        """Let everything come to its end."""
        for instance in (0, 1):
            if instance not in self.batcher.pool.slots:
                self.batcher.add_instance(instance, self.now)
        for _ in range(2000):
            self.pull(None)
            if self.running:
                self.finish(1.0)
            elif self.batcher.depth_rows:
                at = self.batcher.wake_at(self.now)
                assert at is not None, "items wait, nothing runs and nobody would wake up"
                self.now = max(at, self.now)
            else:
                break


def run(ledger: Ledger, steps: list[tuple[str, Any]]) -> None:
    for name, argument in steps:
        step: Callable[[Any], None] = getattr(ledger, name)
        step(argument)
        running = sum(batch.rows for batch in ledger.running)
        assert ledger.batcher.in_flight_rows == running
        open_items = [one for one in ledger.items if not ledger.ends[id(one)]]
        in_batches = {id(one) for batch in ledger.running for one in batch.items}
        waiting = [one for one in open_items if id(one) not in in_batches]
        assert ledger.batcher.depth_rows + sum(i.rows for i in ledger.batcher._expired) == sum(i.rows for i in waiting)
        assert ledger.batcher.depth_bytes + sum(i.nbytes for i in ledger.batcher._expired) == 10 * len(waiting)
    ledger.settle()
    assert [ends for ends in ledger.ends.values() if len(ends) != 1] == []
    assert ledger.batcher.depth_rows == ledger.batcher.depth_bytes == ledger.batcher.in_flight_rows == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60), st.sampled_from([1, 4, 16]), st.sampled_from([0.0, 0.02]))
def test_fixed_shapes(
    item: MakeItem, batcher: MakeBatcher, steps: list[tuple[str, Any]], cap: int, delay_s: float
) -> None:
    run(Ledger(item, batcher(instances=2, max_batch_rows=cap, max_queue_delay_s=delay_s), cap, False), steps)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=60), st.sampled_from([1, 16]), st.booleans())
def test_lengths(item: MakeItem, batcher: MakeBatcher, steps: list[tuple[str, Any]], cap: int, pays: bool) -> None:
    cost = Linear(0.005, 0.0, 2e-5) if pays else minilm()
    run(Ledger(item, batcher(cost, instances=2, lengths=True, max_batch_rows=cap), cap, True), steps)


LEVELS = {1: 0, 0: 1, 2: 2, 3: 2}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.03)), min_size=20, max_size=80))
def test_higher_priorities_go_first_but_nothing_starves(
    item: MakeItem, batcher: MakeBatcher, arrivals: list[tuple[int, float]]
) -> None:
    """With one timeout for all, the order is by arrival plus a step of ageing a level: so an item is overtaken by a
    higher priority, but by nothing that came more than two steps later, however much of it comes."""
    ageing_s = 0.2
    b = batcher(max_batch_rows=1, ageing_s=ageing_s)
    arrivals += [(1, 0.01)] * 100  # twice as many of the highest priority as can be served
    now, served, overtaken = 0.0, [], 0
    for priority, gap in arrivals:
        now += gap
        assert b.offer(item(now, 1000.0, priority=priority), now) is None
        batch = b.pull(now)
        if batch is None and (running := b.pool.slots[0].running) is not None and now - running.sent_at > 0.02:
            b.finished(running, now, 0.02)
            batch = b.pull(now)
        if batch is not None:
            (one,) = batch.items
            served.append(one)
            waiting = [other for lane in b._lanes.values() for other in lane.items]
            for other in waiting:
                level = LEVELS[one.priority] - LEVELS[other.priority]
                assert one.arrived + level * ageing_s <= other.arrived + 1e-9
                assert one.arrived <= other.arrived + 2 * ageing_s + 1e-9
                overtaken += one.arrived > other.arrived
    assert served
