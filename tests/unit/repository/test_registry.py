"""Loads, resizes and unloads that meet each other, most of them under a limit of memory. Engines are real."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.unit.engine.started import eventually
from tests.unit.repository.houses import MIB, WAIT_S, Houses, houses, within_bound

from forebay.core.errors import AdmissionError, SetupError
from forebay.engine.engine import Engine
from forebay.engine.sizing import Finding, Size
from forebay.models.repository import EVERY, LATEST, ModelFolder
from forebay.repository import memory, starts
from forebay.repository.states import Asked

__all__ = ["houses"]

NO_ROOM = "there is no room beside"


async def refused(load: Any) -> None:
    async with within_bound():
        with pytest.raises(AdmissionError, match=NO_ROOM) as raised:
            await load
    assert raised.value.code == "model_not_ready"


async def test_a_model_of_which_one_version_has_room_serves_with_that_one(houses: Houses) -> None:
    house = houses(limit=1)
    house.put("a", 1, 2, policy="{ latest = 2 }")
    house.put("b", 1)
    registry = house.open()
    await registry.start()
    assert house.served == ["a/2"]
    await registry.on_demand.wake("b")
    assert (house.served, registry.on_demand.names()) == (["b/1"], ["a"])
    async with within_bound():
        await registry.on_demand.wake("a")
    assert (house.served, registry.on_demand.names()) == (["a/2"], ["b"])
    assert NO_ROOM in house.held("a", 1).reason


async def test_a_model_that_is_being_resized_is_not_unloaded_meanwhile(houses: Houses) -> None:
    house = houses(limit=2)
    house.put("a", 1)
    house.put("b", 1)
    registry = house.open()
    await registry.load("a", Asked({"instances": "auto"}))
    engine = house.street.published["a", "1"]
    loads_b = await house.held_up(registry.load("b", Asked({"instances": 2})))
    sizes_a = asyncio.ensure_future(registry._resize(engine, Finding(Size(1, 1), {})))
    await eventually(registry._locks["a"].locked)
    house.scales.free()
    await refused(loads_b)
    await sizes_a
    assert (house.served, registry.on_demand.names()) == (["a/1"], ["b"])
    assert house.street.published["a", "1"] is not engine
    assert house.held("a", 1).fingerprint


async def test_a_model_that_is_given_another_version_keeps_the_one_that_serves(houses: Houses) -> None:
    house = houses(limit=2)
    house.put("a", 1, 2)
    house.put("b", 1)
    registry = house.open()
    await registry.load("a", Asked(policy=LATEST))
    loads_b = await house.held_up(registry.load("b", Asked({"instances": 2})))
    loads_a = asyncio.ensure_future(registry.load("a", Asked(policy=EVERY)))
    await eventually(lambda: house.held("a", 1).state == "LOADING")
    house.scales.free()
    await refused(loads_b)
    await loads_a
    assert (house.served, registry.on_demand.names()) == (["a/1", "a/2"], ["b"])


async def test_models_that_are_loaded_anew_at_once_do_not_wait_for_each_other(houses: Houses) -> None:
    house = houses(limit=2)
    for name in "ab":
        house.put(name, 1)
    registry = house.open()
    await registry.start()
    for name in "ab":
        house.put(name, 1, more="another")
    async with within_bound():
        errors = await asyncio.gather(*(registry.load(name) for name in "ab"), return_exceptions=True)
    # Who is refused has nothing in hand any more, and makes room for the other.
    assert [type(error) for error in errors if error is not None] == [AdmissionError]
    assert (len(house.served), len(registry.on_demand.names())) == (1, 1)


@pytest.mark.parametrize("unloaded", ["by hand", "for room"])
async def test_a_load_does_not_wait_for_ever_for_an_engine_that_does_not_end(
    houses: Houses, monkeypatch: pytest.MonkeyPatch, unloaded: str
) -> None:
    house = houses(limit=2)
    house.put("a", 1)
    house.put("b", 1)
    house.put("c", 1)
    registry = house.open()
    await registry.load("a")
    house.street.arriving.add("a")
    if unloaded == "by hand":
        await registry.unload("a")
    with monkeypatch.context() as patched:
        patched.setattr(memory, "ENDING_WAIT_S", 2 * WAIT_S)
        await refused(registry.load("b", Asked({"instances": 2})))
    assert house.held("a", 1).state == "UNLOADING"
    await registry.load("c")
    house.street.arriving.clear()
    await registry.load("b", Asked({"instances": 2}))
    assert house.served == ["b/1"]


async def test_what_is_on_its_way_out_is_waited_for(houses: Houses) -> None:
    """Longer than for what may go on being in use."""
    house = houses(limit=1)
    house.put("a", 1)
    house.put("b", 1)
    registry = house.open()
    await registry.load("a")
    house.street.arriving.add("a")
    await registry.unload("a")
    loads_b = asyncio.ensure_future(registry.load("b"))
    asyncio.get_running_loop().call_later(3 * WAIT_S, house.street.arriving.clear)
    await loads_b
    assert house.served == ["b/1"]


async def test_what_is_measured_fits_into_the_limit_too(houses: Houses) -> None:
    house = houses(limit=1)
    house.put("a", 1)
    registry = house.open()
    await registry.load("a", Asked({"instances": "auto", "threads": "auto", "memory_bytes": MIB}))
    engine = house.street.published["a", "1"]
    engine.plan.cores = 4
    registry._tuner._measured = engine
    await registry._tuner._measure(engine)
    assert engine.tuning is not None
    assert "memory for 0 more instances" in engine.tuning.reason


async def test_no_process_is_started_for_a_size_that_has_no_room(
    houses: Houses, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = houses(limit=4)
    house.put("a", 1)
    registry = house.open()
    await registry.load("a", Asked({"instances": "auto"}))
    engine = house.street.published["a", "1"]
    started: list[Engine] = []

    async def start(engine: Engine) -> None:
        started.append(engine)
        raise SetupError("started for nothing")

    monkeypatch.setattr(starts, "start_engine", start)
    await refused(registry._resize(engine, Finding(Size(4, 1), {})))
    with pytest.raises(SetupError, match="is expected to take 5 MiB in 5 instances"):
        await registry._resize(engine, Finding(Size(5, 1), {}))
    assert not started
    with pytest.raises(SetupError, match="started for nothing"):
        await registry._resize(engine, Finding(Size(3, 1), {}))
    assert house.served == ["a/1"]


@pytest.mark.parametrize("meets", ["files", "source"], ids=["while its files are read", "while it starts"])
async def test_an_index_of_an_older_listing_does_not_lose_a_version_that_is_being_loaded(
    houses: Houses, monkeypatch: pytest.MonkeyPatch, meets: str
) -> None:
    house = houses(limit=9)
    house.put("a", 1)
    registry = house.open()
    old = registry._catalog.all()
    house.put("a", 3)
    reached, go_on = threading.Event(), threading.Event()
    real = getattr(ModelFolder, meets)

    def held_up(offer: ModelFolder, version: int) -> Any:
        reached.set()
        assert go_on.wait(30)
        return real(offer, version)

    monkeypatch.setattr(ModelFolder, meets, held_up)
    load = asyncio.ensure_future(registry.load("a"))
    await eventually(reached.is_set)
    with monkeypatch.context() as patched:
        patched.setattr(registry._catalog, "all", lambda: old)
        await registry.index()
    go_on.set()
    await load
    assert house.served == ["a/3"]
    assert [known.version for known in await registry.index() if known.state == "READY"] == ["3"]
    assert [engine.version for engine in registry.engines] == ["3"]


async def test_a_second_drain_does_not_disturb_what_the_first_one_ends(
    houses: Houses, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = houses(limit=9)
    house.put("a", 1)
    registry = house.open()
    told: list[str] = []
    go_on = asyncio.Event()

    async def start(engine: Engine) -> None:
        told.append("starts")
        await asyncio.Event().wait()

    async def close(engine: Engine, grace_s: float | None) -> None:
        told.append("closes")
        await go_on.wait()
        told.append("closed")

    monkeypatch.setattr(starts, "start_engine", start)
    monkeypatch.setattr(Engine, "close", close)
    load = asyncio.ensure_future(registry.load("a"))
    await eventually(lambda: told == ["starts"])
    registry.drain()
    await eventually(lambda: told == ["starts", "closes"])
    registry.drain()
    closing = asyncio.ensure_future(registry.close(0.0))
    await asyncio.sleep(0)
    go_on.set()
    await closing
    with pytest.raises(AdmissionError, match="shutting down"):
        await load
    assert told == ["starts", "closes", "closed"]
