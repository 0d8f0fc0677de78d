"""A machine whose capacities are known: what the search finds can be compared with the truth."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forebay.tune.configuration import Configuration, Group
from forebay.tune.slo import Slo
from forebay.tune.world import CannotServeError, Look, Probe

PROBE_S, LOOK_S, START_S = 3.5, 4.0, 2.0
SHORT_SIGHT = 1.05
"""So much more than its capacity a configuration seems to keep up in a short probe."""


@dataclass
class FakeMachine:
    """`capacities`: the highest rate of each configuration within the SLO. Every call takes its time on the clock."""

    capacities: Mapping[Configuration, float]
    slo: Slo
    noise: float = 0.0
    """Relative spread of a capacity from probe to probe."""
    stalls: float = 0.0
    """Share of the probes that fail by a stall, whatever their rate."""
    idle_ms: Mapping[Group, float] = field(default_factory=dict)
    """Where it is not 1 ms."""
    dead: frozenset[Configuration] = frozenset()
    foretells: bool = True
    disturbed_looks: int = 0
    """So many of the first looks see a third of what there is."""
    seed: int = 0
    now_s: float = 0.0
    probed: list[tuple[Configuration, float]] = field(default_factory=list)
    looked: list[Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._up: set[Configuration] = set()

    def clock(self) -> float:
        """Seconds."""
        return self.now_s

    def spent_s(self) -> float:
        """See `World`."""
        return self.now_s

    def look(self, group: Group, caps: Sequence[int]) -> Look:
        """See `World`."""
        self.now_s += LOOK_S
        self.looked.append(group)
        configurations = [group.with_cap(rows) for rows in caps]
        if set(configurations) <= self.dead:
            raise CannotServeError("it does not load")
        own = {one.max_batch_rows: self.capacities[one] for one in configurations}
        idle_ms = self.idle_ms.get(group, 1.0)
        disturbed = 3.0 if len(self.looked) <= self.disturbed_looks else 1.0
        spread = disturbed * (1 + self.noise * abs(self._random.gauss(0, 1)))
        return Look(idle_ms, 1.5 * idle_ms, 1.3 * max(own.values()) / spread, own if self.foretells else {})

    def probe(self, configuration: Configuration, rate: float, *, final: bool = False) -> Probe:
        """See `World`."""
        if configuration not in self._up:
            self.now_s += START_S
            self._up.add(configuration)
        self.now_s += PROBE_S * (2.5 if final else 1.0)
        self.probed.append((configuration, rate))
        if configuration in self.dead:
            raise CannotServeError("the server ended with code 1")
        # A short probe sees less of a queue that grows.
        true = (
            self.capacities[configuration]
            * (1.0 if final else SHORT_SIGHT)
            * (1 + self.noise * self._random.gauss(0, 1))
        )
        sent = 1000
        if self._random.random() < self.stalls:
            missed, usual = 60, 0.0
        elif rate <= true:
            missed, usual = 0, 0.0
        else:
            missed, usual = min(sent, 11 + round(4 * sent * (rate / true - 1))), min(1.0, 5 * (rate / true - 1))
        return self._as_probe(rate, sent, missed, usual, final=final)

    def _as_probe(self, rate: float, sent: int, missed: int, usual: float, *, final: bool) -> Probe:
        in_time = sent - missed
        return Probe(
            rate=rate,
            seconds=sent / rate,
            sent=sent,
            in_time=in_time,
            refused=0,
            goodput_per_s=rate * in_time / sent,
            quantile_ms=self.slo.bound_ms * (0.5 if missed <= (1 - self.slo.share) * sent else 2.0),
            lateness_ms=0.1,
            generator_busy=0.2,
            usual_missed=usual,
            final=final,
        )
