"""Jobs that are dropped, since they are not the worker's any more: the messages that brought them are settled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.unit.engine.started import eventually
from tests.unit.worker.rig import Shaky, rig
from tests.unit.worker.test_worker import held_at_the_gate, lease_over

from forebay.jobs.store import Finish, LeasedJob


class Carrying(Shaky):
    """Gives a receipt with each job, and knows which of them it was told to be done with."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[str] = []
        self.settled: list[str] = []

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        jobs = await super().lease(models, most, wait_s, lease_s)
        self.given += (job.nonce for job in jobs)
        return [msgspec.structs.replace(job, receipt=job.nonce) for job in jobs]

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        done = await super().finish(finishes)
        self.settled += (finish.job.receipt for finish in finishes)
        return done


@pytest.mark.parametrize("how", ["told", "renewed", "back"])
async def test_the_message_of_a_job_that_is_dropped_is_settled_once(tmp_path: Path, how: str) -> None:
    carrying = Carrying()
    async with rig(tmp_path, jobs=carrying, lease_s=0.5 if how == "renewed" else 30.0) as r:
        id = await held_at_the_gate(r)
        first = r.worker._holding.held[id].job
        if how == "back":
            await lease_over(r, id)
            await eventually(lambda: r.worker._holding.held[id].job is not first)
        else:
            await r.jobs.cancel([id])
            if how == "told":
                r.worker.discard([id])
        await eventually(lambda: first.receipt in carrying.settled)
        assert (await r.record(id)).state == ("running" if how == "back" else "canceled")
        r.gate.open()
        await eventually(lambda: r.worker.held == 0 and len(carrying.settled) >= len(carrying.given))
        assert sorted(carrying.settled) == sorted(carrying.given)
