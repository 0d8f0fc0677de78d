"""Each rule of the policy has a scenario in which taking it out loses more than one per cent. No scenario, no rule."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from forebay.batching import Batch, Batcher, LatencyModel, Policy, Refusal, admission, growth
from forebay.batching.admission import ArrivalRate, Margins, Overtaking
from forebay.batching.arrivals import Kind, on_off, poisson, text_length
from forebay.batching.costs import Cost, Linear, Noise, Table, minilm
from forebay.batching.fit import Point
from forebay.batching.item import Item
from forebay.batching.lane import Lane
from forebay.batching.pool import Slot
from forebay.batching.simulate import MakeBatcher, Outcome, Scenario, SimItem, Simulation, simulate_scenario

SLEEP = Linear(0.02, 0.001)
CAP = Policy(max_batch_rows=64)
CAPACITY = 64 / 0.084
PADDED = Linear(0.005, 0.0, 2e-5)
"""A GPU's shape: a fixed part, and a part for each padded cell."""
SHORT_BATCHES = Table(
    (1, 4, 16, 32),
    (4, 8, 16, 32, 64, 128, 256),
    (
        (0.00171, 0.0024, 0.00336, 0.00492, 0.00815, 0.01482, 0.02963),
        (0.00352, 0.00504, 0.008, 0.01404, 0.02664, 0.05368, 0.12436),
        (0.008, 0.01376, 0.02624, 0.05168, 0.10704, 0.23904, 0.54064),
        (0.01472, 0.02656, 0.05216, 0.10656, 0.20896, 0.4976, 1.15008),
    ),
)
"""MiniLM as measured on another processor: batches pay for short texts and cost for long ones."""
B = Batcher[SimItem]


def open_loop(rate: float) -> Callable[[random.Random], Iterator[float]]:
    return lambda rng: poisson(rate, rng)


def bursts(rate: float) -> Callable[[random.Random], Iterator[float]]:
    return lambda rng: on_off(rate, rng)


def both(scenario: Scenario, without: MakeBatcher) -> tuple[Outcome, Outcome]:
    return simulate_scenario(scenario), simulate_scenario(scenario, without)


class Delayed(B):
    def _ripe_lane(self, now: float) -> Lane[SimItem] | None:
        lane = self._lane
        return lane if now >= lane.items[0].arrived + 0.002 or lane.rows >= self._limit else None

    def pull(self, now: float) -> Any:
        return super().pull(now) if self.depth_rows and self._ripe_lane(now) else None

    def wake_at(self, now: float) -> float | None:
        at = super().wake_at(now)
        if self.pool.idle and self.depth_rows:
            held = self._lane.items[0].arrived + 0.002
            return held if at is None else min(at, held)
        return at


def test_an_idle_instance_takes_what_there_is() -> None:
    scenario = Scenario(Linear(0.004, 0.0005), open_loop(100), seconds=20, policy=CAP)
    ours, without = both(scenario, Delayed)
    assert without.mean_s > 1.2 * ours.mean_s


class NeverEarly(B):
    def _early_slot(self, now: float) -> Slot[SimItem] | None:
        return None


class AlwaysEarly(B):
    def _early_slot(self, now: float) -> Slot[SimItem] | None:
        return self.pool.soonest()


def test_the_next_batch_leaves_just_before_the_answer() -> None:
    scenario = Scenario(Linear(0.004, 0.0001), clients=64, think_s=0.004, seconds=10, hand_over_s=0.003, policy=CAP)
    ours, without = both(scenario, NeverEarly)
    assert ours.good > 1.1 * without.good


def test_and_no_earlier() -> None:
    cost = Linear(0.01, 0.001)
    scenario = Scenario(cost, open_loop(1300), seconds=10, instances=2, hand_over_s=0.001, policy=CAP)
    ours, without = both(scenario, AlwaysEarly)
    assert without.mean_s > 1.3 * ours.mean_s


