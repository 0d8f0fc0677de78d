"""When a model is measured, what becomes of what is found, and what ends a measurement. The trials are made up."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.engine.started import Answers, eventually, plan_of, running, tiny

from forebay.core.errors import SetupError
from forebay.engine.engine import Engine
from forebay.engine.sizing import Finding, Size
from forebay.engine.trial_frames import Order
from forebay.repository.tuning import BUSY_SHARE, Demand, Tuner

CORES = 4
RATES = {Size(4, 1): 100.0, Size(1, 2): 120.0}


class Told(Demand):
    """A demand that the test says."""

    def __init__(self) -> None:
        self.share = 0.0

    def look(self, engines: Iterable[Engine], cores: int) -> float:
        assert cores == CORES
        return self.share


class World:
    """A tuner over some engines, with trials that end when the test says so."""

    def __init__(self, *engines: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.demand = Told()
        self.orders: list[Order] = []
        self.cancelled = 0
        self.outcome: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()
        self.swaps: list[tuple[Engine, Finding]] = []
        self.swap_error: SetupError | None = None
        self.loading = False
        self.tuner = Tuner(
            self._swap,
            lambda: list(engines),
            lambda: self.loading,
            run=self._run,
            demand=self.demand,
            look_s=0.005,
            clock=clock,
        )
        for engine in engines:
            self.tuner.notice(engine)

    async def _run(self, order: Order, tell: Callable[[Mapping[Size, float]], None]) -> Finding:
        self.orders.append(order)
        tell({Size(4, 1): 99.0})
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _swap(self, engine: Engine, found: Finding) -> None:
        if self.swap_error is not None:
            raise self.swap_error
        self.swaps.append((engine, found))

    async def measures(self) -> None:
        await eventually(lambda: self.orders)


def state(engine: Engine) -> str:
    assert engine.tuning is not None
    return engine.tuning.state


def reason(engine: Engine) -> str:
    assert engine.tuning is not None
    return engine.tuning.reason


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    plan = plan_of(tiny(tmp_path), tmp_path, instances="auto", threads="auto")
    plan.cores = CORES
    async with running(plan) as started:
        yield started


async def test_an_engine_of_fixed_size_is_left_alone(tmp_path: Path) -> None:
    async with running(plan_of(tiny(tmp_path), tmp_path)) as fixed:
        world = World(fixed)
        assert fixed.tuning is None
        await asyncio.sleep(0.05)
        assert world.orders == []
        await world.tuner.close()


async def test_what_is_better_takes_the_place_and_is_remembered(engine: Engine) -> None:
    assert (engine.instances, state(engine)) == (CORES, "waiting")
    world = World(engine)
    await world.measures()
    assert state(engine) == "measuring"
    assert engine.tuning is not None
    assert engine.tuning.rows_per_s == {"4x1": 99.0}, "progress is told"
    order = world.orders[0]
    assert (order.usual, order.kept) == (Size(4, 1), [])
    assert order.groups[0][0] == Size(4, 1)
    found = Finding(Size(1, 2), RATES)
    world.outcome.set_result(found)
    assert engine.choices is not None
    await eventually(engine.choices.load)
    assert (world.swaps, engine.choices.load()) == ([(engine, found)], found)
    await world.tuner.close()


async def test_where_what_serves_is_best_nothing_is_loaded_anew(engine: Engine) -> None:
    world = World(engine)
    await world.measures()
    world.outcome.set_result(Finding(Size(4, 1), RATES))
    await eventually(lambda: state(engine) == "settled")
    assert engine.choices is not None
    await eventually(engine.choices.load)
    assert world.swaps == []
    await world.tuner.close()


async def test_what_does_not_start_is_not_remembered(engine: Engine) -> None:
    world = World(engine)
    world.swap_error = SetupError("too many open files", code="model_load_error")
    await world.measures()
    world.outcome.set_result(Finding(Size(1, 2), RATES))
    await eventually(lambda: state(engine) == "settled")
    assert reason(engine) == "1x2 was best but did not start: too many open files"
    await world.tuner.close()
    assert engine.choices is not None
    assert engine.choices.load() is None
    assert engine.state == "ready"


async def test_where_nothing_could_be_measured_nothing_is_remembered(engine: Engine) -> None:
    world = World(engine)
    await world.measures()
    world.outcome.set_result(Finding(Size(4, 1), {}, "4x1 failed: it raised"))
    await eventually(lambda: state(engine) == "settled")
    await world.tuner.close()
    assert reason(engine) == "4x1 failed: it raised"
    assert engine.choices is not None
    assert engine.choices.load() is None


async def test_an_error_in_the_trial_leaves_the_model_serving_and_the_loop_alive(engine: Engine) -> None:
    world = World(engine)
    await world.measures()
    world.outcome.set_exception(ValueError("a mistake of ours"))
    await eventually(lambda: state(engine) == "settled")
    assert "failed" in reason(engine)
    assert engine.state == "ready"
    await world.tuner.close()


async def test_it_waits_until_requests_leave_the_machine_idle(engine: Engine) -> None:
    world = World()
    world.demand.share = 0.5
    world.tuner.notice(engine)
    await asyncio.sleep(0.05)
    assert world.orders == []
    world.demand.share, world.loading = 0.0, True
    await asyncio.sleep(0.05)
    assert world.orders == [], "a model that is loaded measures itself"
    world.loading = False
    await world.measures()
    await world.tuner.close()


async def test_requests_that_come_end_the_measuring_for_a_while(engine: Engine) -> None:
    world = World(engine)
    await world.measures()
    world.demand.share = BUSY_SHARE + 0.1
    await eventually(lambda: state(engine) == "waiting")
    assert world.cancelled == 1
    world.demand.share = 0.0
    await asyncio.sleep(0.05)
    assert len(world.orders) == 1, "not at once again"
    await world.tuner.close()


async def test_an_engine_that_goes_ends_its_measuring_and_makes_room_for_the_next(
    engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    plan = plan_of(tiny(tmp_path / "b"), tmp_path, instances="auto", threads="auto")
    plan.cores = CORES
    async with running(plan) as second:
        world = World(engine, second)
        await world.measures()
        world.tuner.drop(engine)
        await eventually(lambda: len(world.orders) == 2)
        assert (world.cancelled, state(second)) == (1, "measuring")
        await world.tuner.close()
        assert world.cancelled == 2


async def test_closing_ends_a_trial(engine: Engine) -> None:
    world = World(engine)
    await world.measures()
    world.tuner.stop()
    world.tuner.stop()
    await world.tuner.close()
    assert world.cancelled == 1
    world.tuner.notice(engine)
    await asyncio.sleep(0.05)
    assert len(world.orders) == 1


async def test_with_one_core_nothing_is_measured(tmp_path: Path) -> None:
    plan = plan_of(tiny(tmp_path), tmp_path, instances="auto", threads="auto")
    plan.cores = 1
    async with running(plan) as alone:
        world = World()
        world.demand.look = lambda engines, cores: 0.0  # type: ignore[method-assign]
        world.tuner.notice(alone)
        await eventually(lambda: state(alone) == "settled")
        assert world.orders == []
        assert "1 cores only 1x1" in reason(alone)
        await world.tuner.close()


async def test_live_inputs_are_measured_with_where_there_are_some(engine: Engine) -> None:
    answers = Answers(engine)
    await answers.all(answers.submit(1.0, 2.0), answers.submit(3.0))
    world = World(engine)
    await world.measures()
    assert len(world.orders[0].kept) >= 1
    await world.tuner.close()


async def test_costs_that_have_changed_for_long_are_measured_anew_once(tmp_path: Path) -> None:
    plan = plan_of(tiny(tmp_path), tmp_path, instances="auto", threads="auto")
    plan.cores, plan.found = CORES, Finding(Size(2, 1), RATES)

    def feed(engine: Engine, factor: float) -> None:
        for _ in range(300):
            engine.latency.observe(1, 0, factor * 0.001)

    async with running(plan) as settled:
        feed(settled, 1.0)
        minutes = itertools.count(0.0, 60.0)
        world = World(settled, clock=lambda: next(minutes))
        await asyncio.sleep(0.5)
        assert world.orders == [], "costs are as they were"
        feed(settled, 3.0)
        await world.measures()
        assert world.orders[0].usual == Size(2, 1)
        world.outcome.set_result(Finding(Size(2, 1), RATES))
        await eventually(lambda: state(settled) == "settled")
        await asyncio.sleep(0.5)
        assert len(world.orders) == 1, "what it costs now is what is to be expected"
        await world.tuner.close()


def machine(compute_s: float, began: Iterable[float] = (), threads: int = 1) -> Engine:
    made: Any = SimpleNamespace(
        metrics=SimpleNamespace(compute_s=SimpleNamespace(total=compute_s)),
        plan=SimpleNamespace(threads=threads),
        running_since=lambda: list(began),
    )
    return cast(Engine, made)


def test_demand_is_the_share_of_the_cores_that_requests_take() -> None:
    now, web_s = 100.0, 5.0
    demand = Demand(lambda: now, lambda: web_s)
    assert demand.look([machine(3.0)], 4) is None, "one look tells nothing"
    now, web_s = 102.0, 5.5
    assert demand.look([machine(4.0, threads=2)], 4) == pytest.approx((5.0 + 0.5) / 8)
    now, web_s = 104.0, 5.5
    assert demand.look([machine(4.0, threads=2)], 4) == 0.0
    now, web_s = 106.0, 6.5
    assert demand.look([machine(4.5, threads=2)], 4) == pytest.approx((1.0 + 1.0) / 8)
    now = 108.0
    assert demand.look([machine(4.5, began=[103.0], threads=2)], 4) == pytest.approx(0.5), "it runs all along"
    now = 110.0
    assert demand.look([], 4) == 0.0, "an engine that went takes its seconds along"
