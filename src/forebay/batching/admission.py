"""When would a new item be answered, were it let in now?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from forebay.batching.fit import length_cell
from forebay.batching.item import Item

RATE_HORIZON_MIN_S: Final = 0.02
HORIZON_BATCHES: Final = 1.0
BROKEN_SHARE: Final = 0.003
"""Share of the rows let in that may miss their deadline before the forecasts become more careful."""
MARGIN_STEP: Final = 0.05
MARGIN_MAX: Final = 0.25
"""Bounds of the addition to a forecast, as a share of the waiting time."""
LENGTH_BROKEN_SHARE: Final = 0.01
LENGTH_STEP: Final = 0.5
LENGTH_MARGIN: Final = 0.5
LENGTH_MARGIN_MAX: Final = 3.0
"""The same where lengths vary and batches pay: by item, not by batch, and wider, because an item of a rare length waits
until nothing before it is left, while those of common lengths are taken along by batches that others lead. One step for
all that was let in before it, as TCP takes one for all losses of a round trip: the rest is no news. `LENGTH_MARGIN` is
what a class begins with."""
AT_STAKE: Final = 0.5
"""There, an answer that used up less than this share of its time says nothing: while little waits, promises are easily
kept, and what was learned in the last overload would be forgotten before the next."""


class ArrivalRate:
    """Rows a second that have lately been offered, refused ones included."""

    __slots__ = ("_seen_rows", "_since", "rows_per_s")

    def __init__(self) -> None:
        self.rows_per_s = 0.0
        self._since = 0.0
        self._seen_rows = 0

    def now(self, now: float, seen_rows: int, batch_s: float) -> float:
        """The rate, given the count of rows ever offered. Its memory is about as long as a batch."""
        elapsed = now - self._since
        if elapsed <= 0:
            return self.rows_per_s
        horizon = HORIZON_BATCHES * batch_s
        if horizon < RATE_HORIZON_MIN_S:
            horizon = RATE_HORIZON_MIN_S
        return (self.rows_per_s * horizon + seen_rows - self._seen_rows) / (horizon + elapsed)

    def update(self, now: float, seen_rows: int, batch_s: float) -> None:
        """Make the rate as of now the one that is remembered."""
        if now > self._since:
            self.rows_per_s = self.now(now, seen_rows, batch_s)
            self._since = now
            self._seen_rows = seen_rows


def batch_ahead(ahead_rows: int, rows: int, first_cap: int, limit: int) -> tuple[int, int]:
    """Which batch, from 0, an item will be in, and how many rows of that batch are known, its own included.

    The next batch holds at most `first_cap` rows (a deadline in it may keep it small), later ones `limit`.
    """
    if ahead_rows + rows <= first_cap or not ahead_rows:
        return 0, ahead_rows + rows
    over = max(0, ahead_rows - first_cap)
    return 1 + over // limit, over % limit + rows


def predicted_start(free_times: Sequence[float], batch: int, first_s: float, batch_s: float) -> float:
    """When batch number `batch` begins, on instances that are free at the given (sorted) instants."""
    if batch == 0:
        return free_times[0]
    count = len(free_times)
    if count == 1:
        return free_times[0] + first_s + (batch - 1) * batch_s
    return free_times[batch % count] + (batch // count) * batch_s


class Margins:
    """What is added to the forecast of a wait, learned from broken promises; for each class of lengths its own."""

    __slots__ = ("_broken_rows", "_by_cell", "_company", "_fixed", "_raised")

    def __init__(self) -> None:
        self._fixed = 0.0
        self._broken_rows = 0
        """Rows that expired since the last answer, where one addition serves for all."""
        self._company = False
        self._by_cell: dict[int, float] = {}
        self._raised: dict[int, float] = {}
        """When the addition of a class was last raised: what was let in before that is no judgement on it."""

    def expect_company(self, *, yes: bool) -> None:
        """Whether batches of some lengths pay at all: only then are some items taken along before others."""
        self._company = yes

    def of(self, length: int) -> float:
        """The addition, as a share of the wait, for an item of this length."""
        return self._by_cell.get(length_cell(length), LENGTH_MARGIN) if length and self._company else self._fixed

    def expired(self, item: Item) -> None:
        """An item was let in and is dropped as too late."""
        if item.length and self._company:
            self._learn(item, broken=True)
        else:
            self._broken_rows += item.rows

    def answered(self, items: Sequence[Item], rows: int, now: float) -> None:
        """A batch of `rows` in all was answered: those past their deadlines count as broken."""
        if items[0].length and self._company:
            for item in items:
                used = (now - item.arrived) / (item.deadline - item.arrived)
                if used > AT_STAKE:
                    self._learn(item, broken=used > 1.0)
            return
        broken = self._broken_rows
        if items[0].deadline < now:
            broken += sum(item.rows for item in items if item.deadline < now)
        share = broken / (rows + self._broken_rows)
        self._broken_rows = 0
        margin = self._fixed + MARGIN_STEP * (share - BROKEN_SHARE)
        self._fixed = 0.0 if margin < 0 else min(margin, MARGIN_MAX)

    def _learn(self, item: Item, *, broken: bool) -> None:
        cell = length_cell(item.length)
        margin = self._by_cell.get(cell, LENGTH_MARGIN)
        if not broken:
            margin -= LENGTH_STEP * LENGTH_BROKEN_SHARE
        elif item.arrived >= self._raised.get(cell, 0.0):
            margin += LENGTH_STEP
            self._raised[cell] = item.deadline
        self._by_cell[cell] = max(0.0, min(margin, LENGTH_MARGIN_MAX))


class Overtaking:
    """How fast items of the higher priorities come in, which will go ahead of lower ones that wait."""

    __slots__ = ("_admitted", "_rates")

    def __init__(self) -> None:
        self._admitted = [0, 0]
        self._rates = (ArrivalRate(), ArrivalRate())

    def admit(self, level: int, rows: int) -> None:
        """Note rows that were let in, at level 0 (high) or 1 (normal)."""
        if level < 2:
            self._admitted[level] += rows

    def update(self, now: float, batch_s: float) -> None:
        """Make the rates as of now those that are remembered."""
        for rate, admitted in zip(self._rates, self._admitted, strict=True):
            rate.update(now, admitted, batch_s)

    def delayed(self, wait_s: float, level: int, rows_per_s: float, ageing_s: float) -> float:
        """What a wait becomes for an item of a level when those above it come in meanwhile and go first.

        `rows_per_s` is what the instances can do. An item is overtaken only by what comes within `ageing_s` a level;
        no more than they can do is let in for long, however fast it came in the last moment.
        """
        load = 0.0
        for above in range(level):
            load += self._rates[above].rows_per_s / rows_per_s
        if load <= 0:
            return wait_s
        longest = wait_s + min(load, 1.0) * level * ageing_s
        return longest if load >= 1 else min(longest, wait_s / (1 - load))
