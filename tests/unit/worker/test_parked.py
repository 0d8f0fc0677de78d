"""Models that were unloaded to make room are loaded again where jobs wait for them, and not otherwise."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.engine.started import eventually

from forebay.core.errors import AdmissionError, DependencyError, RequestError
from forebay.jobs.ids import JobIds
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobSpec
from forebay.jobs.store import Bounds, NewJob, QueueDepth
from forebay.worker.parked import ParkedModels


class House:
    """Two models without memory, and jobs; `room`: whether a model can be loaded now. `gone`: those without files."""

    def __init__(self, jobs: MemoryJobs) -> None:
        self.jobs = jobs
        self.room = True
        self.gone: list[str] = []
        self.parked = ["a", "b"]
        self.asked: list[str] = []
        self.models = ParkedModels(jobs, lambda: self.parked, self.wake, look_s=0.01)

    async def wake(self, model: str) -> None:
        self.asked.append(model)
        if not self.room:
            raise AdmissionError("there is no room", code="model_not_ready")
        if model in self.gone:
            raise RequestError("there is no such model", code="model_not_found")
        self.parked.remove(model)

    async def submit(self, model: str) -> None:
        spec = JobSpec(id=JobIds().new(), model=model, tenant="anna", body=b"[1]")
        [answer] = await self.jobs.submit([NewJob(spec)], Bounds(10, 1 << 20))
        assert answer.outcome == "created"


async def test_only_models_with_jobs_are_loaded() -> None:
    house = House(MemoryJobs())
    await house.models.once()
    assert house.asked == []
    await house.submit("b")
    await house.submit("c")
    await house.models.once()
    assert (house.asked, house.parked) == (["b"], ["a"])


async def test_without_room_it_is_tried_again_and_others_are_not_held_up() -> None:
    house = House(MemoryJobs())
    house.room = False
    await house.submit("a")
    await house.submit("b")
    await house.models.once()
    assert (house.asked, house.parked) == (["a", "b"], ["a", "b"])
    house.room = True
    await house.models.once()
    assert house.parked == []


async def test_a_model_that_is_gone_does_not_hold_up_others(caplog: pytest.LogCaptureFixture) -> None:
    house = House(MemoryJobs())
    house.gone = ["a"]
    await house.submit("a")
    await house.submit("b")
    await house.models.once()
    assert (house.asked, house.parked) == (["a", "b"], ["a"])
    assert caplog.records == []


class Shaky(MemoryJobs):
    """Its first calls fail."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def depth(self, model: str) -> QueueDepth:
        if self.errors:
            raise self.errors.pop(0)
        return await super().depth(model)


async def test_it_goes_on_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    house = House(Shaky(DependencyError("the store is away"), ValueError("a defect")))
    await house.submit("a")
    running = asyncio.create_task(house.models.run())
    await eventually(lambda: house.parked == ["b"])
    assert [record.message for record in caplog.records] == ["looking for jobs of unloaded models failed"]
    running.cancel()
    await asyncio.wait([running])
