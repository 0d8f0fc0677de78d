"""Finding the guilty requests of a failed batch by halving. Pure: it says what to run next, the engine runs it.

A failed batch is halved until the guilty stand alone. Where both first halves fail, either several requests are guilty
or the model itself is broken: four requests are then tried alone, and if all four fail the model is blamed, so that a
broken model does not cost a run for each request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

PROBES = 4


class Group(Generic[T]):
    """Requests of one failed batch that are to run together, and with nobody else."""

    __slots__ = ("deaths", "isolation", "items", "stage")

    def __init__(self, isolation: Isolation[T], items: list[T], stage: str, *, deaths: int = 0) -> None:
        self.isolation = isolation
        self.items = items
        self.stage = stage  # "half" (one of the first two), "probe", or "part"
        self.deaths = deaths
        """How often a process has died while it ran this very group."""


class Verdict(Generic[T]):
    """What follows from one group's outcome: groups to run next, and requests to fail now."""

    __slots__ = ("blamed", "model_blamed", "run")

    def __init__(self, run: list[Group[T]], blamed: list[T], model_blamed: bool = False) -> None:
        self.run = run
        self.blamed = blamed
        self.model_blamed = model_blamed


class Isolation(Generic[T]):
    """The search through one failed batch. `failures` counts failed runs, the first one included."""

    def __init__(self, items: Sequence[T], cause: Exception | None = None) -> None:
        self.failures = 1
        self._items = list(items)
        self._causes: dict[int, Exception | None] = dict.fromkeys(map(id, items), cause)
        self._failed_halves: list[list[T]] = []
        self._halves_out = 0
        self._probes_out = 0
        self._probe_succeeded = False
        self._suspects: list[T] = []

    def begin(self) -> Verdict[T]:
        """After the batch's own failure."""
        if len(self._items) == 1:
            return Verdict([], self._items)
        middle = len(self._items) // 2
        self._halves_out = 2
        return Verdict([Group(self, self._items[:middle], "half"), Group(self, self._items[middle:], "half")], [])

    def cause_of(self, item: T) -> Exception | None:
        """Why the last run that this item was part of failed, if it did and somebody told."""
        return self._causes[id(item)]

    def outcome(self, group: Group[T], ok: bool, cause: Exception | None = None) -> Verdict[T]:
        """After a group ran. A group that succeeded has been answered by the engine."""
        if not ok:
            self.failures += 1
            self._causes.update(dict.fromkeys(map(id, group.items), cause))
        if group.stage == "half":
            return self._half(group, ok)
        if group.stage == "probe":
            return self._probe(group, ok)
        return Verdict([], []) if ok else self._split(group.items)

    def _half(self, group: Group[T], ok: bool) -> Verdict[T]:
        self._halves_out -= 1
        if not ok:
            self._failed_halves.append(group.items)
        if self._halves_out or not self._failed_halves:
            return Verdict([], [])
        if len(self._failed_halves) == 1:
            return self._split(self._failed_halves[0])
        everyone = [item for half in self._failed_halves for item in half]
        singles = [half[0] for half in self._failed_halves if len(half) == 1]
        if len(everyone) <= PROBES:
            # So few that trying each alone is the search itself; a half of one has been tried alone already.
            rest = [item for item in everyone if not any(item is single for single in singles)]
            return Verdict([Group(self, [item], "part") for item in rest], singles)
        step = len(everyone) / PROBES
        probes = [everyone[int(i * step)] for i in range(PROBES)]
        self._suspects = [item for item in everyone if not any(item is probe for probe in probes)]
        self._probes_out = PROBES
        return Verdict([Group(self, [probe], "probe") for probe in probes], [])

    def _probe(self, group: Group[T], ok: bool) -> Verdict[T]:
        self._probes_out -= 1
        self._probe_succeeded |= ok
        blamed = [] if ok else group.items
        if self._probes_out:
            return Verdict([], blamed)
        if not self._probe_succeeded:
            return Verdict([], [*blamed, *self._suspects], model_blamed=True)
        # Nothing is known of the suspects by themselves: the guilty may all have been among the probes.
        return Verdict([Group(self, self._suspects, "part")], blamed)

    def _split(self, items: list[T]) -> Verdict[T]:
        if len(items) == 1:
            return Verdict([], items)
        middle = len(items) // 2
        return Verdict([Group(self, items[:middle], "part"), Group(self, items[middle:], "part")], [])
