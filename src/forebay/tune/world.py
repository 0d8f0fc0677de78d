"""Where configurations are measured, as the search sees it: it asks for looks and probes, and time passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from forebay.tune.configuration import Configuration, Group
from forebay.tune.slo import Slo


class CannotServeError(Exception):
    """A configuration does not start, or dies; the message says why."""


class Look(msgspec.Struct, frozen=True):
    """What a short look at a group tells, its largest cap being served."""

    fastest_ms: float
    """Of requests one after another."""
    idle_ms: float
    """The SLO's quantile of them."""
    saturated_per_s: float
    """Answers a second when requests come as fast as they are answered: no rate above it can be kept up."""
    predicted_per_s: Mapping[int, float] = {}
    """Cap to the highest rate within the SLO by simulation of the batcher with the costs that were measured. Only how
    they compare with each other counts. Empty where nothing can be foretold."""


class Probe(msgspec.Struct, frozen=True):
    """A short open loop at one rate."""

    rate: float
    """Requests a second, as wanted."""
    seconds: float
    sent: int
    in_time: int
    """Answered 200 within the bound."""
    refused: int
    goodput_per_s: float
    """Answers within the bound, a second."""
    quantile_ms: float | None
    """The SLO's quantile of all that was sent; None: so many were not answered that there is none."""
    lateness_ms: float
    """How much later than intended the generator sent, p99."""
    generator_busy: float
    """Of one core, 0 to 1."""
    usual_missed: float
    """Share missed in a usual part of the probe: the median over its parts, which a short stall does not move."""
    final: bool = False
    """Whether it was one of the longer ones."""

    def holds(self, slo: Slo) -> bool:
        """Whether the SLO was kept."""
        return slo.holds(self.sent, self.in_time, self.refused)


class Measures(Protocol):
    """Where configurations run. Every call may raise `CannotServeError`."""

    def look(self, group: Group, caps: Sequence[int]) -> Look:
        """Serve the largest cap; say what it does idle and saturated, and what each cap might do."""
        ...

    def probe(self, configuration: Configuration, rate: float, *, final: bool = False) -> Probe:
        """Serve it, send so many requests a second for a few seconds. final: for longer, so that a queue that grows
        slowly is seen to grow."""
        ...


class World(Measures, Protocol):
    """The same, and how long it has taken."""

    def spent_s(self) -> float:
        """Seconds of measuring so far, those of an interrupted run included."""
        ...
