"""Pure: one configuration in the race, and what its probes say of the highest rate that it can keep up."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from forebay.tune.configuration import Configuration
from forebay.tune.slo import Slo
from forebay.tune.world import Look, Probe

GENERATOR_FULL: Final = 0.9
"""Of one core: from here on the load generator itself may be what is slow."""
GENERATOR_BUSY: Final = 0.6
LATE_SHARE: Final = 0.2
"""Of the SLO's bound: a busy generator that sends later than this has used up time that was the server's. An idle one
is late where the server leaves it no core, which is the server's doing."""


def capacity(probes: Sequence[Probe], slo: Slo) -> float:
    """The highest rate at which the SLO holds: of those that held the one that fewest probes speak against; 0: none.

    Probes at and below it that failed speak against it, and so do those above it that held. Of two that are as likely
    it is the higher: what disturbs a measurement makes it worse, never better. Only the probes of the finals count
    where one of them held: a shorter one sees less of a queue that grows. Where none did, nothing counts at or above
    the lowest rate that was too much for one.
    """
    probes = decisive(probes, slo)
    held = sorted({probe.rate for probe in probes if probe.holds(slo)})

    def against(rate: float) -> int:
        return sum(probe.holds(slo) != (probe.rate <= rate) for probe in probes)

    return min(held, key=lambda rate: (against(rate), -rate), default=0.0)


def decisive(probes: Sequence[Probe], slo: Slo) -> Sequence[Probe]:
    """The probes of the finals where one of them held, else those below the finals that failed; all where none of these
    held either.
    """
    finals = [probe for probe in probes if probe.final]
    if any(probe.holds(slo) for probe in finals):
        return finals
    lowest = min((probe.rate for probe in finals), default=float("inf"))
    below = [probe for probe in probes if probe.rate < lowest]
    return below if any(probe.holds(slo) for probe in below) else probes


def unconfirmed(probes: Sequence[Probe], slo: Slo) -> str:
    """Why the capacity is one that no longer probe has confirmed; empty: one has."""
    finals = [probe for probe in probes if probe.final]
    at = capacity(probes, slo)
    if not at or any(probe.holds(slo) for probe in finals):
        return ""
    if not finals:
        return f"{at:,.1f}/s held in short probes alone, no longer one has confirmed it"
    lowest = min(probe.rate for probe in finals)
    if at < lowest:
        return f"{at:,.1f}/s held in short probes alone: all longer ones failed, at {lowest:,.1f}/s and above"
    return f"{at:,.1f}/s held in short probes, but longer ones failed at {lowest:,.1f}/s: it is too high"


def goodput(probes: Sequence[Probe], slo: Slo) -> float:
    """Answers within the SLO, a second, at the capacity: the median of the probes that held there; 0: none."""
    at = capacity(probes, slo)
    probes = decisive(probes, slo)
    held = [probe.goodput_per_s for probe in probes if probe.rate == at and probe.holds(slo)]
    return median(held) if held else 0.0


def generator_limited(probes: Sequence[Probe], slo: Slo) -> bool:
    """Whether what ended the climb was the load generator: the lowest failure above the capacity was its own."""
    at = capacity(probes, slo)
    above = [probe for probe in probes if probe.rate > at and not probe.holds(slo)]
    if not above:
        return False
    first = min(above, key=lambda probe: probe.rate)
    late = first.lateness_ms > LATE_SHARE * slo.bound_ms
    return first.generator_busy >= (GENERATOR_BUSY if late else GENERATOR_FULL)


class Contender:
    """A configuration that is probed. `ceiling`: answers a second that it may reach at most, from its look."""

    def __init__(self, configuration: Configuration, look: Look, ceiling: float) -> None:
        self.configuration = configuration
        self.look = look
        self.ceiling = ceiling
        self.probes: list[Probe] = []
        self.reason = ""
        """Why it is not probed further."""
        self.low = 0.0
        """The highest rate that it has kept up while it climbed."""
        self.high = float("inf")
        """The lowest rate that was too much for it then."""

    def note(self, rate: float, *, held: bool) -> None:
        """A step of the climb. Where two contradict each other the newer one stands."""
        if held:
            self.low = max(self.low, rate)
            if self.high <= rate:
                self.high = float("inf")
        else:
            self.high = min(self.high, rate)
            if self.low >= rate:
                self.low = 0.0


class Result(msgspec.Struct, frozen=True):
    """What is known of one configuration at the end."""

    configuration: Configuration
    rate: float
    """The highest Poisson rate within the SLO, requests a second; 0: not measured, or none."""
    goodput_per_s: float
    reason: str
    """Why it was not measured, or not further; empty for those that came to the end."""
    probes: tuple[Probe, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """What came of a search. `notes`: what else a person should know, a sentence each."""

    slo: Slo
    chosen: Configuration
    rate: float
    goodput_per_s: float
    results: tuple[Result, ...]
    generator_limited: bool
    notes: tuple[str, ...]
    spent_s: float
    """Seconds of measuring, those of interrupted runs included."""
    unconfirmed: str = ""
    """Why the rate is one that no longer probe has confirmed; empty: one has."""
