"""A started engine: answers, batches, cancelling, deadlines, splitting, draining. One answer for each, always."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.engine.requests import request
from tests.unit.engine.started import MODEL, Answers, Gate, eventually, plan_of, running, tiny, y

from forebay.batching.fairness import Fairness
from forebay.core.errors import AdmissionError, DeadlineExceeded
from forebay.core.request import Request
from forebay.engine.cores import Cores, Turns
from forebay.engine.engine import Engine
from forebay.models.repository import read_model

INDEPENDENT = MODEL.replace("np.full(len(x), len(x))", "np.zeros(len(x), int)")
"""Without the output that tells a batch's rows, so that it batches."""


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@asynccontextmanager
async def engine_of(
    folder: Path, attributes: str = "", text: str = INDEPENDENT, **settings: Any
) -> AsyncIterator[tuple[Engine, Answers]]:
    plan = plan_of(tiny(folder, attributes, text), folder / "data", **settings)
    async with running(plan) as engine:
        yield engine, Answers(engine)


async def busy(answers: Answers, gate: Gate) -> Request:
    """Close the gate with one request inside."""
    before = len(gate.calls)
    gate.close()
    item = answers.submit(100.0)
    await eventually(lambda: len(gate.calls) > before)
    return item


async def test_an_engine_that_has_ended_holds_no_engine_that_came_after_it(tmp_path: Path) -> None:
    """What start-up made is frozen and never collected: else the first engine would keep every later one."""
    async with engine_of(tmp_path) as (first, answers):
        await answers.all(answers.submit(1.0))
        async with engine_of(tmp_path) as (second, _):
            first.succeeded_by(second)
            assert first.metrics is second.metrics
            await first.close(0.0)
            assert second.metrics.answered == {"ok": 1}
        gone = weakref.ref(second)
        del second, _
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None


async def test_requests_get_their_own_answers_and_are_counted(tmp_path: Path) -> None:
    async with engine_of(tmp_path, pad=True) as (engine, answers):
        assert (engine.state, engine.reason, engine.platform, engine.instances) == ("ready", "", "python", 1)
        items = [answers.submit(float(n)) for n in range(20)]
        assert engine.in_flight == 20
        await answers.all(*items)
        assert [y(item) for item in items] == [[[2.0 * n]] for n in range(20)]
        assert all(1 <= item.batch_rows <= 20 and item.dispatch_reason and item.queue_s >= 0 for item in items)
        assert engine.in_flight == 0
        counts = engine.statistics()
        assert (counts.inference_count, counts.success.count, counts.queue.count, counts.fail.count) == (20, 20, 20, 0)
        assert sum(size.rows * size.compute.count for size in counts.batches.values()) == 20
        assert engine.metrics.answered == {"ok": 20}
        assert engine.metrics.gauges() == {
            "forebay_in_flight_requests": 0,
            "forebay_queue_depth_rows": 0,
            "forebay_queue_depth_bytes": 0,
            "forebay_instances_ready": 1,
        }


