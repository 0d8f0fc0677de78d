"""When would a new item be answered, were it let in now?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RATE_HORIZON_MIN_S: Final = 0.02
HORIZON_BATCHES: Final = 1.0


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

        `rows_per_s` is what the instances can do. An item is overtaken only by what comes within `ageing_s` a level.
        """
        load = 0.0
        for above in range(level):
            load += self._rates[above].rows_per_s / rows_per_s
        if load <= 0:
            return wait_s
        longest = wait_s + load * level * ageing_s
        return longest if load >= 1 else min(longest, wait_s / (1 - load))
