"""When would a new item be answered, were it let in now?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RATE_HORIZON_MIN_S: Final = 0.02


class ArrivalRate:
    """Rows a second that have lately been offered, refused ones included."""

    __slots__ = ("_seen_rows", "_since", "rows_per_s")

    def __init__(self) -> None:
        self.rows_per_s = 0.0
        self._since = 0.0
        self._seen_rows = 0

    def update(self, now: float, seen_rows: int, batch_s: float) -> None:
        """Take in the count of rows ever offered. The memory is a few batches long."""
        elapsed = now - self._since
        if elapsed <= 0:
            return
        horizon = max(RATE_HORIZON_MIN_S, 4 * batch_s)
        weight = elapsed / (elapsed + horizon)
        self.rows_per_s += weight * ((seen_rows - self._seen_rows) / elapsed - self.rows_per_s)
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