def test_but_never_to_an_instance_whose_answers_take_nobody_knows_how_long() -> None:
    """A model that streams: its batches end when the longest answer does. Its engine turns the early leave off."""
    cost, instances, rows = Linear(0.2, 0.01), 4, 16
    rate = 0.6 * instances * rows / cost.seconds(rows, 0)
    policy = Policy(max_batch_rows=rows, hands_over_early=False)
    scenario = Scenario(
        cost, open_loop(rate), seconds=60, instances=instances, hand_over_s=0.001, policy=policy, noise=Noise(0.6)
    )
    ours = simulate_scenario(scenario)
    without = simulate_scenario(replace(scenario, policy=replace(policy, hands_over_early=True)))
    assert without.mean_s > 1.1 * ours.mean_s


class FirstComeFirstServed(B):
    def _key(self, item: SimItem) -> float:
        return item.arrived

    def offer(self, item: SimItem, now: float) -> Refusal | None:
        self.seen_rows += item.rows
        return self._offer_special(item, now)


def test_earliest_deadline_first() -> None:
    kinds = (Kind(0.2, slo_s=0.12), Kind(0.8, slo_s=2.0))
    ours, without = both(
        Scenario(SLEEP, bursts(0.6 * CAPACITY), seconds=30, kinds=kinds, policy=CAP), FirstComeFirstServed
    )
    assert ours.good > 1.03 * without.good


class NoPriorities(B):
    def _key(self, item: SimItem) -> float:
        return item.deadline


def test_priorities() -> None:
    kinds = (Kind(0.3, priority=1), Kind(0.7))
    scenario = Scenario(SLEEP, open_loop(1.3 * CAPACITY), seconds=10, slo_s=2.0, kinds=kinds, policy=CAP)
    ours, without = both(scenario, NoPriorities)
    high = ours.by_kind[1, ""]
    assert high.good == high.sent
    assert high.total_s < 0.2 * without.by_kind[1, ""].total_s
    assert ours.good > 0.9 * without.good


def test_ageing() -> None:
    def low(ageing_s: float) -> int:
        policy = Policy(max_batch_rows=64, ageing_s=ageing_s)
        kinds = (Kind(0.9, priority=1), Kind(0.1, priority=2))
        scenario = Scenario(SLEEP, open_loop(1.15 * CAPACITY), seconds=20, slo_s=6.0, kinds=kinds, policy=policy)
        return simulate_scenario(scenario).by_kind[2, ""].good

    assert low(0.5) > 1.1 * low(1e6)


class Heedless(B):
    """Forecasts for lower priorities that leave out who will overtake them."""

    def __init__(self, policy: Policy, latency: LatencyModel) -> None:
        super().__init__(policy, latency)
        self._overtaking = NobodyOvertakes()


class NobodyOvertakes(Overtaking):
    def delayed(self, wait_s: float, level: int, rows_per_s: float, ageing_s: float) -> float:
        return wait_s


def test_admission_counts_who_will_overtake() -> None:
    kinds = (Kind(0.2, priority=1), Kind(0.6), Kind(0.2, priority=2))
    scenario = Scenario(SLEEP, open_loop(2 * CAPACITY), seconds=10, slo_s=0.5, kinds=kinds, policy=CAP)
    ours, without = both(scenario, Heedless)
    assert ours.good > 1.2 * without.good


class TakesAll(B):
    """Batches as large as allowed, whatever a row costs."""

    def _rows_that_pay(self, length: int) -> int:
        return self._max_rows

    def _choose(
        self, lane: Lane[SimItem], skip: int, cap: int, start: float, *, probe: bool
    ) -> tuple[list[SimItem], bool]:
        return self._take_singly(lane, skip, cap, start), False


def test_no_batch_where_a_row_costs_more_in_it() -> None:
    policy = Policy(max_batch_rows=32)
    scenario = Scenario(
        minilm(), open_loop(130), seconds=15, slo_s=0.5, instances=2, lengths=text_length, policy=policy
    )
    ours, without = both(scenario, TakesAll)
    assert ours.good > 1.3 * without.good
    assert ours.mean_batch_rows < 1.2


