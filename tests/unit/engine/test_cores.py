"""Cores shared by engines: who is paused, what is charged, and that nobody stays paused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from forebay.batching.fairness import LONG_BATCHES
from forebay.engine.confined import OFTEN, REVIEW_S
from forebay.engine.cores import HOLD_S, Cores, Turns, cores_for, cpu_clock

ALL, REST = frozenset({4, 5}), frozenset({5})
"""Numbers of two cores, as the system has them."""


class Clocks:
    """Set by hand: the time, and what each process has used."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used: dict[int, float] = {}

    def __call__(self) -> float:
        return self.now

    def core_s(self, pid: int) -> float:
        if pid not in self.used:
            raise OSError(pid)
        return self.used[pid]


class Worker:
    """An instance that only notes what is done to it."""

    def __init__(self, pid: int, clocks: Clocks) -> None:
        self.pid = pid
        self.paused_at = 0.0
        self.gave_way = False
        self.cores = ALL
        self.flights: dict[int, Any] = {}
        self._clocks = clocks
        clocks.used[pid] = 0.0

    def oldest(self) -> Any:
        return next(iter(self.flights.values()), None)

    def pause(self, now: float) -> None:
        self.paused_at = self.paused_at or now

    def resume(self, now: float) -> float:
        paused_s, self.paused_at = (now - self.paused_at if self.paused_at else 0.0), 0.0
        return paused_s

    def give_way(self) -> None:
        self.gave_way = True

    def keep_to(self, cores: frozenset[int], of: frozenset[int]) -> None:
        if self.cores == of:
            self.cores = cores

    def work(self, seconds: float) -> None:
        """So long on a core."""
        self._clocks.used[self.pid] += seconds


class Engine:
    """Two workers; tells what an engine tells."""

    def __init__(self, first_pid: int, clocks: Clocks) -> None:
        self.turns: Turns | None = None
        self.name = f"of {first_pid}"
        self.workers = [Worker(first_pid + place, clocks) for place in range(2)]
        self._clocks = clocks

    def all_instances(self) -> list[Worker]:
        return self.workers

    def send(self, place: int) -> None:
        worker = self.workers[place]
        worker.flights[len(worker.flights)] = SimpleNamespace(began=self._clocks.now)
        if self.turns is not None:
            self.turns.began(worker)
            self.turns.settle()

    def answer(self, place: int, busy_s: float, requests: int = 1) -> None:
        worker = self.workers[place]
        worker.flights.pop(next(iter(worker.flights)))
        if self.turns is not None:
            for _ in range(requests):
                self.turns.asked()
            self.turns.landed(worker, busy_s, requests)
            self.turns.settle()

    @property
    def paused(self) -> list[bool]:
        return [bool(worker.paused_at) for worker in self.workers]


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def cores(clocks: Clocks) -> Cores:
    return Cores(2, clocks, clocks.core_s)


def two(cores: Cores, clocks: Clocks, weight: float = 1.0) -> tuple[Engine, Engine]:
    """An engine that has had much, and one that has had nothing."""
    heavy, light = Engine(10, clocks), Engine(20, clocks)
    cores.join(heavy, 1.0, 1)
    cores.join(light, weight, 1)
    for place in range(2):
        heavy.send(place)
        heavy.workers[place].work(10.0)
    for place in range(2):
        heavy.answer(place, 10.0)
    return heavy, light


async def test_an_engine_alone_is_told_nothing(cores: Cores, clocks: Clocks) -> None:
    engine = Engine(10, clocks)
    cores.join(engine, 1.0, 1)
    assert engine.turns is None


