"""The search for the best number of instances and threads, in a world whose speeds are known, on a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from forebay.engine.sizing import (
    BUDGET_S,
    Finding,
    Size,
    TrialError,
    beside_network,
    candidates,
    choose,
    search,
)

Speed = Callable[[Size], float]


class FakeWorld:
    """Measures by a formula. `noise`: standard deviation of each figure; the machine's pace wanders besides."""

    def __init__(self, speed: Speed, *, slice_s: float = 0.4, load_s: float = 1.0, noise: float = 0.0, seed: int = 1):
        self.now = 0.0
        self.loaded: dict[int, int] = {}
        self.most_loaded = 0
        self.measured: list[Size] = []
        self.broken: Mapping[Size, str] = {}
        self._speed, self._slice_s, self._load_s, self._noise = speed, slice_s, load_s, noise
        self._random = random.Random(seed)
        self._pace = 1.0

    async def load(self, size: Size) -> None:
        self.now += self._load_s
        if f"load {size}" in self.broken.values():
            raise TrialError("no such file")
        assert size.threads not in self.loaded
        self.loaded[size.threads] = size.instances
        self.most_loaded = max(self.most_loaded, len(self.loaded))

    async def rate(self, size: Size) -> float:
        assert self.loaded[size.threads] >= size.instances
        self.now += self._slice_s
        if size in self.broken:
            raise TrialError(self.broken[size])
        self.measured.append(size)
        self._pace *= 1 + self._random.gauss(0, self._noise / 2)
        return self._speed(size) * self._pace * (1 + self._random.gauss(0, self._noise))

    async def unload(self, threads: int) -> None:
        self.loaded.pop(threads, None)

    async def find(self, cores: int, **fixed: int) -> Finding:
        threads = fixed.get("threads", 1)
        usual = Size(fixed.get("instances", max(1, cores // threads)), threads)
        groups = groups_of(cores, usual, **fixed)
        return await search(groups, usual, self, lambda: self.now, BUDGET_S, lambda rates: None)


def groups_of(cores: int, usual: Size, most: int = 1000, **fixed: int) -> list[list[Size]]:
    return candidates(cores, usual, instances=fixed.get("instances"), threads=fixed.get("threads"), most_instances=most)


def names(groups: list[list[Size]]) -> list[str]:
    return [" ".join(map(str, group)) for group in groups]


def test_candidates_begin_with_what_serves_and_leave_no_core_over() -> None:
    assert names(groups_of(1, Size(1, 1))) == ["1x1"]
    assert names(groups_of(2, Size(2, 1))) == ["2x1 1x1", "1x2"]
    assert names(groups_of(8, Size(8, 1))) == ["8x1 7x1 4x1", "4x2 3x2 2x2 1x2", "2x4 1x4", "1x8"]
    assert names(groups_of(6, Size(6, 1)))[-1] == "1x6"
    for group in groups_of(48, Size(48, 1)):
        assert all(size.instances * size.threads <= 48 for size in group)


def test_candidates_keep_what_the_operator_has_fixed() -> None:
    assert names(groups_of(4, Size(2, 1), instances=2)) == ["2x1", "2x2"]
    assert names(groups_of(4, Size(2, 2), threads=2)) == ["2x2 1x2"]
    assert names(groups_of(2, Size(2, 1), instances=2)) == ["2x1"]
    assert names(groups_of(2, Size(8, 1), instances=8)) == ["8x1"], "more than there are cores, if they want it"


def test_candidates_fit_into_memory() -> None:
    groups = groups_of(8, Size(3, 1), most=3)
    assert names(groups)[0].startswith("3x1")
    assert max(size.instances for group in groups for size in group) == 3


def scaling(instances: float, threads: float) -> Speed:
    """So much of a core's speed for each further instance and thread."""
    return lambda size: 1000 * (1 + instances * (size.instances - 1)) * (1 + threads * (size.threads - 1))


async def test_instances_win_where_threads_scale_badly() -> None:
    found = await FakeWorld(scaling(0.9, 0.3)).find(4)
    assert found.chosen == Size(4, 1)
    assert found.rates[Size(4, 1)] == pytest.approx(3700)


async def test_threads_win_where_instances_fight_over_the_cache() -> None:
    assert (await FakeWorld(scaling(0.2, 0.9)).find(4)).chosen == Size(1, 4)


async def test_of_those_that_are_alike_the_smallest_is_taken() -> None:
    found = await FakeWorld(lambda size: 50_000).find(8)
    assert found.chosen.instances * found.chosen.threads == 4, "the smallest that was compared"
    assert (await FakeWorld(lambda size: 50_000).find(2)).chosen == Size(1, 1)


async def test_of_the_same_number_of_threads_what_serves_stays() -> None:
    speed = {Size(2, 1): 100.0, Size(1, 1): 60.0, Size(1, 2): 101.0}
    assert (await FakeWorld(speed.__getitem__).find(2)).chosen == Size(2, 1)


@pytest.mark.parametrize("seed", range(20))
async def test_noise_and_a_wandering_pace_do_not_decide(seed: int) -> None:
    speed = {Size(2, 1): 100.0, Size(1, 1): 85.0, Size(1, 2): 88.0}
    world = FakeWorld(speed.__getitem__, noise=0.08, slice_s=0.3, seed=seed)
    assert (await world.find(2)).chosen == Size(2, 1)
    assert world.now <= BUDGET_S


async def test_a_clear_answer_takes_few_rounds() -> None:
    world = FakeWorld(scaling(0.9, 0.1))
    await world.find(2)
    assert len(world.measured) == 12
    assert world.now < BUDGET_S / 2


async def test_more_threads_are_not_tried_once_they_are_clearly_worse() -> None:
    world = FakeWorld(scaling(1.0, 0.0))
    found = await world.find(16)
    assert {size.threads for size in world.measured} == {1, 2}
    assert found.chosen == Size(16, 1)


async def test_two_thread_counts_are_loaded_at_most() -> None:
    world = FakeWorld(scaling(0.2, 0.9), slice_s=0.1, load_s=0.2)
    assert (await world.find(16)).chosen == Size(1, 16)
    assert world.most_loaded == 2
    assert set(world.loaded) == {16}


async def test_a_candidate_that_fails_is_left_out_and_said() -> None:
    world = FakeWorld(scaling(0.2, 0.9))
    world.broken = {Size(1, 2): "out of memory"}
    found = await world.find(2)
    assert found.chosen == Size(2, 1)
    assert found.reason == "1x2 failed: out of memory"
    world = FakeWorld(scaling(0.2, 0.9))
    world.broken = {Size(0, 0): "load 2x2"}
    found = await world.find(4)
    assert found.chosen == Size(1, 4), "others are still tried"
    assert "2x2 failed: no such file" in found.reason


async def test_where_the_usual_one_cannot_be_measured_nothing_is_chosen() -> None:
    world = FakeWorld(scaling(0.2, 0.9))
    world.broken = {Size(2, 1): "it raised"}
    found = await world.find(2)
    assert (found.chosen, found.rates, found.reason) == (Size(2, 1), {}, "2x1 failed: it raised")
    world = FakeWorld(scaling(0.2, 0.9))
    world.broken = {Size(0, 0): "load 2x1"}
    assert (await world.find(2)).reason == "2x1 failed: no such file"


async def test_a_model_that_is_too_slow_keeps_what_it_has_within_the_time() -> None:
    world = FakeWorld(scaling(0.2, 0.9), slice_s=6.0)
    found = await world.find(2)
    assert found.chosen == Size(2, 1)
    assert "too slow" in found.reason
    assert world.now <= BUDGET_S


async def test_a_load_that_takes_all_the_time_leaves_what_was_found_before() -> None:
    world = FakeWorld(scaling(0.2, 0.9), load_s=15.0)
    found = await world.find(2)
    assert found.chosen in (Size(2, 1), Size(1, 1))
    assert Size(1, 2) not in found.rates


def test_two_rounds_change_something_only_where_the_gain_is_large() -> None:
    usual, other = Size(2, 1), Size(1, 2)
    assert choose([{usual: 100, other: 105}] * 2, usual) == usual
    assert choose([{usual: 100, other: 115}] * 2, usual) == other
    assert choose([{usual: 100, other: 105}] * 3, usual) == other
    assert choose([{other: 105}] * 3, usual) == usual, "without a figure of what serves nothing is known"


def test_what_may_be_chance_changes_nothing() -> None:
    usual, other = Size(2, 1), Size(1, 2)
    rounds = [{usual: 100.0, other: rate} for rate in (140.0, 70.0, 135.0, 80.0, 110.0)]
    assert choose(rounds, usual) == usual
    assert choose([{usual: 100.0, other: rate} for rate in (108.0, 112.0, 109.0, 95.0, 110.0)], usual) == other


def test_a_light_model_leaves_the_network_its_part_of_the_cores() -> None:
    light, heavy = 40_000.0, 200.0
    assert beside_network(light, 1.0, Size(1, 1), 2) == light
    assert beside_network(light, 1.0, Size(2, 1), 2) == pytest.approx(0.9 * light)
    assert beside_network(light, 1.0, Size(1, 2), 2) == pytest.approx(0.9 * light)
    assert beside_network(light, 1.0, Size(16, 1), 16) == pytest.approx(0.9875 * light)
    assert beside_network(light, 100.0, Size(2, 1), 2) == pytest.approx(light, rel=0.002), "rows that come together"
    assert beside_network(heavy, 1.0, Size(2, 1), 2) == pytest.approx(heavy, rel=0.001)
