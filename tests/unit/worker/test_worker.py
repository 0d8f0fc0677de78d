"""The worker with a real engine: what is leased runs, ends once, and is given back where it cannot run here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.engine.requests import request
from tests.unit.engine.started import eventually
from tests.unit.worker.rig import Rig, Shaky, output, rig

from forebay.engine import flight
from forebay.jobs.record import Output
from forebay.jobs.store import Finish, LeasedJob
from forebay.worker import leasing, outcomes


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once, and a model call hangs after half a second."""
    monkeypatch.setattr(outcomes, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(flight, "HANG_MIN_S", 0.5)


async def test_jobs_run_and_get_their_own_answers(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        ids = await r.submit(*[float(n) for n in range(300)])
        records = await r.ended(*ids)
        assert [output(one) for one in records] == [[2.0 * n] for n in range(300)]
        assert {one.attempt for one in records} == {1}
        await eventually(lambda: r.worker.held == 0)
        assert r.worker.metrics.leased == {"tiny": 300}
        assert r.worker.metrics.finished == {("tiny", "succeeded"): 300}
        assert max(one.metrics["batch_rows"] for one in records if one.metrics) > 1


async def test_jobs_that_end_while_others_are_committed_share_a_call(tmp_path: Path) -> None:
    class Slow(Shaky):
        def __init__(self) -> None:
            super().__init__()
            self.may_go_on = asyncio.Event()

        async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
            await self.may_go_on.wait()
            return await super().finish(finishes)

    jobs = Slow()
    async with rig(tmp_path, jobs=jobs) as r:
        ids = await r.submit(*[float(n) for n in range(40)])
        await eventually(lambda: r.codec.closed == 40)
        jobs.may_go_on.set()
        await r.ended(*ids)
        assert len(jobs.committed) <= 2, "those that had ended when the first call began, and all the others"


async def test_a_job_says_how_its_batch_was(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        [record] = await r.ended(*await r.submit(1.0))
        assert record.metrics is not None
        assert record.metrics["batch_rows"] == 1
        assert record.metrics["dispatch_reason"] == "idle"
        assert record.metrics["compute_ms"] > 0
        assert record.metrics["queue_ms"] >= 0


async def test_requests_that_are_answered_are_not_counted_among_jobs(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ended(*await r.submit(1.0, -1.0))
        assert r.engine.metrics.answered == {}
        assert r.engine.in_flight == 0


async def test_a_large_body_is_opened_in_steps(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        [record] = await r.ended(*await r.submit([1.0] * 20_000))
        assert output(record) == [2.0] * 20_000


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", "invalid_request"), (-1.0, "model_error"), (b'["x"]', "invalid_request")]
)
async def test_what_would_fail_again_fails_at_once(tmp_path: Path, body: bytes | float, code: str) -> None:
    async with rig(tmp_path) as r:
        [record] = await r.ended(*await r.submit(body))
        assert (record.state, record.attempt) == ("failed", 1)
        assert record.error is not None
        assert record.error.code == code


async def test_only_the_job_that_raises_fails(tmp_path: Path) -> None:
    async with rig(tmp_path, start=False) as r:
        ids = await r.submit(*[-1.0 if n == 11 else float(n) for n in range(32)])
        r.worker.start()
        records = await r.ended(*ids)
        assert [one.state for one in records] == ["failed" if n == 11 else "succeeded" for n in range(32)]
        assert {one.attempt for one in records} == {1}


async def test_a_job_that_kills_its_process_fails_after_its_attempts_and_costs_its_mates_none(tmp_path: Path) -> None:
    async with rig(tmp_path, start=False) as r:
        ids = await r.submit(*[-2.0 if n == 17 else float(n) for n in range(32)])
        r.worker.start()
        records = await r.ended(*ids)
        poison = records.pop(17)
        assert (poison.state, poison.attempt) == ("failed", 3)
        assert poison.error is not None
        assert poison.error.code == "instance_crashed"
        assert {(one.state, one.attempt) for one in records} == {("succeeded", 1)}
        assert r.engine.state == "ready"
        assert r.worker.metrics.finished["tiny", "retry"] == 3, "the last retry found no attempt left"


async def test_a_job_that_does_not_fit_into_memory_is_tried_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        [record] = await r.ended(*await r.submit(-3.0, max_attempts=2))
        assert (record.state, record.attempt) == ("failed", 2)
        assert record.error is not None
        assert record.error.code == "out_of_memory"


async def test_a_job_that_hangs_fails_at_its_timeout_and_its_mates_run_again(tmp_path: Path) -> None:
    async with rig(tmp_path, start=False) as r:
        ids = await r.submit(*[-4.0 if n == 5 else float(n) for n in range(8)], timeout_s=0.3)
        r.worker.start()
        records = await r.ended(*ids)
        hung = records.pop(5)
        assert (hung.state, hung.attempt) == ("failed", 1)
        assert hung.error is not None
        assert (hung.error.code, hung.error.stage) == ("deadline_exceeded", "executing")
        assert {(one.state, one.attempt) for one in records} == {("succeeded", 1)}
        await eventually(lambda: r.engine.metrics.deaths == 2)
        [good] = await r.ended(*await r.submit(1.0))
        assert good.state == "succeeded"


async def test_waiting_does_not_count_against_the_timeout(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.gate.close()
        before = len(r.gate.calls)
        [first] = await r.submit(1.0)
        await r.begun(before + 1)
        ids = await r.submit(2.0, 3.0, timeout_s=0.2)
        await asyncio.sleep(0.4)
        r.gate.open()
        assert [one.state for one in await r.ended(first, *ids)] == ["succeeded"] * 3


async def test_a_job_of_another_envelope_fails_when_nobody_knew_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        [record] = await r.ended(*await r.submit(1.0, envelope=99))
        assert (record.state, record.attempt) == ("failed", 3)
        assert record.error is not None
        assert record.error.code == "unsupported"
        assert "99" in record.error.message


async def test_a_version_that_nobody_serves_is_not_looked_for_for_ever(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        [record] = await r.ended(*await r.submit(1.0, version="7"))
        assert (record.state, record.attempt) == ("failed", 3)
        assert record.error is not None
        assert record.error.code == "model_not_found"


async def test_an_answer_that_cannot_be_written_fails_its_job(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.codec.close_raises = True
        [record] = await r.ended(*await r.submit(1.0))
        assert record.error is not None
        assert (record.state, record.error.code) == ("failed", "internal")


async def test_a_model_that_comes_later_gets_its_jobs_then(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.codec.serve({})
        ids = await r.submit(1.0)
        await asyncio.sleep(0.05)
        assert (await r.record(ids[0])).state == "queued"
        r.codec.serve({"tiny": r.engine})
        [record] = await r.ended(*ids)
        assert output(record) == [2.0]


async def test_jobs_for_an_engine_that_drains_go_back_uncounted(tmp_path: Path) -> None:
    async with rig(tmp_path, start=False) as r:
        [id] = await r.submit(1.0)
        [job] = await r.jobs.lease(["tiny"], 1, 0.0, 30.0)
        r.engine.drain()
        r.worker._holding.take([job])
        r.worker.start()
        await eventually(lambda: r.worker.metrics.finished.get(("tiny", "release")) == 1)
        record = await r.record(id)
        assert (record.state, record.attempt) == ("queued", 0)


async def test_no_more_is_leased_than_keeps_the_instances_busy(tmp_path: Path) -> None:
    async with rig(tmp_path, max_batch_rows=4) as r:
        r.gate.close()
        await r.submit(*[float(n) for n in range(200)])
        await eventually(lambda: r.worker.held >= 4)
        await asyncio.sleep(0.1)
        assert r.worker.held <= 2 * 4
        r.gate.open()
        await eventually(lambda: r.worker.metrics.finished.get(("tiny", "succeeded")) == 200)


async def test_leases_are_kept_while_a_batch_runs(tmp_path: Path) -> None:
    async with rig(tmp_path, lease_s=0.3) as r:
        r.gate.close()
        ids = await r.submit(1.0, 2.0)
        for _ in range(20):
            await asyncio.sleep(0.05)
            await r.jobs.reap()
        r.gate.open()
        assert {(one.state, one.attempt) for one in await r.ended(*ids)} == {("succeeded", 1)}
        assert len(r.jobs.extended) >= 3


async def held_at_the_gate(r: Rig) -> str:
    """A job that runs."""
    r.gate.close()
    before = len(r.gate.calls)
    [id] = await r.submit(1.0)
    await r.begun(before + 1)
    return id


async def test_a_canceled_job_is_dropped_when_the_changes_tell(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        id = await held_at_the_gate(r)
        await r.jobs.cancel([id])
        r.worker.discard([id, "unknown"])
        assert (r.worker.held, r.engine.in_flight) == (0, 0)
        r.gate.open()
        [good] = await r.ended(*await r.submit(2.0))
        assert (good.state, (await r.record(id)).state) == ("succeeded", "canceled")


async def test_a_canceled_job_is_dropped_when_its_lease_would_be_renewed(tmp_path: Path) -> None:
    async with rig(tmp_path, lease_s=0.3) as r:
        id = await held_at_the_gate(r)
        await r.jobs.cancel([id])
        await eventually(lambda: r.worker.held == 0)
        assert r.engine.in_flight == 0
        r.gate.open()


async def test_a_result_that_comes_after_a_cancel_is_discarded(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        id = await held_at_the_gate(r)
        await r.jobs.cancel([id])
        r.gate.open()
        await eventually(lambda: r.worker.held == 0)
        record = await r.record(id)
        assert (record.state, record.output) == ("canceled", None)
        assert r.worker.metrics.finished == {("tiny", "lost"): 1}


async def lease_over(r: Rig, id: str) -> None:
    """The lease of a job that is held has run out, as if its worker had slept."""
    await r.jobs.extend([r.worker._holding.held[id].job], 0.001)
    await asyncio.sleep(0.01)
    await r.jobs.reap()
    assert (await r.record(id)).state == "queued"


async def test_a_worker_that_slept_past_its_lease_does_not_commit(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        id = await held_at_the_gate(r)
        r.worker._leasing.stop()
        await lease_over(r, id)
        [job] = await r.jobs.lease(["tiny"], 1, 1.0, 30.0)
        r.gate.open()
        await eventually(lambda: r.worker.held == 0)
        assert r.worker.metrics.finished == {("tiny", "lost"): 1}
        await r.jobs.finish([Finish(job, "succeeded", Output(b"[7.0]"))])
        assert output(await r.record(id)) == [7.0]


async def test_a_job_that_comes_back_to_the_same_worker_runs_once_more_and_commits_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        id = await held_at_the_gate(r)
        first = r.worker._holding.held[id].job
        await lease_over(r, id)
        await eventually(lambda: r.worker._holding.held[id].job is not first)
        r.gate.open()
        [record] = await r.ended(id)
        assert (output(record), record.attempt) == ([2.0], 2)
        await eventually(lambda: r.worker.held == 0)
        assert r.worker.metrics.finished == {("tiny", "succeeded"): 1}


async def test_while_the_store_is_away_results_are_held_and_nothing_is_leased(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.gate.close()
        before = len(r.gate.calls)
        ids = await r.submit(*[float(n) for n in range(10)])
        await r.begun(before + 1)
        r.jobs.down = True
        r.gate.open()
        await eventually(lambda: r.worker.metrics.held()[1] == 10)
        more = await r.submit(77.0)
        await asyncio.sleep(0.3)
        assert r.worker.metrics.held() == (10, 10)
        assert r.worker.metrics.store_errors["finish"] >= 1
        r.jobs.down = False
        assert {(one.state, one.attempt) for one in await r.ended(*ids, *more)} == {("succeeded", 1)}


async def test_a_drain_gives_back_what_waits_and_ends_what_runs(tmp_path: Path) -> None:
    async with rig(tmp_path, max_batch_rows=2) as r:
        r.gate.close()
        before = len(r.gate.calls)
        ids = await r.submit(*[float(n) for n in range(20)])
        await r.begun(before + 1)
        await eventually(lambda: r.worker.held == 4)
        closing = asyncio.create_task(r.worker.close(30.0))
        await eventually(lambda: r.worker.held <= 2)
        r.gate.open()
        await closing
        states = [one.state for one in await r.records(ids)]
        assert set(states) == {"succeeded", "queued"}
        assert 1 <= states.count("succeeded") <= 2
        assert {one.attempt for one in await r.records(ids) if one.state == "queued"} == {0}
        assert await r.jobs.lease(["tiny"], 20, 0.0, 30.0), "nothing waits for a lease to end"


async def test_what_a_last_call_brings_after_the_drain_began_goes_back(tmp_path: Path) -> None:
    class Slow(Shaky):
        claimed = 0

        async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
            jobs = await super().lease(models, most, wait_s, lease_s)
            self.claimed += len(jobs)
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass  # too late: they are claimed
            return jobs

    jobs = Slow()
    async with rig(tmp_path, jobs=jobs, start=False) as r:
        ids = await r.submit(*[float(n) for n in range(20)])
        r.worker.start()
        await eventually(lambda: jobs.claimed)
        await r.worker.close(5.0)
        assert {(one.state, one.attempt) for one in await r.records(ids)} == {("queued", 0)}


async def test_what_is_still_running_when_the_grace_is_over_goes_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        id = await held_at_the_gate(r)
        await r.worker.close(0.05)
        record = await r.record(id)
        assert (record.state, record.attempt) == ("queued", 0)
        assert r.engine.in_flight == 0
        r.gate.open()


async def test_a_loop_that_dies_gives_back_what_it_holds_and_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(tmp_path) as r:
        id = await held_at_the_gate(r)
        r.jobs.lease_raises = RuntimeError("a bug")
        await eventually(lambda: r.worker.reason)
        assert "a bug" in r.worker.reason
        assert r.engine.in_flight == 0
        r.gate.open()
        [record] = await r.ended(id)
        assert (record.state, record.attempt) == ("succeeded", 1)
        assert r.worker.reason == ""
        assert "the worker loop died" in caplog.text


async def test_synchronous_requests_go_before_jobs_that_wait(tmp_path: Path) -> None:
    async with rig(tmp_path, max_batch_rows=2) as r:
        id = await held_at_the_gate(r)
        jobs = await r.submit(*[float(n) for n in range(6)])
        await eventually(lambda: r.worker.held >= 3)
        jobs_before: list[int] = []
        for n in range(4):
            asked = request([[float(n)]], [(1,)], on_done=lambda item: jobs_before.append(r.codec.closed))
            r.engine.submit(asked)
        r.gate.open()
        await eventually(lambda: len(jobs_before) == 4)
        assert jobs_before == [1] * 4, "only the one that ran already"
        await r.ended(id, *jobs)


async def test_beside_requests_jobs_are_leased_and_committed_a_few_at_a_time(tmp_path: Path) -> None:
    async with rig(tmp_path, start=False) as r:
        ids = await r.submit(*[float(n) for n in range(200)])
        await r.answers.all(r.answers.submit(1.0))
        r.worker.start()
        await r.ended(*ids)
        assert max(r.jobs.committed) <= leasing.PACED_MOST


async def test_an_answer_that_the_store_cannot_take_fails_its_job_alone(tmp_path: Path) -> None:
    class Picky(Shaky):
        async def finish(self, finishes):  # type: ignore[no-untyped-def]
            if any(one.output is not None and one.output.body == b"[10.0]" for one in finishes):
                raise ValueError("not this one")
            return await super().finish(finishes)

    async with rig(tmp_path, jobs=Picky()) as r:
        records = await r.ended(*await r.submit(*[float(n) for n in range(10)]))
        assert [one.state for one in records] == ["failed" if n == 5 else "succeeded" for n in range(10)]
        assert records[5].error is not None
        assert records[5].error.code == "internal"
