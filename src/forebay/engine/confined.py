"""Keeps instances off one core while a model with long batches and one that is back at once share the machine.

The web process wakes ten thousand times a second for a moment. Where all cores run instances, it and a short batch are
mostly woken behind one: a core on which a process of low priority runs is to the kernel as busy as any. With one core
that no instance runs on it finds that one free, and the instances of all models share the others, by priority and
`Fairness`. It is what cpusets do for a fixed set of programs, for as long as it pays, and without a privilege.

That core is the one that would be held free anyway, for the web process and for who is back at once (`cores.HOLD_S`),
so it is done only where that is; and only where models with long batches keep about what their weights entitle them to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from forebay.batching.fairness import Fairness

REVIEW_S: Final = 0.25
"""How often it is looked at: to move a process costs tens of microseconds, and the caches that it had filled."""
OFTEN: Final = 5
"""A model must have been back at once so many times since it was looked at last."""
BEGINS_AT, ENDS_ABOVE = 0.45, 0.6
"""What the light models may take of the cores that are left: the rest is for those with long batches."""


class Movable(Protocol):
    """An instance, as far as it can be kept to some cores."""

    def keep_to(self, cores: frozenset[int], of: frozenset[int]) -> None: ...


class Confinement:
    """Of all instances, to all cores but the first. On the event loop."""

    def __init__(
        self,
        fairness: Fairness,
        cores: frozenset[int],
        clock: Callable[[], float],
        instances: Callable[[], Iterable[Movable]],
    ) -> None:
        """cores: those of this process, by number; fewer than two: nothing is ever done. clock: seconds. instances: all
        that there are at the moment."""
        self._fairness = fairness
        self._all = cores
        self._rest = cores - {min(cores)} if len(cores) > 1 else cores
        self._clock = clock
        self._instances = instances
        self._back = self._later = 0
        """How often a model was back at once, and how often not, since it was looked at last."""
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.on = False

    def returned(self, at_once: bool) -> None:
        """Cores became short again; `at_once`: before a hold would have ended."""
        if at_once:
            self._back += 1
        else:
            self._later += 1
        if self._timer is None and self._rest != self._all:
            self._fairness.light_enough(0.0, 0.0)  # what was used until now does not count
            self._review_later()

    def end(self) -> None:
        """All may run everywhere, until it is looked at again."""
        if self.on:
            self.on = False
            self._keep(self._all, self._rest)

    def _review_later(self) -> None:
        self._looked_at = self._clock()
        self._timer = asyncio.get_running_loop().call_later(REVIEW_S, self._review)

    def _review(self) -> None:
        self._timer = None
        back, later, self._back, self._later = self._back, self._later, 0, 0
        # One that comes at random is back at once now more, now less often than not: nothing is moved each time.
        often = back >= OFTEN and (2 * back > later if self.on else back > later)
        share = ENDS_ABOVE if self.on else BEGINS_AT
        if self._fairness.light_enough(self._clock() - self._looked_at, share) and often:
            self.on = True
            self._keep(self._rest, self._all)  # each time: some may be new
        else:
            self.end()
        if back or later:
            self._review_later()

    def _keep(self, cores: frozenset[int], of: frozenset[int]) -> None:
        for instance in self._instances():
            instance.keep_to(cores, of)