async def test_the_one_that_has_had_more_is_paused_until_the_other_is_done(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    assert heavy.paused == [False, False]
    light.send(0)
    assert sorted(heavy.paused) == [False, True]
    assert light.paused == [False, False]
    light.send(1)
    assert heavy.paused == [True, True]
    light.answer(0, 0.001)
    light.answer(1, 0.001)
    assert heavy.paused == [False, False]


async def test_instances_with_long_batches_give_way_to_a_model_that_has_had_less(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    for _ in range(LONG_BATCHES):
        assert not heavy.workers[0].gave_way
        light.send(0)
        heavy.send(0)
        heavy.workers[0].work(0.1)
        heavy.answer(0, 0.1)
        light.answer(0, 0.1)
    assert [worker.gave_way for worker in heavy.workers] == [True, False]
    assert not any(worker.gave_way for worker in light.workers)


@pytest.mark.parametrize(("hold_s", "paused"), [(HOLD_S, 3), (0.0, 2)])
async def test_what_this_process_uses_is_left_free_unless_nothing_is_to_be(
    clocks: Clocks, hold_s: float, paused: int
) -> None:
    cores = Cores(2, clocks, clocks.core_s, own_clock=lambda: 0.9 * clocks.now, hold_s=hold_s)
    first, second = Engine(10, clocks), Engine(20, clocks)
    cores.join(first, 1.0, 1)
    cores.join(second, 1.0, 1)
    for _ in range(50):
        clocks.now += 0.02
        first.send(0)
        first.workers[0].work(0.001)
        first.answer(0, 0.001)
    for place in range(2):
        first.send(place)
        second.send(place)
    assert sum([*first.paused, *second.paused]) == paused


async def test_a_model_pays_for_what_its_requests_cost_this_process(clocks: Clocks) -> None:
    used: list[float] = [0.0]
    cores = Cores(1, clocks, clocks.core_s, own_clock=lambda: used[0], hold_s=0.005)
    cheap, other = Engine(10, clocks), Engine(20, clocks)
    cores.join(cheap, 1.0, 1)
    cores.join(other, 1.0, 1)
    cheap.send(0)
    cheap.workers[0].work(0.01)
    cheap.answer(0, 0.01, requests=1000)
    other.send(0)
    other.workers[0].work(0.02)
    other.answer(0, 0.02)
    clocks.now += 1.0
    used[0] += 0.9
    other.send(0)
    cheap.send(0)
    assert (cheap.paused[0], other.paused[0]) == (True, False)


def come_back(light: Engine, clocks: Clocks, after_s: float) -> None:
    """Two short batches, so far apart."""
    for _ in range(2):
        light.send(0)
        light.answer(0, 0.001)
        clocks.now += after_s


async def test_a_core_stays_free_for_who_comes_back_at_once_until_it_does_not(clocks: Clocks) -> None:
    heavy, light = two(Cores(2, clocks, clocks.core_s, hold_s=0.02), clocks)
    heavy.send(0)
    heavy.send(1)
    come_back(light, clocks, 0.001)
    for _ in range(3):
        light.send(0)
        assert sorted(heavy.paused) == [False, True]
        light.answer(0, 0.001)
        assert sorted(heavy.paused) == [False, True]
        await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        while any(heavy.paused):
            await asyncio.sleep(0.005)


async def test_no_core_stays_free_for_who_comes_back_later(clocks: Clocks) -> None:
    heavy, light = two(Cores(2, clocks, clocks.core_s, hold_s=0.02), clocks)
    heavy.send(0)
    heavy.send(1)
    come_back(light, clocks, 0.001)
    assert any(heavy.paused)
    come_back(light, clocks, 0.03)
    assert heavy.paused == [False, False]


@pytest.mark.parametrize(("choice", "hold_s"), [("auto", HOLD_S), ("conserving", 0.0)])
def test_a_core_is_left_free_unless_the_operator_wants_none_idle(choice: str, hold_s: float) -> None:
    cores = cores_for(choice)
    assert cores is not None
    assert cores.hold_s == hold_s
    assert cores_for("off") is None


async def test_never_more_than_one_core_is_held(clocks: Clocks) -> None:
    heavy, light = two(Cores(2, clocks, clocks.core_s, hold_s=60.0), clocks)
    heavy.send(0)
    heavy.send(1)
    come_back(light, clocks, 0.001)
    light.send(0)
    light.send(1)
    assert heavy.paused == [True, True]
    light.answer(0, 0.001)
    assert sorted(heavy.paused) == [False, True]
    light.answer(1, 0.001)
    assert sorted(heavy.paused) == [False, True]
    running = heavy.paused.index(False)
    heavy.answer(running, 0.1)
    assert heavy.paused == [False, False]


async def test_a_held_core_goes_to_all_when_the_model_leaves(clocks: Clocks) -> None:
    cores = Cores(2, clocks, clocks.core_s, hold_s=60.0)
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    come_back(light, clocks, 0.001)
    assert any(heavy.paused)
    cores.leave(light)
    assert heavy.paused == [False, False]


class Shared:
    """A heavy engine that gives way, and a light one."""

    def __init__(self, clocks: Clocks, weight: float = 1.0, threads: int = 1, numbers: frozenset[int] = ALL) -> None:
        """weight, threads: of the heavy one."""
        self.clocks = clocks
        self.cores = Cores(2, clocks, clocks.core_s, hold_s=0.02, numbers=numbers)
        self.heavy, self.light = Engine(10, clocks), Engine(20, clocks)
        self.cores.join(self.heavy, weight, threads)
        self.cores.join(self.light, 1.0, 1)
        self.heavy.send(1)
        for _ in range(2 * LONG_BATCHES):
            self.light.send(0)
            self.heavy.send(0)
            self.heavy.workers[0].work(10.0)
            self.heavy.answer(0, 10.0)
            self.light.answer(0, 0.001)
        assert self.heavy.workers[0].gave_way
        self.heavy.send(0)

    async def review(self, *, back: int = 4 * OFTEN, after_s: float = 0.01, work_s: float = 0.001) -> None:
        """The light one comes so often, so long after it was done, until it is looked at who may run where."""
        loop, start = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        for _ in range(back):
            self.light.send(0)
            self.light.workers[0].work(work_s)
            self.heavy.workers[0].work(0.01)
            self.light.answer(0, work_s)
            self.clocks.now += after_s
        await asyncio.sleep(start + 1.1 * REVIEW_S - loop.time())

    @property
    def everywhere(self) -> list[bool]:
        """Of each instance, whether it may run on all cores."""
        return [worker.cores == ALL for engine in (self.heavy, self.light) for worker in engine.workers]


async def test_a_core_is_kept_free_while_a_light_model_is_back_at_once_again_and_again(clocks: Clocks) -> None:
    shared = Shared(clocks)
    assert all(shared.everywhere)
    await shared.review()
    assert not any(shared.everywhere)
    assert shared.heavy.workers[0].cores == REST
    await shared.review()
    assert not any(shared.everywhere)
    await shared.review(back=0)
    assert all(shared.everywhere)
    await shared.review()
    await shared.review()
    assert not any(shared.everywhere)


async def test_an_instance_that_starts_later_keeps_off_it_too(clocks: Clocks) -> None:
    shared = Shared(clocks)
    await shared.review()
    shared.light.workers.append(Worker(30, clocks))
    await shared.review()
    assert not any(shared.everywhere)


@pytest.mark.parametrize(
    ("back", "after_s", "work_s"),
    [(4 * OFTEN, 0.03, 0.001), (1, 0.01, 0.001), (4 * OFTEN, 0.01, 0.01)],
    ids=["comes back later", "comes rarely", "takes much of a core"],
)
async def test_all_cores_are_for_instances_where_the_light_one(
    clocks: Clocks, back: int, after_s: float, work_s: float
) -> None:
    shared = Shared(clocks)
    await shared.review(back=2, after_s=after_s)
    await shared.review(back=back, after_s=after_s, work_s=work_s)
    assert all(shared.everywhere)


@pytest.mark.parametrize(
    ("weight", "threads", "numbers"),
    [(3.0, 1, ALL), (1.0, 2, ALL), (1.0, 1, frozenset({4}))],
    ids=["is entitled to more than one core", "needs two at once", "has no other core"],
)
async def test_all_cores_are_for_instances_where_the_heavy_one(
    clocks: Clocks, weight: float, threads: int, numbers: frozenset[int]
) -> None:
    shared = Shared(clocks, weight, threads, numbers)
    await shared.review()
    await shared.review()
    assert all(shared.everywhere)


async def test_who_is_left_alone_has_all_cores_again(clocks: Clocks) -> None:
    shared = Shared(clocks)
    await shared.review()
    assert not any(shared.everywhere)
    shared.cores.leave(shared.light)
    assert all(shared.everywhere)


async def test_a_pause_does_not_make_a_batch_hang(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    light.send(0)
    light.send(1)
    clocks.now += 30.0
    light.answer(0, 30.0)
    light.answer(1, 30.0)
    assert [worker.oldest().began for worker in heavy.workers] == [clocks.now, clocks.now]


async def test_the_paused_goes_on_by_itself_when_the_other_has_had_its_part(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    light.send(0)
    light.send(1)
    for _ in range(1000):
        if not any(heavy.paused):
            break
        for worker in light.workers:
            worker.work(0.01)
        await asyncio.sleep(0.002)
    assert not any(heavy.paused)


async def test_an_answer_from_before_a_pause_frees_the_instance(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    light.send(0)
    light.send(1)
    heavy.answer(0, 0.1)
    assert heavy.paused == [False, True]


async def test_time_in_a_pause_is_no_time_without_work(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks, weight=1e6)
    for _ in range(100):  # each batch: 10 ms of work in 1 s, of which 990 ms paused
        heavy.send(0)
        heavy.send(1)
        light.send(0)
        light.send(1)
        clocks.now += 0.99
        for worker in light.workers:
            worker.work(0.99)
        light.answer(0, 0.99)
        light.answer(1, 0.99)
        for place, worker in enumerate(heavy.workers):
            worker.work(0.01)
            heavy.answer(place, 1.0)
    heavy.send(0)
    heavy.send(1)
    light.send(0)
    assert any(heavy.paused), "it was taken for a model that waits for a device"


async def test_one_that_only_waits_is_left_alone(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    for _ in range(100):
        heavy.send(0)
        heavy.workers[0].work(0.001)
        heavy.answer(0, 1.0)
    heavy.send(0)
    heavy.send(1)
    light.send(0)
    light.send(1)
    assert heavy.paused == [False, False]


async def test_whoever_is_left_alone_is_let_go(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    light.send(0)
    light.send(1)
    cores.leave(light)
    assert heavy.paused == [False, False]
    assert (heavy.turns, light.turns) == (None, None)
    cores.leave(light)  # once more is no error


async def test_work_that_began_before_the_second_engine_came_counts(cores: Cores, clocks: Clocks) -> None:
    heavy, light = Engine(10, clocks), Engine(20, clocks)
    cores.join(heavy, 1.0, 1)
    heavy.send(0)
    heavy.send(1)
    cores.join(light, 1.0, 1)
    light.send(0)
    assert sum(heavy.paused) + sum(light.paused) == 1


async def test_a_process_that_has_just_ended_is_passed_over(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    heavy.send(0)
    heavy.send(1)
    del clocks.used[20]
    light.send(0)
    assert heavy.paused == [False, False]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such clocks")
def test_the_clock_of_another_process() -> None:
    command = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command) as process:
        try:
            end = time.monotonic() + 30
            while cpu_clock(process.pid) < 0.2:
                assert time.monotonic() < end, "it computes, and its clock stands still"
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            stopped = cpu_clock(process.pid)
            time.sleep(0.05)
            assert cpu_clock(process.pid) == stopped
        finally:
            process.kill()
    with pytest.raises(OSError):
        cpu_clock(process.pid)


async def test_of_models_that_answer_for_one_another_none_is_paused_for_the_other(cores: Cores, clocks: Clocks) -> None:
    heavy, light = two(cores, clocks)
    cores.pair(heavy.name, light.name)
    for engine in (heavy, light):
        engine.send(0)
        engine.send(1)
    assert heavy.paused == light.paused == [False, False]
    other = Engine(30, clocks)
    cores.join(other, 1.0, 1)
    other.send(0)
    assert heavy.paused == [True, True], "beside another one they are like any two"
    assert light.paused == [False, False]


async def test_a_pair_holds_for_those_that_come_later(cores: Cores, clocks: Clocks) -> None:
    cores.pair("of 10", "of 20")
    heavy, light = two(cores, clocks)
    for engine in (heavy, light):
        engine.send(0)
        engine.send(1)
    assert heavy.paused == light.paused == [False, False]
