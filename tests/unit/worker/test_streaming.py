"""Jobs of a model that streams: pieces and progress reach the store in order, before the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.unit.engine.started import eventually
from tests.unit.worker.rig import Rig, output, rig

from forebay.worker import commits, outcomes

STREAMING = '''
import os
import time

import forebay

HERE = os.path.dirname(__file__)


class Tiny(forebay.Model):
    """Counts to x. Waits before 2 while the file `gate` is beside it; -2 ends the process after its first piece."""

    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}

    def examples(self):
        return [{"x": [1.0]}, {"x": [2.0]}]

    def predict(self, x):
        wanted = abs(x[:, 0]).tolist()
        live, number = set(range(len(wanted))), 0
        while live:
            number += 1
            while number == 2 and os.path.exists(os.path.join(HERE, "gate")):
                time.sleep(0.001)
                live -= (yield [])
            if number == 2 and (x == -2).any():
                os._exit(3)
            steps = []
            for row in sorted(live):
                steps.append(forebay.Progress(number / max(number, wanted[row]), row))
                steps.append(forebay.Partial(row, [float(number)], last=number >= wanted[row]))
            live -= (yield steps)
            live -= {row for row in live if number >= wanted[row]}
'''


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "FIRST_RETRY_S", 0.01)


async def told(r: Rig, id: str) -> list[float]:
    """The pieces of a job that its events tell of."""
    events = await r.jobs.events(id, 0)
    return [msgspec.json.decode(event.piece)["y"][0][0] for event in events if event.kind == "output"]


async def test_pieces_and_progress_are_told_before_the_end(tmp_path: Path) -> None:
    async with rig(tmp_path, text=STREAMING) as r:
        r.gate.close()
        [id] = await r.submit(3.0)
        await eventually(lambda: r.worker.held == 1)
        for _ in range(500):
            if await told(r, id):
                break
            await asyncio.sleep(0.01)
        assert await told(r, id) == [1.0]
        assert (await r.record(id)).progress == pytest.approx(1 / 3)
        r.gate.open()
        [record] = await r.ended(id)
        assert output(record) == [1.0, 2.0, 3.0]
        assert await told(r, id) == [1.0, 2.0, 3.0]
        events = await r.jobs.events(id, 0)
        assert [event.sequence for event in events] == sorted(event.sequence for event in events)
        assert (events[-1].kind, events[-1].state) == ("status", "succeeded")


async def test_a_stream_that_breaks_off_runs_again_as_another_attempt(tmp_path: Path) -> None:
    async with rig(tmp_path, text=STREAMING) as r:
        [record] = await r.ended(*await r.submit(-2.0, max_attempts=2))
        assert (record.state, record.attempt) == ("failed", 2)
        assert record.error is not None
        assert record.error.code == "instance_crashed"


async def test_a_job_that_was_canceled_is_not_told_of_any_more(tmp_path: Path) -> None:
    async with rig(tmp_path, text=STREAMING) as r:
        r.gate.close()
        [id, other] = await r.submit(5.0, 2.0)
        await eventually(lambda: r.worker.held == 2)
        await r.jobs.cancel([id])
        r.gate.open()
        assert output((await r.ended(other))[0]) == [1.0, 2.0]
        await eventually(lambda: r.worker.held == 0)
        assert (await r.record(id)).state == "canceled"
        assert r.engine.in_flight == 0


async def test_pieces_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    async with rig(tmp_path, text=STREAMING) as r:
        r.gate.close()
        [id] = await r.submit(4.0)
        await eventually(lambda: r.worker.held == 1)
        r.jobs.down = True
        r.gate.open()
        await eventually(lambda: r.worker.metrics.held() == (1, 1))
        r.jobs.down = False
        [record] = await r.ended(id)
        assert output(record) == [1.0, 2.0, 3.0, 4.0]
        assert await told(r, id) == [1.0, 2.0, 3.0, 4.0]


async def test_of_too_many_pieces_none_is_told_with_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "MOST_PARTIALS", 4)
    async with rig(tmp_path, text=STREAMING) as r:
        r.gate.close()
        [id] = await r.submit(50.0)
        await eventually(lambda: r.worker.held == 1)
        r.jobs.down = True
        r.gate.open()
        await eventually(lambda: r.worker.metrics.held() == (1, 1))
        r.jobs.down = False
        [record] = await r.ended(id)
        assert output(record) == [float(n) for n in range(1, 51)]
        pieces = await told(r, id)
        assert pieces == [float(n) for n in range(1, len(pieces) + 1)]
        assert 1 <= len(pieces) <= 10
