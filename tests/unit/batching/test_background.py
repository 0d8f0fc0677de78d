"""Items that nobody waits for: behind all others, in batches of their own, as large as is no harm."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forebay.batching import Batch, Batcher, DispatchReason
from forebay.batching.background import LATELY_S, LONGEST_WAIT_S, SHARE, SHORT_ROWS
from forebay.batching.costs import Linear
from forebay.batching.simulate import SimItem
from forebay.core.request import Background

MakeItem = Callable[..., SimItem]
MakeBatcher = Callable[..., Batcher[SimItem]]
FLAT = Linear(0.02, 0.00001)
"""Rows cost next to nothing."""


@pytest.fixture
def job(item: MakeItem) -> MakeItem:
    def make(timeout_s: float = float("inf"), **values: object) -> SimItem:
        return item(0.0, float("inf"), background=Background(timeout_s), **values)

    return make


def offered(batcher: Batcher[SimItem], items: list[SimItem], now: float = 0.0) -> list[SimItem]:
    for one in items:
        batcher.offer_background(one, now)
    return items


def pulled(batcher: Batcher[SimItem], now: float) -> Batch[SimItem]:
    batch = batcher.pull(now)
    assert batch is not None
    return batch


def done(batcher: Batcher[SimItem], batch: Batch[SimItem], now: float) -> None:
    batcher.finished(batch, now, batch.predicted_s)


def test_alone_jobs_run_in_batches_as_large_as_pay(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    jobs = offered(b, [job() for _ in range(100)])
    first = pulled(b, 0.0)
    assert (first.items, first.rows, first.background) == (jobs[:64], 64, True)
    assert first.reason is DispatchReason.full
    assert first.predicted_s == pytest.approx(0.084, rel=0.02)
    assert b.pull(0.01) is None, "never bound early to an instance that is busy"
    done(b, first, 0.1)
    second = pulled(b, 0.1)
    assert (second.items, second.reason) == (jobs[64:], DispatchReason.idle)
    assert b.backlog.rows == 0


def test_jobs_do_not_count_in_the_queue(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=0, max_queue_rows=2)
    offered(b, [job() for _ in range(50)])
    assert (b.depth_rows, b.depth_bytes, b.backlog_s(0.0)) == (0, 0, 0.0)
    assert b.offer(item(), 0.0) is None
    assert b.offer(item(), 0.0) is None


def test_jobs_that_wait_refuse_nobody(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    offered(b, [job() for _ in range(5000)])
    assert b.offer(item(0.0, 0.05), 0.0) is None


def test_jobs_that_run_are_in_the_forecast(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    offered(b, [job() for _ in range(64)])
    pulled(b, 0.0)
    refusal = b.offer(item(0.0, 0.05), 0.0)
    assert refusal is not None
    assert refusal.code == "deadline_unreachable"
    assert b.offer(item(0.0, 0.2), 0.0) is None


def test_whoever_waits_goes_before_older_jobs(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    offered(b, [job() for _ in range(5)])
    one = item(0.5)
    b.offer(one, 0.5)
    assert pulled(b, 0.5).items == [one]


def test_where_others_always_wait_jobs_get_a_small_share(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    offered(b, [job() for _ in range(500)])
    now, job_s, turns = 0.0, 0.0, []
    while now < 20:
        b.offer(item(now), now)
        batch = pulled(b, now)
        now += batch.predicted_s
        done(b, batch, now)
        if batch.background:
            job_s += batch.predicted_s
            turns.append(now)
    assert turns[0] > LONGEST_WAIT_S
    assert 0.5 * SHARE < job_s / now < 1.5 * SHARE


def test_after_a_request_batches_of_jobs_are_short_for_a_while(
    job: MakeItem, item: MakeItem, batcher: MakeBatcher
) -> None:
    b = batcher()
    b.offer(item(), 0.0)
    done(b, pulled(b, 0.0), 0.021)
    offered(b, [job() for _ in range(200)])
    short = pulled(b, 0.03)
    assert 1 < short.rows <= 6, "a quarter more than a lone row takes"
    done(b, short, 0.06)
    assert pulled(b, 0.07 + LATELY_S).rows == 64


def test_nor_do_they_hold_up_the_loop(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(FLAT)
    b.offer(item(), 0.0)
    done(b, pulled(b, 0.0), 0.021)
    offered(b, [job() for _ in range(200)])
    assert pulled(b, 0.03).rows == SHORT_ROWS


def test_after_a_request_one_instance_stays_free(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=2)
    b.offer(item(), 0.0)
    done(b, pulled(b, 0.0), 0.021)
    offered(b, [job() for _ in range(50)])
    assert pulled(b, 0.03).background
    assert b.pull(0.03) is None
    one = item(0.04)
    b.offer(one, 0.04)
    assert pulled(b, 0.04).items == [one]


@pytest.mark.parametrize(("long_s", "due"), [(0.02, 5.0 + LONGEST_WAIT_S), (10.0, 4.0 + LATELY_S)])
def test_but_not_for_ever_and_the_caller_is_told_when(
    job: MakeItem, item: MakeItem, batcher: MakeBatcher, long_s: float, due: float
) -> None:
    """After a very long batch jobs have no turn for longer than anybody is expected."""
    b = batcher(Linear(long_s, 0.0), instances=2)
    b.offer(item(4.0, 60.0), 4.0)
    done(b, pulled(b, 4.0), 4.5)
    offered(b, [job(lane="a"), job(lane="b")], 5.0)
    long = pulled(b, 5.0)
    assert b.pull(5.0) is None
    at = b.wake_at(5.0)
    assert at is not None
    assert at == pytest.approx(due, abs=1e-4)
    second = pulled(b, at)
    assert (second.background, second.instance) == (True, 1 - long.instance)
    assert b.wake_at(at) is None


def test_a_job_that_no_instance_is_idle_for_wakes_nobody(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    offered(b, [job(), job(lane="b")])
    pulled(b, 0.0)
    assert b.wake_at(0.0) is None


def test_a_job_behind_what_is_held_back_has_its_turn(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_queue_delay_s=60.0)
    offered(b, [job()])
    b.offer(item(0.0, 100.0), 0.0)
    assert b.pull(0.0) is None
    at = b.wake_at(0.0)
    assert at == LONGEST_WAIT_S
    assert pulled(b, at).background


def test_without_requests_jobs_get_every_instance(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(instances=2)
    offered(b, [job() for _ in range(500)])
    assert {pulled(b, 0.0).instance, pulled(b, 0.0).instance} == {0, 1}


def test_lanes_and_cap_hold_for_jobs_too(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_batch_rows=8, instances=4)
    a, c = [job(lane="a", rows=3) for _ in range(3)], [job(lane="c")]
    offered(b, [a[0], *c, *a[1:]])
    assert [pulled(b, 0.0).items for _ in range(3)] == [a[:2], c, a[2:]]


def test_a_batch_is_no_longer_than_half_the_shortest_timeout(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    offered(b, [job(), job(timeout_s=0.061), *[job() for _ in range(60)]])
    assert pulled(b, 0.0).rows == 10, "20 ms and 1 ms a row, of 61 ms half"


def test_jobs_of_like_lengths_share_a_batch(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(Linear(0.005, 0.0, 2e-5), lengths=True)
    offered(b, [job(length=256 if n % 2 else 8) for n in range(40)])
    batch = pulled(b, 0.0)
    assert {one.length for one in batch.items} == {8}
    assert batch.rows == 20
    assert batch.padding_waste == 0


def test_jobs_can_be_discarded_put_back_and_taken_all(job: MakeItem, item: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher(max_batch_rows=4)
    jobs = offered(b, [job() for _ in range(10)])
    assert b.discard(jobs[1])
    assert not b.discard(jobs[1])
    batch = pulled(b, 0.0)
    assert batch.items == [jobs[0], *jobs[2:5]]
    assert not b.discard(jobs[0]), "it runs"
    b.remove_instance(0, 0.1)
    b.requeue(batch.items, 0.1)
    b.add_instance(1, 0.2)
    again = pulled(b, 0.2)
    assert again.items == batch.items
    b.offer(one := item(0.2), 0.2)
    assert b.take_all() == [one, *jobs[5:]]
    assert (b.backlog.rows, b.depth_rows) == (0, 0)


def test_answers_of_jobs_teach_costs_but_no_margins(job: MakeItem, batcher: MakeBatcher) -> None:
    b = batcher()
    late = job()
    offered(b, [late])
    batch = pulled(b, 0.0)
    late.deadline = 0.01
    before = b.latency.observations
    done(b, batch, 5.0)
    assert b.latency.observations == before + 1
    assert b.margins.of(0) == 0


def test_who_was_refused_because_of_a_long_batch_of_jobs_meets_short_ones_next(
    job: MakeItem, item: MakeItem, batcher: MakeBatcher
) -> None:
    b = batcher()
    offered(b, [job() for _ in range(200)])
    long = pulled(b, 0.0)
    assert b.offer(item(0.0, 0.05), 0.0) is not None
    assert b.offer(item(0.0, 0.05, rows=2), 0.0) is not None
    done(b, long, 0.084)
    assert pulled(b, 0.084).rows <= 6
