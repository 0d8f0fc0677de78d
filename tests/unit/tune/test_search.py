"""The search finds a configuration that is as good as any, in a small part of the time that trying all takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median

import pytest
from tests.unit.tune.fake_machine import PROBE_S, START_S, FakeMachine

from forebay.core.errors import SetupError
from forebay.tune.configuration import Configuration, Group, grid
from forebay.tune.contender import Outcome
from forebay.tune.search import MOST_CONTENDERS, search
from forebay.tune.slo import Slo

SLO = Slo(0.99, 50.0)
SIZES = grid(["m"], [1, 2], [1, 2], [8, 32, 256], cores=2)


def by(capacity: Callable[[Configuration], float], configurations: list[Configuration] = SIZES) -> FakeMachine:
    return FakeMachine({one: capacity(one) for one in configurations}, SLO)


def found(machine: FakeMachine, most_s: float = 600.0) -> Outcome:
    return search(list(machine.capacities), SLO, machine, most_s, lambda _line: None)


def test_the_best_configuration_is_found_and_its_rate() -> None:
    machine = by(lambda one: 100.0 * one.instances / one.threads + one.max_batch_rows / 256)
    outcome = found(machine)
    assert outcome.chosen == Configuration("m", 2, 1, 256)
    assert outcome.rate == pytest.approx(201.0, rel=0.06)
    assert outcome.rate <= 201.0
    assert outcome.goodput_per_s == pytest.approx(outcome.rate)


def test_a_cap_that_matters_is_found_although_the_largest_is_the_usual_one() -> None:
    machine = by(lambda one: {8: 60.0, 32: 100.0, 256: 45.0}[one.max_batch_rows] * one.instances)
    assert found(machine).chosen.max_batch_rows == 32


def test_without_anything_foretold_the_largest_caps_are_compared() -> None:
    machine = by(lambda one: 100.0 * one.instances)
    machine.foretells = False
    outcome = found(machine)
    assert (outcome.chosen.instances, outcome.chosen.max_batch_rows) == (2, 256)


def test_of_configurations_that_are_alike_the_one_that_takes_least_is_chosen() -> None:
    outcome = found(by(lambda one: 100.0 if one.instances * one.threads == 1 else 101.0))
    assert (outcome.chosen.instances, outcome.chosen.threads) == (1, 1)


def test_a_better_one_is_taken_although_it_takes_more() -> None:
    outcome = found(by(lambda one: 100.0 if one.instances * one.threads == 1 else 112.0))
    assert outcome.chosen.instances * outcome.chosen.threads > 1


def test_poor_ones_are_never_probed() -> None:
    machine = by(lambda one: 200.0 if one.threads == 1 else 40.0)
    outcome = found(machine)
    assert {one.threads for one, _ in machine.probed} == {1}
    reasons = {one.reason for one in outcome.results if one.configuration.threads == 2}
    assert reasons == {"saturates at 20% of the best"}


FORMS = grid(["fp32", "int8", "mixed"], [1, 2], [1, 2], [8, 256], cores=2)


def test_every_form_is_looked_at_before_any_is_in_another_size() -> None:
    machine = by(lambda one: {"fp32": 60.0, "int8": 100.0, "mixed": 90.0}[one.artefact] * one.instances, FORMS)
    outcome = found(machine)
    assert outcome.chosen.artefact == "int8"
    sizes = {group.size for group in machine.looked}
    assert len(sizes) > 1
    first = machine.looked[:3]
    assert {group.artefact for group in first} == {"fp32", "int8", "mixed"}
    assert len({group.size for group in first}) == 1


def test_a_form_that_is_poor_is_looked_at_in_one_size_only() -> None:
    machine = by(lambda one: {"fp32": 20.0, "int8": 100.0, "mixed": 90.0}[one.artefact] * one.instances, FORMS)
    outcome = found(machine)
    assert len({group.size for group in machine.looked if group.artefact == "fp32"}) == 1
    assert len({group.size for group in machine.looked if group.artefact == "int8"}) == 4
    reasons = {one.reason for one in outcome.results if one.configuration.artefact == "fp32"}
    assert all("of the best" in reason for reason in reasons), reasons


def test_where_time_runs_out_the_best_form_is_chosen_all_the_same() -> None:
    machine = by(lambda one: {"fp32": 50.0, "int8": 100.0, "mixed": 90.0}[one.artefact] * one.instances, FORMS)
    outcome = found(machine, most_s=30.0)
    assert outcome.chosen.artefact == "int8"
    (note,) = [note for note in outcome.notes if note.startswith("not looked at: ")]
    assert "int8" in note


def test_no_more_are_probed_than_can_be_raced() -> None:
    many = grid(["m"], list(range(1, 9)), [1], [1, 2, 4, 8, 16, 32], cores=8)
    machine = by(lambda one: 100.0 + one.max_batch_rows + one.instances, many)
    found(machine, 1e9)
    assert len({one for one, _ in machine.probed}) <= MOST_CONTENDERS


def test_it_ends_when_the_time_is_over_and_says_so() -> None:
    machine = by(lambda one: 100.0 * one.instances)
    outcome = found(machine, most_s=40.0)
    assert machine.now_s < 40.0 + 2 * (PROBE_S + START_S)
    assert any("--max-time" in note for note in outcome.notes)
    assert outcome.rate > 0


def test_something_is_measured_however_short_the_time_is() -> None:
    outcome = found(by(lambda one: 100.0), most_s=0.1)
    assert outcome.rate > 0
    assert len(outcome.notes) >= 2


def test_an_objective_below_the_fastest_answer_is_an_error_that_names_it() -> None:
    machine = by(lambda one: 100.0)
    machine.idle_ms = {one.group: 80.0 for one in SIZES}
    with pytest.raises(SetupError, match=r"p99 <= 50 ms.*80\.00 ms") as caught:
        found(machine)
    assert caught.value.code == "slo_unreachable"
    assert machine.probed == []


def test_an_objective_that_holds_at_no_rate_is_the_same_error() -> None:
    machine = by(lambda one: 100.0)
    machine.stalls = 1.0
    with pytest.raises(SetupError) as caught:
        found(machine)
    assert caught.value.code == "slo_unreachable"


def test_a_group_that_is_too_slow_when_idle_is_left_out() -> None:
    machine = by(lambda one: 100.0 * one.instances)
    machine.idle_ms = {one.group: 80.0 for one in SIZES if one.instances == 2}
    outcome = found(machine)
    assert outcome.chosen.instances == 1
    assert {one.instances for one, _ in machine.probed} == {1}


def test_what_cannot_be_served_is_left_out_with_the_reason() -> None:
    machine = by(lambda one: 100.0 * one.instances)
    machine.dead = frozenset(one for one in SIZES if one.instances == 2)
    outcome = found(machine)
    assert outcome.chosen.instances == 1
    assert {one.reason for one in outcome.results if one.configuration.instances == 2} == {
        "cannot be served: it does not load"
    }


def test_one_that_dies_under_load_is_not_chosen() -> None:
    machine = by(lambda one: 100.0 * one.instances)
    best = Configuration("m", 2, 1, 256)
    machine.dead = frozenset([best])
    outcome = found(machine)
    assert outcome.chosen != best
    (result,) = [one for one in outcome.results if one.configuration == best]
    assert result.reason == "failed: the server ended with code 1"


def test_where_nothing_can_be_served_it_is_an_error_of_loading() -> None:
    machine = by(lambda one: 100.0)
    machine.dead = frozenset(SIZES)
    with pytest.raises(SetupError, match="it does not load") as caught:
        found(machine)
    assert caught.value.code == "model_load_error"


def test_each_group_is_looked_at_once_and_one_that_would_be_out_twice() -> None:
    machine = by(lambda one: 100.0 if one.instances == 1 else 30.0)
    found(machine)
    groups = list(dict.fromkeys(one.group for one in SIZES))
    assert machine.looked == [*groups, *(group for group in groups if group.instances == 2)]


def test_a_group_that_was_disturbed_at_its_first_look_is_not_lost() -> None:
    machine = by(lambda one: 100.0 * one.instances)
    machine.disturbed_looks = 1
    assert found(machine).chosen.instances == 2
    assert machine.looked[0] == Group("m", 2, 1)


def test_the_better_of_two_artefacts_is_found() -> None:
    both = grid(["fp32", "int8"], [1, 2], [1], [32, 256], cores=2)
    machine = by(lambda one: 100.0 * one.instances * (2.0 if one.artefact == "int8" else 1.0), both)
    assert found(machine).chosen.group == Group("int8", 2, 1)


def random_machine(seed: int) -> FakeMachine:
    """A machine with stalls and noise, on which instances, threads and caps matter as they do."""
    rng = random.Random(seed)
    of_size = {one.group: rng.uniform(50, 200) for one in SIZES}
    of_cap = {rows: rng.choice([1.0, 1.0, rng.uniform(0.6, 1.1)]) for rows in (8, 32, 256)}
    capacities = {one: of_size[one.group] * of_cap[one.max_batch_rows] for one in SIZES}
    return FakeMachine(capacities, SLO, noise=0.02, stalls=0.15, seed=seed)


def test_on_noisy_machines_it_reaches_nearly_the_best_in_a_small_part_of_the_time() -> None:
    reached, times = [], []
    for seed in range(60):
        machine = random_machine(seed)
        chosen = found(machine).chosen
        reached.append(machine.capacities[chosen] / max(machine.capacities.values()))
        # Each configuration climbs eight steps and then has two of the longer probes, and all that twice.
        exhaustive_s = len(SIZES) * (START_S + 2 * (8 + 2 * 2.5) * PROBE_S)
        times.append(machine.now_s / exhaustive_s)
    assert median(reached) >= 0.99
    assert sorted(reached)[3] >= 0.95
    assert median(times) <= 0.15
