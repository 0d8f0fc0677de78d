"""Submissions share calls to the store without waiting for company, and each caller gets their own outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from forebay.api import job_submit
from forebay.api.job_submit import MOST_CALL_BYTES, MOST_CALLS, MOST_JOBS, Outcome, Submitter
from forebay.core.errors import AdmissionError, DependencyError
from forebay.jobs.record import JobSpec
from forebay.jobs.store import Bounds, NewJob, Submission

BOUNDS = Bounds(10, 1000)


class SlowQueue:
    """The submitting half of a `JobQueue`; a call ends when the test says so."""

    def __init__(self, held: bool = True) -> None:
        self.calls: list[list[str]] = []
        self.ends: list[asyncio.Future[Exception | None]] = []
        self.held = held
        self.short = False

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        assert bounds == BOUNDS
        self.calls.append([job.spec.id for job in new])
        if self.held:
            end: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
            self.ends.append(end)
            if (error := await end) is not None:
                raise error
        outcomes = [Submission("created", job.spec.id, 7) for job in new]
        return outcomes[1:] if self.short else outcomes


def submitter_of(queue: SlowQueue, ready: Exception | None = None, worth_jobs: int = MOST_JOBS) -> Submitter:
    async def is_ready() -> None:
        if ready is not None:
            raise ready

    return Submitter(queue, BOUNDS, is_ready, worth_jobs)  # type: ignore[arg-type]


def job(name: str, nbytes: int = 0) -> NewJob:
    return NewJob(JobSpec(id=name, model="m", tenant="t", body=bytes(nbytes)))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_job_is_sent_at_once() -> None:
    queue = SlowQueue(held=False)
    found: list[Outcome] = []
    submitter_of(queue).submit(job("a"), found.append)
    assert found == []
    await turns()
    assert found == [Submission("created", "a", 7)]


async def test_jobs_that_come_during_a_call_share_the_next() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    submitter.submit(job("a"), found.append)
    await turns()
    for name in "bcd":
        submitter.submit(job(name), found.append)
        await turns()
    assert queue.calls == [["a"]]
    queue.ends[0].set_result(None)
    await turns()
    assert queue.calls == [["a"], ["b", "c", "d"]]
    queue.ends[1].set_result(None)
    await turns()
    assert [outcome.id for outcome in found if isinstance(outcome, Submission)] == ["a", "b", "c", "d"]
    # All is done with: the next one goes at once again.
    submitter.submit(job("e"), found.append)
    await turns()
    assert queue.calls[2:] == [["e"]]
    queue.ends[2].set_result(None)
    await submitter.close()


async def test_where_calls_are_mostly_waiting_further_ones_begin_sooner() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue, worth_jobs=3)
    found: list[Outcome] = []
    for number in range(1 + 3 + 6):
        submitter.submit(job(str(number)), found.append)
        await turns()
    assert [len(call) for call in queue.calls] == [1, 3, 6]
    for end in queue.ends:
        end.set_result(None)
    await submitter.close()
    assert len(found) == 10


async def test_one_that_comes_as_a_call_ends_is_not_forgotten() -> None:
    queue = SlowQueue(held=False)
    submitter = submitter_of(queue)
    found: list[Outcome] = []

    def again(outcome: Outcome) -> None:
        found.append(outcome)
        if len(found) < 50:
            asyncio.get_running_loop().call_soon(submitter.submit, job(str(len(found))), again)

    submitter.submit(job("0"), again)
    async with asyncio.timeout(5):
        while len(found) < 50:
            await asyncio.sleep(0)


async def test_calls_are_bounded_in_number_and_in_size() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    total = MOST_JOBS * (MOST_CALLS + 2)
    for number in range(total):
        submitter.submit(job(str(number)), found.append)
    await turns()
    assert [len(call) for call in queue.calls] == [MOST_JOBS] * MOST_CALLS
    while len(found) < total:
        for end in queue.ends:
            if not end.done():
                end.set_result(None)
        await turns()
    assert sorted(int(name) for call in queue.calls for name in call) == list(range(total))
    assert max(map(len, queue.calls)) <= MOST_JOBS

    queue.calls.clear()
    queue.held = False
    for number in range(4):
        submitter.submit(job(str(number), MOST_CALL_BYTES * (2 if number == 1 else 1) // 2), found.append)
    await turns(20)
    assert queue.calls == [["0"], ["1"], ["2", "3"]]


async def test_an_error_of_the_store_reaches_all_of_the_call_and_no_other() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    for name in "ab":
        submitter.submit(job(name), found.append)
    await turns()
    submitter.submit(job("c"), found.append)
    queue.ends[0].set_result(DependencyError("no", code="broker_unavailable", retry_after_s=3.0))
    await turns()
    assert [(type(one), one.code, one.retry_after_s) for one in found if isinstance(one, DependencyError)] == [
        (DependencyError, "broker_unavailable", 3.0)
    ] * 2
    assert found[0] is not found[1]
    queue.ends[1].set_result(None)
    await turns()
    assert found[2] == Submission("created", "c", 7)


@pytest.mark.parametrize("short", [False, True])
async def test_a_fault_is_logged_and_answered(caplog: pytest.LogCaptureFixture, short: bool) -> None:
    queue = SlowQueue(held=not short)
    queue.short = short
    found: list[Outcome] = []
    submitter_of(queue).submit(job("a"), found.append)
    await turns()
    if not short:
        queue.ends[0].set_result(KeyError("x"))
    await turns()
    assert isinstance(found[0], RuntimeError if short else KeyError)
    assert "submitting jobs failed" in caplog.text


async def test_one_answer_that_fails_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    submitter = submitter_of(SlowQueue(held=False))
    found: list[Outcome] = []

    def fails(outcome: Outcome) -> None:
        raise KeyError("x")

    submitter.submit(job("a"), fails)
    submitter.submit(job("b"), found.append)
    with caplog.at_level(logging.ERROR):
        await turns()
    assert len(found) == 1
    assert "the answer to a job failed" in caplog.text


async def test_the_store_is_started_first_and_its_error_is_the_answer() -> None:
    queue = SlowQueue(held=False)
    with pytest.raises(DependencyError, match="no valkey"):
        await submitter_of(queue, DependencyError("no valkey")).submitted(job("a"))
    assert queue.calls == []


async def test_a_caller_that_left_is_dropped_only_before_it_is_sent() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    first = submitter.submit(job("a"), found.append)
    await turns()
    second = submitter.submit(job("b"), found.append)
    submitter.submit(job("c"), found.append)
    first.withdraw()
    second.withdraw()
    queue.ends[0].set_result(None)
    await turns()
    queue.ends[1].set_result(None)
    await turns()
    assert queue.calls == [["a"], ["c"]]

    queue.calls.clear()
    submitter.submit(job("d"), found.append)
    await turns()
    waiting = asyncio.ensure_future(submitter.submitted(job("e")))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    queue.ends[2].set_result(None)
    await turns()
    assert queue.calls == [["d"]]


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_submit, "MOST_WAITING", 3)
    monkeypatch.setattr(job_submit, "MOST_WAITING_BYTES", 10)
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    submitter.submit(job("a"), found.append)
    await turns()
    submitter.submit(job("b", 6), found.append)
    with pytest.raises(AdmissionError, match="too many jobs"):
        submitter.submit(job("c", 5), found.append)
    submitter.submit(job("c", 4), found.append)
    submitter.submit(job("d"), found.append)
    with pytest.raises(AdmissionError, match="too many jobs") as caught:
        submitter.submit(job("e"), found.append)
    assert caught.value.code == "queue_full"
    queue.ends[0].set_result(None)
    await turns()
    submitter.submit(job("e", 10), found.append)


async def test_closing_sends_what_waits_and_takes_no_more() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    submitter.submit(job("a"), found.append)
    await turns()
    submitter.submit(job("b"), found.append)
    closing = asyncio.ensure_future(submitter.close())
    await turns()
    with pytest.raises(AdmissionError) as caught:
        submitter.submit(job("c"), found.append)
    assert caught.value.code == "draining"
    for at in (0, 1):
        queue.ends[at].set_result(None)
        await turns()
    await closing
    assert [outcome.id for outcome in found if isinstance(outcome, Submission)] == ["a", "b"]


async def test_a_loop_that_ends_leaves_nobody_waiting() -> None:
    queue = SlowQueue()
    submitter = submitter_of(queue)
    found: list[Outcome] = []
    submitter.submit(job("a"), found.append)
    await turns()
    submitter.submit(job("b"), found.append)
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()
    await turns()
    assert [type(outcome) for outcome in found] == [DependencyError] * 2