class InOrder(B):
    """The best size, but in order of deadline, whatever the lengths."""

    def _choose(
        self, lane: Lane[SimItem], skip: int, cap: int, start: float, *, probe: bool
    ) -> tuple[list[SimItem], bool]:
        limit = min(cap, self._rows_that_pay(lane.items[skip].length))
        return self._take_singly(lane, skip, limit, start), False


def padded(rate: float, lengths: Callable[[random.Random], int] = text_length, seconds: float = 8) -> Scenario:
    policy = Policy(max_batch_rows=32)
    return Scenario(PADDED, open_loop(rate), seconds=seconds, slo_s=1.0, lengths=lengths, policy=policy, skip_s=1)


def test_batches_of_like_lengths() -> None:
    ours, without = both(padded(700), InOrder)
    assert ours.good > 1.2 * without.good


def mostly_short(rng: random.Random) -> int:
    return 8 if rng.random() < 0.7 else 200


def test_an_item_holds_out_for_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = simulate_scenario(padded(1200, mostly_short)), simulate_scenario(padded(500))
    monkeypatch.setattr(growth, "_elsewhere", lambda item, _p, latency, _m: latency.predict(item.rows, item.length))
    alone = simulate_scenario(padded(1200, mostly_short))
    assert ours[0].good > 1.02 * alone.good


class NoCap(B):
    """Admission as it is, but a batch is not cut for the earliest deadline in it."""

    cutting = True

    def _form(self, lane: Lane[SimItem], start: float) -> Any:
        self.cutting = False
        try:
            return super()._form(lane, start)
        finally:
            self.cutting = True

    def _rows_in_time(self, item: SimItem, start: float) -> int:
        return super()._rows_in_time(item, start) if self.cutting else 1_000_000


MIXED_BURSTS = Scenario(
    SLEEP,
    bursts(0.8 * CAPACITY),
    seconds=40,
    kinds=(Kind(0.5, slo_s=0.09), Kind(0.5, slo_s=0.6)),
    policy=CAP,
    noise=Noise(0.1, 0.01, 5.0),
)


def test_no_batch_beyond_its_earliest_deadline() -> None:
    ours, without = both(MIXED_BURSTS, NoCap)
    assert ours.good > 1.03 * without.good


class HeadDecides(B):
    def _window(self, lane: Lane[SimItem], start: float, limit: int) -> tuple[int, int]:
        return 0, max(1, self._rows_in_time(lane.items[0], start))


def test_a_late_head_is_passed_over_for_those_behind() -> None:
    kinds = (Kind(0.5, slo_s=0.09), Kind(0.5, slo_s=0.6))
    ours, without = both(Scenario(SLEEP, open_loop(1.1 * CAPACITY), seconds=15, kinds=kinds, policy=CAP), HeadDecides)
    assert ours.good > 1.5 * without.good


class DropsOnlyTheDead(B):
    def _alone_s(self, item: SimItem) -> float:
        return 0.0


def test_what_cannot_make_it_is_dropped_before_it_costs() -> None:
    noise = Noise(0.1, 0.02, 8.0)
    scenario = Scenario(SLEEP, open_loop(0.7 * CAPACITY), seconds=40, slo_s=0.105, policy=CAP, noise=noise)
    ours, without = both(scenario, DropsOnlyTheDead)
    assert ours.good > 1.01 * without.good


class NoAdmission(B):
    def _forecast(self, lane: Lane[SimItem], item: SimItem, key: float, now: float) -> float:
        return now


def test_refusing_at_the_door() -> None:
    ours, without = both(MIXED_BURSTS, NoAdmission)
    assert ours.good > 1.02 * without.good
    assert ours.broken < 0.15 * without.broken


class NoForesight(B):
    """Forecasts that leave out who will arrive before the batch begins."""

    def __init__(self, policy: Policy, latency: LatencyModel) -> None:
        super().__init__(policy, latency)
        self.rate = NobodyComes()


