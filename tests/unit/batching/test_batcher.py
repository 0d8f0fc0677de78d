"""The batcher by hand: what is let in, what is pulled, in what order, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forebay.batching import Batch, Batcher, DispatchReason, LatencyModel, Policy
from forebay.batching.costs import Linear, minilm
from forebay.batching.simulate import SimItem

MakeItem = Callable[..., SimItem]
MakeBatcher = Callable[..., Batcher[SimItem]]


def pulled(batcher: Batcher[SimItem], now: float) -> Batch[SimItem]:
    batch = batcher.pull(now)
    assert batch is not None
    return batch


def test_a_lone_item_runs_at_once(item: MakeItem, batcher: MakeBatcher) -> None:
    b, one = batcher(), item()
    assert b.offer(one, 0.0) is None
    assert b.depth_rows == 1
    assert b.depth_bytes == 10
    batch = pulled(b, 0.0)
    assert (batch.items, batch.rows, batch.reason, batch.instance) == ([one], 1, DispatchReason.idle, 0)
    assert batch.predicted_s == pytest.approx(0.021, rel=0.01)
    assert (b.depth_rows, b.depth_bytes, b.in_flight_rows) == (0, 0, 1)
    assert b.pull(0.0) is None


def test_what_waits_while_an_instance_is_busy_goes_together(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.offer(item(), 0.0)
    first = pulled(b, 0.0)
    waiting = [item(0.001 * n) for n in range(5)]
    for one in waiting:
        assert b.offer(one, one.arrived) is None
    assert b.pull(0.005) is None
    b.finished(first, 0.021, 0.021)
    assert pulled(b, 0.021).items == waiting


def test_never_above_the_cap(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=2, max_batch_rows=4)
    for n in range(7):
        b.offer(item(n * 1e-6), n * 1e-6)
    first, second = pulled(b, 0.1), pulled(b, 0.1)
    assert (first.rows, first.reason) == (4, DispatchReason.full)
    assert (second.rows, second.reason) == (3, DispatchReason.idle)


def test_an_earlier_deadline_goes_first(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_batch_rows=1)
    slow, quick = item(0.0, 30.0), item(0.0, 5.0)
    b.offer(slow, 0.0)
    b.offer(quick, 0.0)
    assert pulled(b, 0.0).items == [quick]


def test_priority_is_a_head_start_that_ageing_uses_up(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_batch_rows=1, instances=3, ageing_s=10.0)
    low, normal, high = item(priority=2), item(0.1), item(0.2, priority=1)
    late_high = item(25.0, priority=1)
    for one in (low, normal, high):
        assert b.offer(one, one.arrived) is None
    assert [pulled(b, 1.0).items[0] for _ in range(3)] == [high, normal, low]
    b = batcher(max_batch_rows=1, ageing_s=10.0)
    low = item(0.0, 40.0, priority=2)
    b.offer(low, 0.0)
    b.offer(late_high, 25.0)
    assert pulled(b, 25.0).items == [late_high], "20 s of head start are not used up yet after a deadline of 55"
    b = batcher(max_batch_rows=1, ageing_s=1.0)
    b.offer(low, 0.0)
    b.offer(late_high, 25.0)
    assert pulled(b, 25.0).items == [low]


def test_lanes_never_mix_and_the_earlier_head_goes_first(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=2)
    for n in range(10):
        b.offer(item(n * 1e-3, lane=n % 2), n * 1e-3)
    first, second = pulled(b, 0.1), pulled(b, 0.1)
    assert {one.lane for one in first.items} == {0} == {first.lane}
    assert {one.lane for one in second.items} == {1}
    assert first.rows == second.rows == 5


def test_items_of_several_rows_stay_whole(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_batch_rows=8)
    wide = [item(0.0, rows=5), item(0.0, rows=5), item(0.0, rows=3)]
    for one in wide:
        b.offer(one, 0.0)
    assert b.depth_rows == 13
    first = pulled(b, 0.0)
    assert (first.items, first.rows) == ([wide[0]], 5)
    b.finished(first, 0.03, 0.025)
    assert pulled(b, 0.03).rows == 8


def test_batching_off_runs_one_item_whatever_its_rows(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(batching=False)
    b.offer(item(rows=9), 0.0)
    b.offer(item(), 0.0)
    first = pulled(b, 0.0)
    assert first.rows == 9
    b.finished(first, 0.03, 0.029)
    assert pulled(b, 0.03).rows == 1
    assert b.piece_rows(0) == 64


def test_discarded_items_are_never_dispatched(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    items = [item(nbytes=7) for _ in range(6)]
    for one in items:
        b.offer(one, 0.0)
    gone = [items[0], items[1], items[4]]
    assert all(b.discard(one) for one in gone)
    assert not b.discard(items[0])
    assert (b.depth_rows, b.depth_bytes) == (3, 21)
    assert pulled(b, 0.0).items == [items[2], items[3], items[5]]
    assert not b.discard(items[2])
    assert b.depth_rows == b.depth_bytes == 0


def test_discards_without_pulls_do_not_pile_up(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=0)
    b.offer(item(), 0.0)
    for _ in range(5000):
        one = item()
        b.offer(one, 0.0)
        b.discard(one)
    assert sum(len(lane.items) for lane in b._lanes.values()) < 200
    assert b.depth_rows == 1


def test_requeued_items_go_ahead_of_their_equals(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    first = [item() for _ in range(3)]
    for one in first:
        b.offer(one, 0.0)
    batch = pulled(b, 0.0)
    later = item()
    b.offer(later, 0.0)
    b.remove_instance(batch.instance, 0.1)
    assert b.in_flight_rows == 0
    b.requeue(batch.items, 0.1)
    b.add_instance(7, 1.0)
    again = pulled(b, 1.0)
    assert (again.items, again.instance) == ([*first, later], 7)


def test_bounds_of_the_queue(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_queue_rows=3, max_queue_bytes=25)
    assert b.offer(item(), 0.0) is None
    assert b.offer(item(), 0.0) is None
    refusal = b.offer(item(), 0.0)
    assert refusal is not None, "10 bytes each, 25 allowed"
    assert refusal.code == "queue_full"
    assert refusal.retry_after_s > 0
    assert b.offer(item(nbytes=1, rows=2), 0.0) is not None
    assert b.offer(item(nbytes=1), 0.0) is None


def test_what_cannot_make_its_deadline_is_refused(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    refusal = b.offer(item(timeout=0.015), 0.0)
    assert refusal is not None
    assert refusal.code == "deadline_unreachable"
    assert refusal.retry_after_s == pytest.approx(0.006, abs=0.002)
    assert b.offer(item(timeout=0.03), 0.0) is None
    pulled(b, 0.0)
    assert b.offer(item(timeout=0.03), 0.0) is not None, "the instance is busy for 21 ms"
    assert b.offer(item(timeout=0.05), 0.0) is None


def test_nothing_is_refused_for_a_deadline_while_instances_start(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=0)
    assert b.offer(item(timeout=0.01), 0.0) is None
    assert b.pull(0.0) is None


def test_admission_still_works_after_all_instances_were_gone(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.remove_instance(0, 1.0)
    b.add_instance(1, 2.0)
    assert b.offer(item(2.0, timeout=0.001), 2.0) is not None


def test_a_new_item_does_not_break_the_promise_to_the_first(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.offer(item(), 0.0)
    running = pulled(b, 0.0)
    assert b.offer(item(0.0, timeout=0.05), 0.0) is None  # 21 + 29: a batch of at most 9
    answers = [b.offer(item(0.0, timeout=0.0501), 0.0) is None for _ in range(20)]
    assert answers.count(True) == answers.index(False) <= 8
    b.finished(running, 0.021, 0.021)
    assert 0.021 + 0.02 + 0.001 * pulled(b, 0.021).rows <= 0.05


def test_the_earliest_deadline_bounds_the_batch(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.offer(item(timeout=0.031), 0.0)
    for _ in range(30):
        b.offer(item(timeout=30.0), 0.0)
    batch = pulled(b, 0.0)
    assert batch.reason == DispatchReason.deadline
    assert 5 <= batch.rows <= 11


def test_expired_items_are_handed_out_once_and_never_run(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=0)
    early, late = item(timeout=0.05), item(timeout=30.0)
    b.offer(early, 0.0)
    b.offer(late, 0.0)
    at = b.wake_at(0.0)
    assert at is not None
    assert at == pytest.approx(0.05 - 0.021, abs=1e-3), "the last instant at which it could start"
    assert b.take_expired(at - 0.002) == []
    assert b.take_expired(at) == [early]
    assert b.take_expired(at) == []
    b.add_instance(0, 0.2)
    assert pulled(b, 0.2).items == [late]


def test_expiry_of_a_low_priority_behind_others(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=0, ageing_s=10.0)
    low, normal = item(timeout=1.0, priority=2), item(timeout=5.0)
    b.offer(low, 0.0)
    b.offer(normal, 0.0)
    at = b.wake_at(0.0)
    assert at is not None
    assert at < 1.0
    assert b.take_expired(0.999) == [low]
    assert b.depth_rows == 1


def test_wake_at_never_makes_a_caller_spin(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.offer(item(), 0.0)
    pulled(b, 0.0)
    b.offer(item(0.0, timeout=0.2), 0.0)
    now, turns = 0.0, 0
    while (at := b.wake_at(now)) is not None:
        assert at >= now
        now, turns = at, turns + 1
        if b.pull(now) is not None or b.take_expired(now):
            break
        assert turns < 5
    assert b.depth_rows == 0


def test_early_binding_only_within_the_hand_over_and_one_at_most(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.offer(item(), 0.0)
    first = pulled(b, 0.0)
    b.finished(first, 0.024, 0.021)  # 3 ms of hand-over
    b.offer(item(0.024), 0.024)
    running = pulled(b, 0.024)
    b.offer(item(0.025), 0.025)
    assert b.pull(0.025) is None
    at = b.wake_at(0.025)
    assert at == pytest.approx(0.024 + 0.021, abs=1e-3)
    assert at is not None
    early = pulled(b, at + 1e-6)
    assert early.early
    b.offer(item(at), at)
    assert b.pull(at + 0.002) is None, "one batch waits already"
    b.finished(running, 0.048, 0.021)
    assert b.in_flight_rows == 1
    b.finished(early, 0.069, 0.021)
    assert pulled(b, 0.069).rows == 1


def test_where_the_end_of_a_batch_is_not_known_nothing_is_bound_early(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(hands_over_early=False)
    b.pool.hand_over_s = 0.003
    b.offer(item(), 0.0)
    running = pulled(b, 0.0)
    b.offer(item(0.001), 0.001)
    assert b.pull(running.predicted_s) is None
    at = b.wake_at(0.001)
    assert at is None or at > 1, "only a deadline is waited for"
    assert b.pull(5.0) is None
    b.finished(running, 6.0, 6.0)
    assert not pulled(b, 6.0).early


def test_an_idle_instance_is_preferred_to_early_binding(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=2)
    b.pool.hand_over_s = 1.0
    b.offer(item(), 0.0)
    first = pulled(b, 0.0)
    b.offer(item(), 0.0)
    second = pulled(b, 0.0)
    assert {first.instance, second.instance} == {0, 1}
    assert not second.early


def test_an_aborted_batch_frees_its_place_and_teaches_nothing(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    seen = b.latency.observations
    b.offer(item(), 0.0)
    batch = pulled(b, 0.0)
    b.aborted(batch, 5.0)
    b.aborted(batch, 5.0)
    assert (b.in_flight_rows, b.latency.observations) == (0, seen)
    b.offer(item(5.0), 5.0)
    assert pulled(b, 5.0).rows == 1


def test_answers_of_instances_that_are_gone_are_harmless(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    b.offer(item(), 0.0)
    batch = pulled(b, 0.0)
    b.remove_instance(0, 0.01)
    b.remove_instance(0, 0.01)
    b.finished(batch, 0.02, 0.02)
    assert b.in_flight_rows == 0
    b.add_instance(0, 0.1)
    with pytest.raises(ValueError, match="twice"):
        b.add_instance(0, 0.1)


def test_a_delay_holds_back_until_full_or_over(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_queue_delay_s=0.01, max_batch_rows=3)
    b.offer(item(), 0.0)
    assert b.pull(0.0) is None
    assert b.wake_at(0.0) == pytest.approx(0.01)
    late = pulled(b, 0.01)
    assert (late.rows, late.reason) == (1, DispatchReason.delay)
    b.finished(late, 0.04, 0.021)
    for n in range(3):
        b.offer(item(0.04), 0.04)
        assert (b.pull(0.04) is None) == (n < 2)


@pytest.mark.parametrize("late_s", [0.0, 0.002])
def test_a_row_that_is_held_goes_before_it_is_too_late_for_it_though_timers_are_late(
    item: MakeItem, batcher: MakeBatcher, late_s: float
) -> None:
    b = batcher(max_queue_delay_s=3600.0)
    b.offer(item(timeout=2.0), 0.0)
    assert b.pull(0.0) is None
    due = b.wake_at(0.0)
    assert due is not None
    assert 1.9 < due < 2.0
    assert b.take_expired(due + late_s) == []
    assert pulled(b, due + late_s).reason == DispatchReason.delay


def test_lengths_that_do_not_suit_wait_for_their_like(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(Linear(0.005, 0.0, 2e-5), lengths=True, max_batch_rows=32)
    for n in range(40):
        b.offer(item(n * 1e-4, length=200 if n % 2 else 8), n * 1e-4)
    batch = pulled(b, 0.1)
    assert {one.length for one in batch.items} == {8}
    assert batch.rows == 20
    assert batch.padding_waste == 0.0
    b.finished(batch, 0.2, 0.008)
    assert {one.length for one in pulled(b, 0.2).items} == {200}


def test_padding_waste_is_the_share_of_empty_cells(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(Linear(0.05, 0.0, 1e-6), lengths=True)
    b.offer(item(length=10), 0.0)
    b.offer(item(1e-3, length=30), 1e-3)
    batch = pulled(b, 0.01)
    assert (batch.rows, batch.length) == (2, 30)
    assert batch.padding_waste == pytest.approx(20 / 60)


def test_where_batching_does_not_pay_rows_run_alone(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(minilm(), instances=2, lengths=True)
    assert b.piece_rows(64) == 1
    for n in range(10):
        b.offer(item(n * 1e-3, length=60 + n), n * 1e-3)
    assert [pulled(b, 0.1).rows, pulled(b, 0.1).rows] == [1, 1]
    assert b.pull(0.1) is None


def test_backlog_counts_running_and_waiting_work(item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_batch_rows=4)
    assert b.backlog_s(0.0) == 0.0
    for _ in range(9):
        b.offer(item(), 0.0)
    pulled(b, 0.0)
    assert b.backlog_s(0.0) == pytest.approx(0.024 * 2, rel=0.05)


def test_it_starts_without_any_measurement(item: MakeItem) -> None:
    b: Batcher[SimItem] = Batcher(Policy(), LatencyModel())
    b.add_instance(0, 0.0)
    for _ in range(300):
        assert b.offer(item(timeout=1.0), 0.0) is None
    assert pulled(b, 0.0).rows == 256
