"""A worker tells what it serves, and no more than that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.unit.api.conftest import FunctionEngine, build_engines

from forebay.core.errors import DependencyError
from forebay.jobs.directory import SILENT_AFTER_S, ServedModel
from forebay.jobs.memory_directory import MemoryDirectory
from forebay.testing import FakeClock
from forebay.worker.announcer import Announcer, served_model


class Directory(MemoryDirectory):
    """One that notes what it is told, and can be out of reach."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.told: list[list[str]] = []
        self.down = False

    async def announce(self, worker: str, models: Sequence[ServedModel], gone: Sequence[str] = ()) -> None:
        if self.down:
            raise DependencyError("it is down")
        self.told.append([model.name for model in models])
        await super().announce(worker, models, gone)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def directory(clock: FakeClock) -> Directory:
    return Directory(clock)


@pytest.fixture
def served() -> dict[str, FunctionEngine]:
    return build_engines()


@pytest.fixture
def announcer(directory: Directory, served: dict[str, FunctionEngine]) -> Announcer:
    return Announcer(directory, served.values)


async def test_all_that_is_ready_is_told_once_and_then_renewed(
    announcer: Announcer, directory: Directory, served: dict[str, FunctionEngine], clock: FakeClock
) -> None:
    served["two"].state = "failed"
    for _ in range(4):
        await announcer.once()
        clock.advance(SILENT_AFTER_S / 2)
    assert directory.told == [["mlp", "text", "whole"]]
    known = await directory.look()
    assert known.workers[announcer.worker]["mlp"].versions == (served_model(served["mlp"]),)


async def test_a_model_that_fails_is_withheld_and_told_of_again_when_it_works(
    announcer: Announcer, directory: Directory, served: dict[str, FunctionEngine]
) -> None:
    await announcer.once()
    served["mlp"].state = "failed"
    await announcer.once()
    known = await directory.look()
    assert "mlp" not in known.workers[announcer.worker]
    assert "mlp" in known.last
    served["mlp"].state = "ready"
    await announcer.once()
    assert "mlp" in (await directory.look()).workers[announcer.worker]


async def test_a_model_that_is_unloaded_is_given_up(
    announcer: Announcer, directory: Directory, served: dict[str, FunctionEngine]
) -> None:
    await announcer.once()
    del served["mlp"]
    await announcer.once()
    assert "mlp" not in (await directory.look()).last


async def test_a_worker_that_was_given_up_announces_itself_again(
    announcer: Announcer, directory: Directory, clock: FakeClock
) -> None:
    await announcer.once()
    clock.advance(SILENT_AFTER_S)
    await announcer.once()
    assert len(directory.told) == 2
    assert announcer.worker in (await directory.look()).workers


async def test_a_retired_worker_is_there_and_serves_nothing(
    announcer: Announcer, directory: Directory, clock: FakeClock
) -> None:
    await announcer.once()
    await announcer.retire()
    clock.advance(SILENT_AFTER_S / 2)
    await announcer.once()
    known = await directory.look()
    assert known.workers == {announcer.worker: {}}
    assert "mlp" in known.last


async def test_it_says_why_nobody_knows_of_it_and_withdraws_in_the_end(
    announcer: Announcer, directory: Directory
) -> None:
    directory.down = True
    announcer.start()
    while not announcer.reason:
        await asyncio.sleep(0)
    assert announcer.reason == "this worker cannot be announced: it is down"
    directory.down = False
    announcer.wake()
    while announcer.reason:
        await asyncio.sleep(0)
    assert announcer.worker in (await directory.look()).workers
    await announcer.withdraw()
    assert (await directory.look()).workers == {}
