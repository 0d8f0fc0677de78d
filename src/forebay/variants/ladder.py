"""Which form of a model answers now: the best, and while there is more to do than it can, a faster one.

Down soon, up late. Down: once rows have waited, for a moment, for a share of what callers are patient for. Up: once the
better form could do what comes with room to spare, for some time; longer after each time that this was too soon.
"""

from __future__ import annotations

import math
from typing import Final

DOWN_FROM: Final = 0.25
"""Share of the callers' patience that a wait may take."""
UP_BELOW: Final = 0.6
"""Share of its capacity that the better form would use."""
LONGEST_UP: Final = 8.0
"""How many times `up_after_s` it takes at most to go up, after it was too soon again and again."""
WINDOW_S: Final = 0.25
"""Over which rows are counted."""
_LEARN: Final = 0.5


class Ladder:
    """Level 0 is the best form, each next one is faster. Times are monotonic seconds, given with each call."""

    def __init__(self, levels: int, *, patience_s: float, down_after_s: float, up_after_s: float, now: float) -> None:
        """levels: how many forms there are. patience_s: how long callers wait. down_after_s, up_after_s: how long it
        takes to go down and up."""
        self.levels = levels
        self.level = 0
        self.rows_per_s = 0.0
        self._patience_s = patience_s
        self._down_after_s = down_after_s
        self._up_after_s = up_after_s
        self._window_rows = 0
        self._window_at = self._last = now
        self._busy_since = self._rested_since = math.inf
        self._went_up = -math.inf
        self._factor = 1.0

    def arrived(self, rows: int, now: float) -> None:
        """A request of so many rows has come."""
        if now - self._last >= self._up_after_s and self.level:
            self._go(0, now)  # nothing was asked for so long
        self._last = now
        self._window_rows += rows
        passed_s = now - self._window_at
        if passed_s >= WINDOW_S:
            self.rows_per_s += _LEARN * (self._window_rows / passed_s - self.rows_per_s)
            self._window_rows, self._window_at = 0, now

    def waits(self, wait_s: float, now: float) -> None:
        """So long a row would wait now at the present level; infinite: it is refused."""
        if wait_s <= DOWN_FROM * self._patience_s:
            self._busy_since = math.inf
            return
        self._rested_since = math.inf
        self._busy_since = min(self._busy_since, now)
        if now - self._busy_since >= self._down_after_s and self.level + 1 < self.levels:
            if now - self._went_up < 2 * self._up_after_s * self._factor:
                self._factor = min(2 * self._factor, LONGEST_UP)
            else:
                self._factor = 1.0
            self._go(self.level + 1, now)

    def could(self, rows_per_s: float, now: float) -> None:
        """So many rows the next better form can do. Not called at level 0."""
        if self.rows_per_s >= UP_BELOW * rows_per_s:
            self._rested_since = math.inf
            return
        self._rested_since = min(self._rested_since, now)
        if now - self._rested_since >= self._up_after_s * self._factor:
            self._went_up = now
            self._go(self.level - 1, now)

    def _go(self, level: int, now: float) -> None:
        self.level = level
        self._busy_since = self._rested_since = math.inf
