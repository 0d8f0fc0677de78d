"""What probes that contradict each other say together."""

from __future__ import annotations

import pytest

from forebay.tune.contender import capacity, generator_limited, goodput, unconfirmed
from forebay.tune.slo import Slo
from forebay.tune.world import Probe

SLO = Slo(0.99, 50.0)


def probe(rate: float, *, held: bool, busy: float = 0.2, late_ms: float = 0.1, final: bool = False) -> Probe:
    in_time = 1000 if held else 900
    return Probe(
        rate=rate,
        seconds=1000 / rate,
        sent=1000,
        in_time=in_time,
        refused=0,
        goodput_per_s=rate * in_time / 1000,
        quantile_ms=40.0 if held else None,
        lateness_ms=late_ms,
        generator_busy=busy,
        usual_missed=0.0,
        final=final,
    )


def test_the_finals_decide_where_something_held_in_them() -> None:
    short = [probe(120, held=True), probe(130, held=True)]
    assert capacity([*short, probe(120, held=False, final=True), probe(110, held=True, final=True)], SLO) == 110
    assert capacity([*short, probe(140, held=False, final=True)], SLO) == 130


def test_the_capacity_is_the_highest_rate_that_held() -> None:
    assert capacity([probe(100, held=True), probe(120, held=False), probe(110, held=True)], SLO) == 110


def test_a_stall_at_a_low_rate_does_not_count_against_what_held_above_it() -> None:
    assert capacity([probe(100, held=False), probe(110, held=True), probe(110, held=True)], SLO) == 110


def test_a_rate_that_held_once_by_luck_is_not_the_capacity() -> None:
    probes = [probe(100, held=True), probe(100, held=True), *[probe(130, held=False)] * 3, probe(130, held=True)]
    assert capacity(probes, SLO) == 100


def test_something_that_held_is_never_nothing() -> None:
    assert capacity([probe(100, held=True), *[probe(90, held=False)] * 9], SLO) == 100
    assert capacity([probe(100, held=False)], SLO) == 0
    assert capacity([], SLO) == 0


def test_goodput_is_that_of_the_probes_that_held_at_the_capacity() -> None:
    assert goodput([probe(100, held=True), probe(110, held=True), probe(110, held=False)], SLO) == pytest.approx(110)
    assert goodput([], SLO) == 0


@pytest.mark.parametrize(
    ("busy", "late_ms", "limited"), [(0.95, 0.1, True), (0.7, 20.0, True), (0.7, 1.0, False), (0.2, 20.0, False)]
)
def test_a_busy_generator_is_told_from_a_slow_server(busy: float, late_ms: float, *, limited: bool) -> None:
    probes = [probe(100, held=True), probe(110, held=False, busy=busy, late_ms=late_ms), probe(150, held=False)]
    assert generator_limited(probes, SLO) is limited


def test_where_no_final_held_nothing_counts_at_or_above_the_lowest_that_failed() -> None:
    short = [probe(100, held=True), probe(120, held=True), probe(130, held=True)]
    failed = [probe(rate, held=False, final=True) for rate in (130, 124, 118)]
    assert capacity([*short, *failed], SLO) == 100
    assert goodput([*short, *failed], SLO) == 100
    said = "100.0/s held in short probes alone: all longer ones failed, at 118.0/s and above"
    assert unconfirmed([*short, *failed], SLO) == said


def test_a_rate_is_unconfirmed_until_a_longer_probe_held() -> None:
    short, high = [probe(100, held=True)], probe(110, held=True, final=True)
    assert unconfirmed([*short, probe(120, held=False, final=True), high], SLO) == ""
    assert unconfirmed(short, SLO) == "100.0/s held in short probes alone, no longer one has confirmed it"
    too_high = "100.0/s held in short probes, but longer ones failed at 90.0/s: it is too high"
    assert unconfirmed([*short, probe(90, held=False, final=True)], SLO) == too_high
    assert unconfirmed([probe(100, held=False)], SLO) == ""
