"""How the bench compares what `forebay tune` took with the best of a grid: on a machine whose truth is known."""

from __future__ import annotations

from statistics import median

import pytest
from benchmarks.workloads.tune import DUEL_ROUNDS, _at_one_rate, _climb, _duel
from tests.unit.tune.fake_machine import FakeMachine

from forebay.tune.configuration import Configuration
from forebay.tune.contender import Contender
from forebay.tune.slo import Slo

SLO = Slo(0.99, 50.0)
GOOD, LESS = Configuration("m", 1, 1, 256), Configuration("m", 2, 1, 256)


def climbed(machine: FakeMachine, configuration: Configuration) -> Contender:
    look = machine.look(configuration.group, [configuration.max_batch_rows])
    contender = Contender(configuration, look, look.saturated_per_s)
    _climb(machine, contender, 0.75 * contender.ceiling, SLO)
    return contender


def test_each_is_compared_by_the_rate_that_it_keeps_up_itself_and_by_what_it_does_at_the_others() -> None:
    machine = FakeMachine({GOOD: 100.0, LESS: 80.0}, SLO)
    good, less = climbed(machine, GOOD), climbed(machine, LESS)
    by_capacity = [a / b for a, b in _duel(machine, less, good, SLO)]
    assert len(by_capacity) == DUEL_ROUNDS
    assert median(by_capacity) == pytest.approx(0.8, rel=0.06)
    # A fifth too much: its queue grows, and little is answered in time.
    assert max(a / b for a, b in _at_one_rate(machine, less, good, SLO)) < 0.5


def test_one_is_as_good_as_itself() -> None:
    machine = FakeMachine({GOOD: 100.0}, SLO)
    good = climbed(machine, GOOD)
    probed = len(machine.probed)
    assert (_duel(machine, good, good, SLO), _at_one_rate(machine, good, good, SLO)) == ([(1.0, 1.0)], [(1.0, 1.0)])
    assert len(machine.probed) == probed