class NobodyComes(ArrivalRate):
    def now(self, now: float, seen_rows: int, batch_s: float) -> float:
        return 0.0


def test_admission_counts_who_will_arrive() -> None:
    scenario = Scenario(SLEEP, open_loop(2 * CAPACITY), seconds=15, slo_s=0.105, policy=CAP)
    ours, without = both(scenario, NoForesight)
    assert ours.good > 1.1 * without.good


class BreaksPromises(B):
    """A newcomer may grow the next batch beyond what those already in it allow."""

    forecasting = False

    def _forecast(self, lane: Lane[SimItem], item: SimItem, key: float, now: float) -> float:
        self.forecasting = True
        try:
            return super()._forecast(lane, item, key, now)
        finally:
            self.forecasting = False

    def _window(self, lane: Lane[SimItem], start: float, limit: int) -> tuple[int, int]:
        return (0, limit) if self.forecasting else super()._window(lane, start, limit)


def test_a_newcomer_does_not_break_a_promise() -> None:
    scenario = Scenario(SLEEP, open_loop(CAPACITY), seconds=20, slo_s=0.105, policy=CAP)
    ours, without = both(scenario, BreaksPromises)
    assert ours.good > 1.01 * without.good


class NoMargins(Margins):
    def of(self, length: int) -> float:
        return 0.0


class InOneGo(B):
    def behind_s(self, place: int, rows: int, length: int) -> float:
        return 0.0


def test_small_requests_go_between_the_pieces_of_a_large_one() -> None:
    # Priorities 2 and 3 are the same step; they only tell the two kinds apart.
    kinds = (Kind(0.9, priority=2), Kind(0.1, rows=64, pieces=20, priority=3))
    scenario = Scenario(Linear(0.0001, 0.00001), open_loop(200), seconds=20, kinds=kinds, policy=CAP)
    ours, without = both(scenario, InOneGo)
    assert ours.by_kind[2, ""].total_s < 0.5 * without.by_kind[2, ""].total_s
    assert ours.by_kind[3, ""].total_s < 1.2 * without.by_kind[3, ""].total_s


class NeverMoreCareful(B):
    def __init__(self, policy: Policy, latency: LatencyModel) -> None:
        super().__init__(policy, latency)
        self.margins = NoMargins()


@pytest.mark.full
def test_forecasts_learn_from_broken_promises() -> None:
    runs = [both(replace(padded(900, seconds=12), seed=seed), NeverMoreCareful) for seed in (1, 2, 3)]
    assert sum(ours.good for ours, _ in runs) > 1.01 * sum(without.good for _, without in runs)
    assert all(ours.broken < without.broken - 0.04 for ours, without in runs)


class OneMargin(Margins):
    """Learns as for a fixed shape: one addition for all lengths."""

    def of(self, length: int) -> float:
        return super().of(0)

    def expired(self, item: Item) -> None:
        self._broken_rows += item.rows

    def answered(self, items: Sequence[Item], rows: int, now: float) -> None:
        broken = sum(item.rows for item in items if item.deadline < now)
        self._broken_rows += broken
        super().answered([SimItem(0.0, now, rows - broken, 0, 0, "")], rows - broken, now)


class OneForAll(B):
    def __init__(self, policy: Policy, latency: LatencyModel) -> None:
        super().__init__(policy, latency)
        self.margins = OneMargin()


@pytest.mark.full
def test_rare_lengths_wait_longer_than_common_ones() -> None:
    scenario = Scenario(
        SHORT_BATCHES, open_loop(600), seconds=20, slo_s=0.5, instances=2, lengths=text_length, policy=CAP, skip_s=2
    )
    runs = [both(replace(scenario, seed=seed), OneForAll) for seed in (1, 2, 3)]
    assert sum(ours.good for ours, _ in runs) > 1.01 * sum(without.good for _, without in runs)
    assert all(ours.broken < 0.5 * without.broken for ours, without in runs)