async def test_what_waits_together_runs_together(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (_, answers):
        first = await busy(answers, gate)
        waiting = [answers.submit(float(n)) for n in range(5)]
        gate.open()
        await answers.all(first, *waiting)
        assert [item.batch_rows for item in waiting] == [5] * 5
        assert [y(item) for item in waiting] == [[[2.0 * n]] for n in range(5)]


async def test_a_model_whose_rows_mind_their_company_runs_them_alone(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, text=MODEL) as (engine, answers):
        assert engine.max_batch_rows == 0
        first = await busy(answers, gate)
        waiting = [answers.submit(float(n)) for n in range(3)]
        gate.open()
        await answers.all(first, *waiting)
        assert [item.batch_rows for item in waiting] == [1, 1, 1]


@pytest.mark.parametrize(("pad", "batches"), [(True, [3]), (False, [1, 2])])
async def test_different_lengths_share_a_batch_where_padding_is_allowed(
    tmp_path: Path, gate: Gate, pad: bool, batches: list[int]
) -> None:
    async with engine_of(tmp_path, pad=pad) as (_, answers):
        first = await busy(answers, gate)
        before = len(gate.calls)
        items = [answers.submit(1.0, 2.0), answers.submit(3.0, 4.0, 5.0), answers.submit(6.0, 7.0)]
        gate.open()
        await answers.all(first, *items)
        assert sorted(gate.calls[before:]) == batches
        end = [[0.0]] if pad else [[]]
        assert y(items[0]) == [[2.0, 4.0, *end[0]]]
        assert y(items[1]) == [[6.0, 8.0, 10.0]]
        assert y(items[2]) == [[12.0, 14.0, *end[0]]]


async def test_a_model_whose_rows_are_padded_is_another_model_to_whoever_keeps_answers(tmp_path: Path) -> None:
    digests: list[str] = []
    for pad in (True, False, True):
        async with engine_of(tmp_path, pad=pad) as (engine, _):
            digests.append(engine.digest)
    assert digests[0] == digests[2] != digests[1]


async def test_a_model_with_other_weights_is_another_model_to_whoever_keeps_answers(tmp_path: Path) -> None:
    weights = tmp_path / "weights.txt"
    digests: list[str] = []
    for content in ("1", "10"):
        weights.write_text(content)
        async with engine_of(tmp_path, 'files = ["weights.txt"]') as (engine, _):
            digests.append(engine.digest)
            assert engine.plan.reads_the_same()
            weights.write_text("changed")
            assert not engine.plan.reads_the_same()
    assert digests[0] != digests[1]


async def test_a_second_engine_of_the_same_files_has_their_digest_though_the_model_has_written_beside_them(
    tmp_path: Path,
) -> None:
    """Else no other number of instances could take the place of the first."""
    folder = tmp_path / "repo" / "tiny" / "1"
    folder.mkdir(parents=True)
    Path(tiny(folder, text=INDEPENDENT).path).rename(folder / "model.py")
    await asyncio.sleep(0.15)  # what was written just now may be written again unseen
    source = read_model(folder.parent).source(1)
    async with running(plan_of(source, tmp_path / "data")) as first:
        assert (folder / "calls").exists()
        async with running(dataclasses.replace(first.plan)) as second:
            assert second.digest == first.digest


async def test_a_request_of_many_rows_is_split_and_joined_in_order(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, max_batch_rows=4) as (engine, answers):
        before = len(gate.calls)
        item = answers.submit(*map(float, range(20)), rows=10)
        assert engine.in_flight == 1
        await answers.all(item)
        assert y(item) == [[4.0 * n, 4.0 * n + 2] for n in range(10)]
        calls = gate.calls[before:]
        assert sum(calls) == 10
        assert max(calls) <= 4
        assert 1 <= item.batch_rows <= 4
        assert item.dispatch_reason
        assert engine.in_flight == 0
        assert engine.statistics().success.count == 1
        assert engine.statistics().inference_count == 10


async def test_one_bad_piece_fails_the_whole_request_once(tmp_path: Path) -> None:
    async with engine_of(tmp_path, max_batch_rows=2) as (engine, answers):
        bad = answers.submit(1.0, 2.0, -1.0, 4.0, 5.0, 6.0, rows=6)
        good = answers.submit(7.0)
        await answers.all(bad, good)
        assert bad.error is not None
        assert (bad.error.code, y(good)) == ("model_error", [[14.0]])
        assert engine.in_flight == 0
        assert engine.metrics.answered == {"ok": 1, "model_error": 1}


async def test_a_split_request_that_is_not_admitted_leaves_nothing_in_the_queue(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, max_batch_rows=2, max_queue_rows=5) as (engine, answers):
        first = await busy(answers, gate)
        waits = answers.submit(1.0)
        with pytest.raises(AdmissionError, match="queue of model 'tiny' is full"):
            answers.submit(*map(float, range(5)), rows=5)
        assert engine.metrics.gauges()["forebay_queue_depth_rows"] == 1
        assert engine.in_flight == 2
        gate.open()
        await answers.all(first, waits)
    assert answers.ended == [first, waits]


async def test_no_rows_are_answered_with_none(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        item, canceled = answers.submit(rows=0), answers.submit(rows=0)
        assert answers.ended == [], "never from within submit"
        engine.cancel(canceled)
        await answers.all(item)
        assert y(item) == []
        await asyncio.sleep(0)
        assert answers.ended == [item]
        assert engine.in_flight == 0
        assert engine.metrics.answered == {"ok": 1}


async def test_a_caller_that_leaves_the_queue_costs_nothing(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first = await busy(answers, gate)
        waiting = [answers.submit(float(n)) for n in range(3)]
        engine.cancel(waiting[1])
        engine.cancel(waiting[1])
        before = len(gate.calls)
        gate.open()
        await answers.all(first, waiting[0], waiting[2])
        assert sum(gate.calls[before:]) == 2
        assert waiting[1] not in answers.ended
        assert (engine.in_flight, engine.metrics.canceled) == (0, 1)


async def test_the_answer_of_a_caller_that_left_is_dropped(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first = await busy(answers, gate)
        engine.cancel(first)
        assert engine.in_flight == 0
        gate.open()
        second = answers.submit(1.0)
        await answers.all(second)
        engine.cancel(second)
        assert answers.ended == [second]
        assert (engine.in_flight, engine.metrics.canceled) == (0, 1)


async def test_a_split_request_can_be_canceled(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, max_batch_rows=2) as (engine, answers):
        first = await busy(answers, gate)
        split = answers.submit(*map(float, range(6)), rows=6)
        engine.cancel(split)
        gate.open()
        last = answers.submit(1.0)
        await answers.all(first, last)
        assert split not in answers.ended
        assert engine.in_flight == 0


async def test_a_callback_may_cancel_another_of_its_batch(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first = await busy(answers, gate)
        second = request([[1.0]], [(1,)], on_done=lambda _: engine.cancel(third))
        engine.submit(second)
        third = answers.submit(2.0)
        gate.open()
        await answers.all(first)
        await eventually(lambda: engine.in_flight == 0)
        assert third not in answers.ended


async def test_a_callback_that_raises_does_not_harm_the_others(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Request) -> None:
        raise RuntimeError("the connection is gone")

    async with engine_of(tmp_path) as (engine, answers):
        first = await busy(answers, gate)
        engine.submit(request([[1.0]], [(1,)], on_done=broken))
        engine.submit(request([[-1.0]], [(1,)], on_done=broken))
        good = answers.submit(2.0)
        gate.open()
        with caplog.at_level(logging.ERROR):
            await answers.all(first, good)
            await eventually(lambda: engine.in_flight == 0)
        assert "could not be delivered" in caplog.text


async def test_a_deadline_that_passes_in_the_queue(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first = await busy(answers, gate)
        late = answers.submit(1.0, timeout_s=0.2)
        await answers.all(late)
        assert isinstance(late.error, DeadlineExceeded)
        assert late.error.stage == "queued"
        gate.open()
        await answers.all(first)
        assert engine.in_flight == 0
        assert engine.metrics.answered == {"ok": 1, "deadline_exceeded": 1}


async def test_a_deadline_that_passes_while_the_model_runs(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        gate.close()
        late = answers.submit(1.0, timeout_s=0.3)
        await answers.all(late)
        assert isinstance(late.error, DeadlineExceeded)
        assert late.error.stage == "executing"
        gate.open()
        good = answers.submit(2.0)
        await answers.all(good)
        assert y(good) == [[4.0]]
        assert engine.in_flight == 0


async def test_a_deadline_that_has_passed_is_refused(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        with pytest.raises(AdmissionError) as caught:
            answers.submit(1.0, timeout_s=-1.0)
        assert caught.value.code == "deadline_unreachable"
        assert engine.metrics.refused == {"deadline_unreachable": 1}
        assert engine.in_flight == 0


async def test_a_model_among_others_is_charged_for_what_is_refused_too(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        fairness = Fairness(2)
        member = fairness.join(1.0, 1)
        engine.turns = Turns(Cores(2), member)
        await answers.all(answers.submit(1.0))
        with pytest.raises(AdmissionError):
            answers.submit(1.0, timeout_s=-1.0)
        assert member.asked == 2
        before_s = member.served
        fairness.charge_own(1.0, elapsed_s=1.0)
        assert member.asked == 0
        assert member.served - before_s == pytest.approx(1.0)


async def test_a_full_queue_refuses(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, max_queue_rows=2, batching="off") as (_, answers):
        first = await busy(answers, gate)
        waiting = []
        with pytest.raises(AdmissionError) as caught:
            waiting += [answers.submit(float(n)) for n in range(10)]
        assert caught.value.code == "queue_full"
        assert caught.value.retry_after_s > 0
        gate.open()
        await answers.all(first)


@pytest.mark.parametrize(
    "payload", [[1e39], [1.0, 2.0], ["text"], bytes(3), b""], ids=["too large", "too long", "text", "bytes", "empty"]
)
async def test_a_payload_that_is_none_fails_alone(tmp_path: Path, gate: Gate, payload: Any) -> None:
    """The API checks what comes over HTTP; callers in the same process may pass anything."""
    async with engine_of(tmp_path) as (engine, answers):
        first = await busy(answers, gate)
        bad = request([payload], [(1,)], on_done=answers.on_done)
        engine.submit(bad)
        good = [answers.submit(float(n)) for n in range(3)]
        gate.open()
        await answers.all(first, bad, *good)
        assert bad.error is not None
        assert bad.error.code == "model_error"
        assert [y(item) for item in good] == [[[2.0 * n]] for n in range(3)]
        assert engine.in_flight == 0


async def test_draining_finishes_what_was_admitted_and_refuses_the_rest(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        items = [await busy(answers, gate), answers.submit(1.0), answers.submit(*map(float, range(600)), rows=600)]
        closing = asyncio.create_task(engine.close(30.0))
        await asyncio.sleep(0)
        assert engine.state == "draining"
        with pytest.raises(AdmissionError) as caught:
            answers.submit(2.0)
        assert caught.value.code == "draining"
        gate.open()
        await closing
        assert set(map(id, answers.ended)) == set(map(id, items))
        assert all(item.error is None for item in items)


async def test_what_outlasts_the_grace_is_told(tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    async with engine_of(tmp_path, max_batch_rows=2) as (engine, answers):
        items = [await busy(answers, gate), *(answers.submit(float(n)) for n in range(5))]
        items.append(answers.submit(*map(float, range(6)), rows=6))
        with caplog.at_level(logging.WARNING):
            await engine.close(0.05)
        assert len(answers.ended) == len(items)
        assert {item.error.code if item.error else "" for item in items} == {"draining"}
        assert engine.in_flight == 0
    assert "7 requests were still in flight" in caplog.text


async def test_closing_twice_and_with_nothing_to_do(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, _):
        await engine.close(1.0)
        await engine.close(1.0)
        assert engine.state == "draining"


async def test_requests_of_a_priority_go_first(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, batching="off") as (engine, answers):
        first = await busy(answers, gate)
        waiting = [answers.submit(float(n)) for n in range(4)]
        urgent = request([[9.0]], [(1,)], on_done=answers.on_done, priority=1)
        engine.submit(urgent)
        gate.open()
        await answers.all(first, urgent, *waiting)
        place = {id(item): index for index, item in enumerate(answers.ended)}
        # One may have been sent ahead to wait at the instance.
        assert place[id(urgent)] < place[id(waiting[1])]


Check = Callable[[Engine], object]


@pytest.mark.parametrize(
    ("attributes", "check", "expected"),
    [
        ("max_batch_rows = 8", lambda engine: engine.max_batch_rows, 8),
        ("slo_ms = 1500", lambda engine: engine.default_timeout_s, 1.5),
        ("batching = 'off'", lambda engine: engine.max_batch_rows, 0),
        ("instances = 2", lambda engine: (engine.instances, engine.supervisor.ready), (2, 2)),
        ("max_queue_delay_ms = 3.0", lambda engine: engine.max_queue_delay_ms, 3.0),
    ],
)
async def test_settings_of_the_class_hold(tmp_path: Path, attributes: str, check: Check, expected: object) -> None:
    async with engine_of(tmp_path, attributes) as (engine, _):
        assert check(engine) == expected


async def test_threads_of_the_class_hold_for_every_instance(tmp_path: Path) -> None:
    text = INDEPENDENT.replace(
        "np.zeros(len(x), int)", "np.full(len(x), self.threads * 10 + int(os.environ['OMP_NUM_THREADS']))"
    )
    async with engine_of(tmp_path, "threads = 2", text=text) as (_, answers):
        item = answers.submit(1.0)
        await answers.all(item)
        assert item.outputs is not None
        assert item.outputs.arrays[1].tolist() == [22]


async def test_measured_costs_are_kept_and_used_by_the_next_start(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path, warm_up_s=0.2) as (engine, _):
        assert engine.latency.observations > 0
        measured = len(gate.calls)
    assert len(list((tmp_path / "data" / "latency").iterdir())) == 1
    async with engine_of(tmp_path, warm_up_s=30.0) as (engine, answers):
        assert engine.latency.observations > 0
        assert len(gate.calls) - measured < measured, "only checked and warmed up"
        item = answers.submit(1.0)
        await answers.all(item)


async def test_a_large_answer_comes_back_whole(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        rows = np.random.default_rng(0).random((3, 100_000)).astype("<f4") + 1
        item = request([rows.tobytes()], [(100_000,)], 3, on_done=answers.on_done)
        engine.submit(item)
        await answers.all(item)
        assert item.error is None
        assert item.outputs is not None
        np.testing.assert_array_equal(item.outputs.arrays[0][item.row_start : item.row_start + 3], rows * 2)
