"""Pure: which configuration answers most within the SLO. The caller brings the world and, with it, the clock.

1. **Look** at each group of configurations that differ in the batch cap only: idle latency, and answers a second when
   saturated. A group that is too slow when idle, or saturates far below the best, is out. Of several artefacts each is
   looked at in one size first, and only those that are not far below the best in others.
2. **Foretell** the caps: the batcher's simulation, with the costs just measured, says which caps make a difference.
   Of those that make none one is enough.
3. **Climb**: the most promising one finds the highest rate at which the SLO holds; each other is asked for a little
   more than that, and only one that manages climbs itself.
4. **Finals**: the best few take longer turns at one rate, since on a shared machine only turns that follow each other
   closely can be compared. The rate rises while all hold and falls while none does.

Of configurations that are alike the one that takes least of the machine is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from forebay.core.errors import SetupError
from forebay.tune.climb import NEAR, climb, keeps_up
from forebay.tune.configuration import Configuration, Group
from forebay.tune.contender import Contender, Outcome, Result, capacity, generator_limited, goodput, unconfirmed
from forebay.tune.slo import Slo
from forebay.tune.world import CannotServeError, Look, Probe, World

ALIKE: Final = 0.02
"""Configurations that differ by less are alike."""
POOR: Final = 0.6
"""A group that saturates below this share of the best is not probed."""
MOST_CONTENDERS: Final = 5
MOST_FINALISTS: Final = 3
START: Final = 0.75
"""Of its ceiling: where the first climb begins. Queues that keep an SLO need room."""
ROOM: Final = 2.0
"""Foretold rates above so many times the saturated one are all alike: something else is the limit there."""
ROUNDS: Final = 3
MOST_ROUNDS: Final = 8
"""Where the best one has held in none of so many."""
ALONE: Final = 2
"""Rounds of a finalist that has nobody to compare with."""
FINAL_UP: Final = 1.04
FINAL_DOWN: Final = 0.95
LOOK_TIME: Final = 0.5
"""Share of the time that looks may take; groups not looked at by then are left out."""

Tell = Callable[[str], None]


class _TimeIsUpError(Exception):
    pass


def search(configurations: Sequence[Configuration], slo: Slo, world: World, most_s: float, tell: Tell) -> Outcome:
    """The best configuration, found within about `most_s` seconds of measuring.

    tell: hears a line for each thing that was found out.

    Raises `SetupError`: `slo_unreachable` where none keeps the SLO, `model_load_error` where none can be served.
    """
    return _Search(configurations, slo, world, most_s, tell).run()


class _Search:
    def __init__(
        self, configurations: Sequence[Configuration], slo: Slo, world: World, most_s: float, tell: Tell
    ) -> None:
        self._configurations = configurations
        self._slo, self._world, self._most_s, self._tell = slo, world, most_s, tell
        self._contenders: list[Contender] = []
        self._finalists: list[Contender] = []
        self._best: Contender | None = None
        self._left_out: dict[Configuration, str] = {}
        self._notes: list[str] = []
        self._unseen: list[str] = []
        self._twice: set[Group] = set()

    def run(self) -> Outcome:
        looks = self._look_at_all()
        self._contenders = self._entrants(looks)
        try:
            self._race()
            self._finals()
        except _TimeIsUpError:
            self._notes.append(f"time ran out after {self._world.spent_s():.0f} s: give more with --max-time")
        return self._outcome(min(look.fastest_ms for look in looks.values()))

    # -- looks -------------------------------------------------------------------------------------------------------

    def _look_at_all(self) -> dict[Group, Look]:
        """First at every artefact in one size: one that is poor there is not looked at in others."""
        caps: dict[Group, list[int]] = {}
        for one in self._configurations:
            caps.setdefault(one.group, []).append(one.max_batch_rows)
        first: dict[str, Group] = {}
        for group in caps:
            first.setdefault(group.artefact, group)
        looks: dict[Group, Look] = {}
        failures: list[str] = []
        for groups in (list(first.values()), [group for group in caps if group not in first.values()]):
            best = max((look.saturated_per_s for look in looks.values()), default=0.0)
            for group in groups:
                usual = looks.get(first[group.artefact])
                if len(first) > 1 and usual is not None and usual.saturated_per_s < POOR * best:
                    share = usual.saturated_per_s / best
                    self._leave_out(group, f"{first[group.artefact].size} saturates at {share:.0%} of the best")
                else:
                    self._look_at(group, caps[group], looks, failures)
            self._look_again(looks, caps)
        if self._unseen:
            self._notes.append(f"not looked at: {', '.join(self._unseen)}; give more time with --max-time")
        if not looks:
            raise SetupError("no configuration can be served: " + "; ".join(failures), code="model_load_error")
        fastest_ms = min(look.fastest_ms for look in looks.values())
        if all(look.idle_ms > self._slo.bound_ms for look in looks.values()) and fastest_ms > self._slo.bound_ms:
            raise self._unreachable(fastest_ms)
        return looks

    def _look_at(self, group: Group, rows: Sequence[int], looks: dict[Group, Look], failures: list[str]) -> None:
        name = f"{group.artefact} {group.size}"
        if looks and self._world.spent_s() > LOOK_TIME * self._most_s:
            self._leave_out(group, "not looked at: time ran out")
            self._unseen.append(name)
            return
        try:
            look = looks[group] = self._world.look(group, rows)
        except CannotServeError as error:
            failures.append(f"{name}: {error}")
            self._leave_out(group, f"cannot be served: {error}")
            self._tell(f"{name}: cannot be served: {error}")
            return
        self._tell_look(group, look)

    def _look_again(self, looks: dict[Group, Look], caps: Mapping[Group, Sequence[int]]) -> None:
        """A second look at those that would be out for what the first one saw: the machine may have been busy."""
        best = max((look.saturated_per_s for look in looks.values()), default=0.0)
        for group, first in list(looks.items()):
            if first.saturated_per_s >= POOR * best or group in self._twice:
                continue
            if self._world.spent_s() > LOOK_TIME * self._most_s:
                continue
            self._twice.add(group)
            try:
                second = self._world.look(group, caps[group])
            except CannotServeError:
                continue
            self._tell_look(group, second)
            looks[group] = max(first, second, key=lambda look: look.saturated_per_s)

    def _tell_look(self, group: Group, look: Look) -> None:
        self._tell(
            f"{group.artefact} {group.size}: idle {self._slo.percentile} {look.idle_ms:.2f} ms, "
            f"saturated {look.saturated_per_s:,.0f}/s" + _foretold(look)
        )

    def _entrants(self, looks: Mapping[Group, Look]) -> list[Contender]:
        """Those worth probing, the most promising first."""
        entrants: list[Contender] = []
        # A single slow answer among the idle ones is no verdict, so the fastest decides.
        able = {group: look for group, look in looks.items() if look.fastest_ms <= self._slo.bound_ms}
        for group in looks.keys() - able.keys():
            self._leave_out(group, f"its fastest answer takes {looks[group].fastest_ms:.1f} ms")
        best = max(look.saturated_per_s for look in able.values())
        for group, look in able.items():
            if look.saturated_per_s < POOR * best:
                self._leave_out(group, f"saturates at {look.saturated_per_s / best:.0%} of the best")
                continue
            entrants += self._of_group(group, look)
        entrants.sort(key=lambda one: (-one.ceiling, one.configuration.cost, -one.configuration.max_batch_rows))
        for one in entrants[MOST_CONTENDERS:]:
            self._left_out[one.configuration] = "behind the others, foretold"
        return entrants[:MOST_CONTENDERS]

    def _of_group(self, group: Group, look: Look) -> list[Contender]:
        """One of each set of caps that are foretold to be alike, the largest: it leaves most to the batcher."""
        caps = sorted((c.max_batch_rows for c in self._configurations if c.group == group), reverse=True)
        foretold = {rows: min(rate, ROOM * look.saturated_per_s) for rows, rate in look.predicted_per_s.items()}
        most = max(foretold.values(), default=0.0)
        taken: list[tuple[float, int]] = []
        for rows in caps:
            share = foretold[rows] / most if most and rows in foretold else 1.0
            like = next((cap for other, cap in taken if abs(share - other) <= ALIKE), None)
            if like is not None:
                self._left_out[group.with_cap(rows)] = f"as good as cap {like}, foretold"
            elif share < POOR:
                self._left_out[group.with_cap(rows)] = f"{share:.0%} of the best cap, foretold"
            else:
                taken.append((share, rows))
        return [Contender(group.with_cap(rows), look, share * look.saturated_per_s) for share, rows in taken]

    def _leave_out(self, group: Group, reason: str) -> None:
        self._left_out.update({one: reason for one in self._configurations if one.group == group})

    # -- race --------------------------------------------------------------------------------------------------------

    def _race(self) -> None:
        for contender in self._contenders:
            try:
                if self._best is None:
                    climb(contender, START * contender.ceiling, self._holds)
                    if contender.low > 0:
                        self._best = contender
                        self._finalists.append(contender)
                    else:
                        contender.reason = f"keeps {self._slo} at no rate"
                else:
                    self._challenge(contender, self._best)
            except CannotServeError as error:
                contender.reason = f"failed: {error}"
                self._tell(f"{contender.configuration}: failed: {error}")

    def _challenge(self, contender: Contender, best: Contender) -> None:
        """Ask for a little more than the best keeps up; of one that takes less of the machine, for nearly as much."""
        cheaper = contender.configuration.cost < best.configuration.cost
        rate = best.low * ((1 - ALIKE) if cheaper else (1 + ALIKE))
        if not self._holds(contender, rate):
            contender.note(rate, held=False)
            # The machine may be slower than it was when the best one climbed.
            if self._holds(best, rate if cheaper else best.low):
                contender.reason = f"does not keep up {rate:,.1f}/s"
                return
            self._finalists.append(contender)
            return
        contender.note(rate, held=True)
        self._finalists.append(contender)
        climb(contender, rate * NEAR, self._holds)
        if contender.low > best.low:
            self._best = contender

    def _holds(self, contender: Contender, rate: float) -> bool:
        return keeps_up(lambda: self._probe(contender, rate), self._slo)

    def _probe(self, contender: Contender, rate: float, *, final: bool = False) -> Probe:
        # Nothing is chosen before something has held: that much is measured however long it takes.
        if any(one.low for one in self._contenders) and self._world.spent_s() >= self._most_s:
            raise _TimeIsUpError
        probe = self._world.probe(contender.configuration, rate, final=final)
        contender.probes.append(probe)
        held = "holds" if probe.holds(self._slo) else "fails"
        quantile = "unanswered" if probe.quantile_ms is None else f"{probe.quantile_ms:.1f} ms"
        self._tell(
            f"{contender.configuration}: {rate:,.1f}/s {held}, {self._slo.percentile} {quantile}, "
            f"{probe.goodput_per_s:,.1f}/s in time (generator {probe.generator_busy:.0%} busy)"
        )
        return probe

    # -- finals ------------------------------------------------------------------------------------------------------

    def _finals(self) -> None:
        if self._best is None:
            return
        best = self._best
        others = sorted((one for one in self._finalists if one is not best), key=lambda one: -one.low)
        for one in others[MOST_FINALISTS - 1 :]:
            one.reason = "behind those that came to the finals"
        finalists = [best, *others[: MOST_FINALISTS - 1]]
        rate = best.low
        rounds = ROUNDS if len(finalists) > 1 else ALONE
        for number in range(MOST_ROUNDS):
            # Forwards and backwards in turns: what comes later in a round has no lasting advantage.
            held = []
            for one in list(finalists) if number % 2 == 0 else list(reversed(finalists)):
                try:
                    held.append(self._probe(one, rate, final=True).holds(self._slo))
                except CannotServeError as error:
                    one.reason = f"failed: {error}"
                    finalists.remove(one)
            if not finalists or (number + 1 >= rounds and any(p.final and p.holds(self._slo) for p in best.probes)):
                return
            rate *= FINAL_UP if all(held) else 1.0 if any(held) else FINAL_DOWN

    # -- outcome -----------------------------------------------------------------------------------------------------

    def _outcome(self, fastest_ms: float) -> Outcome:
        slo = self._slo
        # One that died is not chosen, however fast it was.
        able = [one for one in self._contenders if capacity(one.probes, slo) > 0 and "failed" not in one.reason]
        if not able:
            raise self._unreachable(fastest_ms)
        # What a short probe has seen is not compared with what a longer one has.
        able = [one for one in able if any(probe.final and probe.holds(slo) for probe in one.probes)] or able
        most = max(capacity(one.probes, slo) for one in able)
        alike = [one for one in able if capacity(one.probes, slo) >= (1 - ALIKE) * most]
        chosen = min(alike, key=lambda one: (one.configuration.cost, -capacity(one.probes, slo)))
        probed = {one.configuration: one for one in self._contenders}
        return Outcome(
            slo=slo,
            chosen=chosen.configuration,
            rate=capacity(chosen.probes, slo),
            goodput_per_s=goodput(chosen.probes, slo),
            results=tuple(self._result(one, probed.get(one)) for one in self._configurations),
            generator_limited=generator_limited(chosen.probes, slo),
            notes=tuple(self._notes),
            spent_s=self._world.spent_s(),
            unconfirmed=unconfirmed(chosen.probes, slo),
        )

    def _result(self, configuration: Configuration, contender: Contender | None) -> Result:
        if contender is None:
            return Result(configuration, 0.0, 0.0, self._left_out.get(configuration, "time ran out"))
        probes = contender.probes
        reason = contender.reason if probes else contender.reason or "time ran out"
        return Result(configuration, capacity(probes, self._slo), goodput(probes, self._slo), reason, tuple(probes))

    def _unreachable(self, fastest_ms: float) -> SetupError:
        return SetupError(
            f"no configuration keeps {self._slo}: the fastest answer, from an idle server, took {fastest_ms:.2f} ms; "
            "allow more, such as "
            f"--slo {self._slo.percentile}={math.ceil(max(2 * fastest_ms, 1.25 * self._slo.bound_ms)):g}ms, "
            "or make the model faster",
            code="slo_unreachable",
        )


def _foretold(look: Look) -> str:
    rates = ", ".join(f"{rows}: {rate:,.0f}" for rows, rate in sorted(look.predicted_per_s.items()))
    return f"; by simulation, without what HTTP costs, cap to rate: {rates}" if rates else ""
