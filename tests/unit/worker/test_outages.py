"""What a worker holds while its store is away or full: it is counted and told once, and stops no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.engine.started import eventually
from tests.unit.worker.rig import Shaky, output, rig
from tests.unit.worker.test_streaming import STREAMING, told

from forebay.core.errors import DependencyError
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobSpec, Output
from forebay.jobs.store import Bounds, Finish, NewJob, Partial
from forebay.telemetry.job_metrics import JobMetrics
from forebay.worker import holding
from forebay.worker.commits import Commits

ID = "01890a5d-ac96-774b-bcce-b302099a805{}"


async def test_a_job_that_is_leased_again_while_its_old_end_waits_leaves_no_bytes_behind(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.gate.close()
        before = len(r.gate.calls)
        [id] = await r.submit(1.0)
        await r.begun(before + 1)
        held = r.worker._holding
        first = held.held[id].job
        r.worker._leasing.stop()
        r.jobs.down = True
        r.gate.open()
        await eventually(lambda: r.worker.metrics.held() == (1, 1))
        await MemoryJobs.extend(r.jobs, [first], 0.001)
        await asyncio.sleep(0.01)
        await r.jobs.reap()
        held.take(await MemoryJobs.lease(r.jobs, ["tiny"], 1, 1.0, 30.0))
        assert held.held[id].job is not first
        r.jobs.down = False
        [record] = await r.ended(id)
        assert (output(record), record.attempt) == ([2.0], 2)
        await eventually(lambda: r.worker.held == 0)
        assert held.nbytes == 0


async def test_pieces_whose_telling_was_taken_without_an_answer_are_told_once(tmp_path: Path) -> None:
    class Late(Shaky):
        cut = 3

        async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
            stand = await super().tell(partials)
            if self.cut:
                self.cut -= 1
                raise DependencyError("no answer came in time")
            return stand

    async with rig(tmp_path, text=STREAMING, jobs=Late()) as r:
        [id] = await r.submit(5.0)
        [record] = await r.ended(id)
        assert output(record) == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert await told(r, id) == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_store_that_takes_ends_but_no_pieces_gets_the_ends() -> None:
    class Full(MemoryJobs):
        full = True

        async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
            if self.full:
                raise DependencyError("it is at its maxmemory")
            return await super().tell(partials)

    jobs = Full()
    specs = [JobSpec(id=ID.format(number), model="m", tenant="anna") for number in range(2)]
    await jobs.submit([NewJob(spec) for spec in specs], Bounds(100, 100))
    first, second = await jobs.lease(["m"], 2, 0.0, 60.0)
    settled: list[bool] = []
    commits = Commits(jobs, JobMetrics(), lambda finish, stands: settled.append(stands), lambda job: None, lambda: None)
    running = asyncio.create_task(commits.run())
    commits.tell(Partial(first, piece=b"1", number=1))
    commits.tell(Partial(second, piece=b"2", number=1))
    commits.finish(Finish(first, "succeeded", output=Output(b"{}")))
    await eventually(lambda: settled == [True])
    jobs.full = False
    commits.finish(Finish(second, "succeeded", output=Output(b"{}")))
    async with asyncio.timeout(10):
        await commits.settled.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert settled == [True, True]
    for job, pieces in ((first, []), (second, [b"2"])):
        events = await jobs.events(job.spec.id, 0)
        assert [event.piece for event in events if event.kind == "output"] == pieces
        assert events[-1].state == "succeeded"


async def test_an_answer_that_is_too_large_for_a_store_fails_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "MOST_OUTPUT_BYTES", 10)
    async with rig(tmp_path) as r:
        small, large = await r.ended(*await r.submit(1.0, 123456789.0))
        assert output(small) == [2.0]
        assert (large.state, large.error and large.error.code) == ("failed", "model_error")
        assert large.error is not None
        assert "may have at most 10" in large.error.message
