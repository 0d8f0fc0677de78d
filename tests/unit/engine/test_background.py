"""Jobs in a started engine: behind all others, judged by their own time, told how their batch was."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.requests import request
from tests.unit.engine.started import MODEL, Answers, Gate, eventually, plan_of, running, tiny, y

from forebay.core.request import Background, Request
from forebay.engine import flight
from forebay.engine.engine import Engine

TEXT = MODEL.replace("np.full(len(x), len(x))", "np.zeros(len(x), int)").replace(
    "        if (x == -1)", "        while (x == -4).any():\n            time.sleep(0.01)\n        if (x == -1)"
)
"""It hangs over -4."""


class House:
    """The engine, and requests that nobody waits for."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.gate = Gate(folder)
        self.answers = Answers(engine)

    def job(self, *values: float, rows: int = 1, timeout_s: float = math.inf, alone: bool = False) -> Request:
        shape = (len(values) // rows if rows else 1,)
        item = request([list(values)], [shape], rows, timeout_s=0.001, on_done=self.answers.on_done)
        item.background = Background(timeout_s, alone)
        self.engine.submit(item)
        return item

    async def at_the_gate(self) -> Request:
        """A job that runs until the gate opens."""
        before = len(self.gate.calls)
        self.gate.close()
        item = self.job(100.0)
        await eventually(lambda: len(self.gate.calls) > before)
        return item


@asynccontextmanager
async def house(folder: Path, **settings: Any) -> AsyncIterator[House]:
    async with running(plan_of(tiny(folder, text=TEXT), folder / "data", **{"pad": True, **settings})) as engine:
        yield House(engine, folder)


def codes(items: list[Request]) -> list[str]:
    return [item.error.code if item.error else "ok" for item in items]


async def test_jobs_are_answered_and_told_of_their_batch(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        items = [h.job(float(n)) for n in range(2)]
        h.gate.open()
        await h.answers.all(first, *items)
        assert [y(item) for item in items] == [[[2.0 * n]] for n in range(2)]
        for item in items:
            assert item.background is not None
            assert (item.batch_rows, item.dispatch_reason) == (2, "idle")
            assert item.background.began > item.arrived
            assert item.background.compute_s > 0
        assert h.engine.in_flight == 0


async def test_jobs_have_no_deadline_before_they_run_and_are_in_no_figure_of_requests(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        item, bad = h.job(1.0, timeout_s=30.0), h.job(-1.0)
        await asyncio.sleep(0.05)
        h.gate.open()
        await h.answers.all(first, item, bad)
        assert codes([item, bad]) == ["ok", "model_error"]
        assert h.engine.metrics.answered == {}
        assert h.engine.statistics().success.count == 0
        assert h.engine.statistics().inference_count >= 2


async def test_jobs_never_fill_the_queue(tmp_path: Path) -> None:
    async with house(tmp_path, max_queue_rows=2) as h:
        first = await h.at_the_gate()
        jobs = [h.job(float(n)) for n in range(10)]
        asked = [h.answers.submit(1.0), h.answers.submit(2.0)]
        h.gate.open()
        await h.answers.all(first, *jobs, *asked)
        assert codes([*jobs, *asked]) == ["ok"] * 12


async def test_a_job_that_is_to_be_alone_shares_its_batch_with_nobody(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        items = [h.job(1.0), h.job(2.0, alone=True), h.job(3.0), h.job(4.0, alone=True)]
        h.gate.open()
        await h.answers.all(first, *items)
        assert [item.batch_rows for item in items] == [2, 1, 2, 1]


async def test_a_job_of_many_rows_is_split_and_joined(tmp_path: Path) -> None:
    async with house(tmp_path, max_batch_rows=4) as h:
        item, empty = h.job(*[float(n) for n in range(10)], rows=10), h.job(rows=0)
        await h.answers.all(item, empty)
        assert y(item) == [[2.0 * n] for n in range(10)]
        assert item.background is not None
        assert item.background.began > 0
        assert h.engine.in_flight == 0


async def test_a_canceled_job_is_not_run(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        item, other = h.job(1.0), h.job(2.0)
        h.engine.cancel(item)
        h.gate.open()
        await h.answers.all(first, other)
        assert other.batch_rows == 1
        assert item not in h.answers.ended
        assert h.engine.in_flight == 0
        assert h.engine.metrics.canceled == 0


async def test_a_job_that_hangs_alone_fails_at_its_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "HANG_MIN_S", 1000.0)  # only requests are given it
    async with house(tmp_path) as h:
        pid = h.engine.supervisor.instances[0].pid
        hung = h.job(-4.0, timeout_s=0.1)
        await h.answers.all(hung)
        assert codes([hung]) == ["deadline_exceeded"]
        good = h.job(1.0)
        await h.answers.all(good)
        assert h.engine.supervisor.instances[0].pid != pid


async def test_of_a_batch_that_hangs_each_runs_alone_with_all_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "HANG_MIN_S", 1000.0)  # only requests are given it
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        items = [h.job(-4.0 if n == 2 else float(n), timeout_s=0.2) for n in range(6)]
        h.gate.open()
        await h.answers.all(first, *items)
        assert codes(items) == ["ok", "ok", "deadline_exceeded", "ok", "ok", "ok"]
        assert items[3].batch_rows == 1, "it was in that batch"


async def test_a_dead_process_gives_jobs_all_of_their_time_again(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        items = [h.job(1.0, timeout_s=20.0), h.job(-2.0, timeout_s=20.0), h.job(3.0)]
        h.gate.open()
        await h.answers.all(first, *items)
        assert codes(items) == ["ok", "instance_crashed", "ok"]
        began = items[0].background.began if items[0].background is not None else 0.0
        assert items[0].deadline == pytest.approx(began + 20.0)


async def test_requests_go_before_what_is_left_of_a_failed_batch_of_jobs(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        jobs = [h.job(-1.0 if n == 3 else float(n)) for n in range(16)]
        h.gate.open()
        await h.answers.all(jobs[3], first)
        asked = h.answers.submit(1.0)
        await h.answers.all(asked, *jobs)
        assert codes(jobs) == ["model_error" if n == 3 else "ok" for n in range(16)]


async def test_a_job_does_not_wait_for_another_while_an_instance_has_been_kept_free_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebay.batching.background.LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr("forebay.batching.background.SHARE", 1.0)
    async with house(tmp_path, instances=2) as h:
        await h.answers.all(h.answers.submit(1.0))
        before = len(h.gate.calls)
        long = h.job(-4.0)
        await eventually(lambda: len(h.gate.calls) > before)
        await h.answers.all(h.job(2.0))
        assert long not in h.answers.ended


async def test_closing_fails_jobs_that_were_not_got_to(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.at_the_gate()
        waiting = h.job(1.0)
        await h.engine.close(0.05)
        assert codes([first, waiting]) == ["draining", "draining"]
        assert h.engine.in_flight == 0
        h.gate.open()
