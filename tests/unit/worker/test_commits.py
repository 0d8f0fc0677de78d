"""The order in which a store is told of jobs: all that a job told stands before its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobSpec, Output
from forebay.jobs.store import Bounds, Finish, LeasedJob, NewJob, Partial
from forebay.telemetry.job_metrics import JobMetrics
from forebay.worker.commits import Commits

ID = "01890a5d-ac96-774b-bcce-b302099a805{}"


class Slow(MemoryJobs):
    """A store whose `tell` takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.telling = asyncio.Event()
        self.go = asyncio.Event()

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        self.telling.set()
        await self.go.wait()
        return await super().tell(partials)


async def leased(jobs: MemoryJobs, count: int) -> Sequence[LeasedJob]:
    specs = [JobSpec(id=ID.format(number), model="m", tenant="anna") for number in range(count)]
    await jobs.submit([NewJob(spec) for spec in specs], Bounds(100, 100))
    return await jobs.lease(["m"], count, 0.0, 60.0)


async def test_pieces_that_come_while_others_are_told_stand_before_the_end() -> None:
    jobs = Slow()
    first, second = await leased(jobs, 2)
    settled: list[bool] = []
    commits = Commits(jobs, JobMetrics(), lambda finish, stands: settled.append(stands), lambda job: None, lambda: None)
    running = asyncio.create_task(commits.run())
    commits.tell(Partial(first, piece=b"1", number=1))
    await jobs.telling.wait()
    # While that is on its way the job tells more, and ends; and so does another.
    commits.tell(Partial(first, piece=b"2", number=2))
    commits.finish(Finish(first, "succeeded", output=Output(b"{}")))
    commits.tell(Partial(second, piece=b"3", number=1))
    commits.finish(Finish(second, "succeeded", output=Output(b"{}")))
    jobs.go.set()
    async with asyncio.timeout(10):
        await commits.settled.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert settled == [True, True]
    for job, pieces in ((first, [b"1", b"2"]), (second, [b"3"])):
        events = await jobs.events(job.spec.id, 0)
        assert [event.piece for event in events if event.kind == "output"] == pieces
        assert events[-1].state == "succeeded"