def overload_now_and_then(rng: random.Random) -> Iterator[float]:
    base_s = 0.0
    while True:
        for rate, seconds in ((200, 10), (600, 4)):
            for at in poisson(rate, rng):
                if at >= seconds:
                    break
                yield base_s + at
            base_s += seconds


@pytest.mark.full
def test_promises_easily_kept_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learned in one overload still holds in the next."""

    def runs() -> list[Outcome]:
        scenario = Scenario(
            SHORT_BATCHES, overload_now_and_then, seconds=46, slo_s=0.5, instances=2, lengths=text_length, skip_s=10
        )
        return [simulate_scenario(replace(scenario, policy=CAP, seed=seed)) for seed in (1, 2, 3, 4)]

    ours = runs()
    monkeypatch.setattr(admission, "AT_STAKE", 0.0)
    without = runs()
    assert sum(run.good for run in ours) > 1.01 * sum(run.good for run in without)
    assert sum(run.broken for run in ours) < 0.7 * sum(run.broken for run in without)


class IdealCosts(B):
    """Forecasts that take rows of variable length at their cost in an ideal batch."""

    def _learn_stretch(self, batch: Batch[SimItem]) -> None:
        pass


@pytest.mark.full
def test_forecasts_know_that_padding_costs() -> None:
    ours, without = both(replace(padded(1500, seconds=15), seed=2), IdealCosts)
    assert ours.good > 1.01 * without.good


class NeverProbes(B):
    def _row_limit(self, waiting: int, length: int) -> int:
        return self._rows_that_pay(length) if length else self._limit


def test_a_wrong_measurement_is_found_out() -> None:
    scenario = Scenario(SLEEP, open_loop(500), seconds=20, slo_s=5.0, policy=CAP, warm_rows=())
    outcomes = []
    for make in (Batcher, NeverProbes):
        simulation = Simulation(scenario, make)
        for rows, seconds in ((1, 0.021), (2, 0.5), (4, 0.6)):
            simulation.latency.observe(rows, 0, seconds)
        outcomes.append(simulation.run())
    assert outcomes[0].good > 2 * outcomes[1].good


@pytest.mark.full
def test_where_lengths_vary_too() -> None:
    """Batches that were measured while the machine was slow are tried again."""
    scenario = Scenario(
        SHORT_BATCHES, open_loop(500), seconds=30, slo_s=0.5, instances=2, lengths=text_length, policy=CAP, warm_rows=()
    )
    good = []
    for make in (Batcher, NeverProbes):
        simulation = Simulation(replace(scenario, seed=3, skip_s=2), make)
        for rows, length, _ in itertools.product((1, 2, 4, 8, 16, 32), (8, 16, 32, 64, 128, 256), range(5)):
            slow = 1.0 if rows == 1 else 1.8
            simulation.latency.observe(rows, length, slow * SHORT_BATCHES.seconds(rows, length))
        good.append(simulation.run().good)
    assert good[0] > 1.02 * good[1]


class KnowsNoPace(LatencyModel):
    __slots__ = ()

    def _learn_pace(self, cell: Point, rows: int, length: int, seconds: float) -> bool:
        return False


def with_model(kind: type[LatencyModel]) -> MakeBatcher:
    return lambda policy, latency: Batcher(policy, kind.from_json(latency.to_json(), policy.max_batch_rows))


class Slows(Linear):
    """A machine that becomes slower after some batches."""

    __slots__ = ("calls",)

    def seconds(self, rows: int, length: int) -> float:
        calls = getattr(self, "calls", 0) + 1
        object.__setattr__(self, "calls", calls)
        return Linear.seconds(self, rows, length) * (2 if calls > 400 else 1)


def test_a_machine_that_slows_down() -> None:
    def run(make: MakeBatcher) -> Outcome:
        cost: Cost = Slows(0.02, 0.001)
        return simulate_scenario(Scenario(cost, open_loop(700), seconds=30, slo_s=0.2, policy=CAP), make)

    assert run(with_model(LatencyModel)).good > 1.02 * run(with_model(KnowsNoPace)).good
