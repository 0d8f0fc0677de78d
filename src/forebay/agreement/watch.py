"""Whether the student still agrees with its teacher, on the traffic itself: some rows that it answered go to both.

A cumulative sum of log likelihood ratios (Page, "Continuous inspection schemes", Biometrika 1954; for such counts
Reynolds and Stoumbos, "A CUSUM chart for monitoring a proportion", 1999): it forgets good times at once, so a change is
seen after few comparisons however long all was well.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Final

FALSE_ALARM_EVERY: Final = 100_000
"""Comparisons between two alarms, at least, while disagreement is what is allowed."""
WORSE_BY: Final = 3.0
WORSE_BY_AT_LEAST: Final = 0.05
"""An alarm is for a rate that is so much above what is allowed."""
SUSPECTED_RATE: Final = 0.25
"""Share of rows that are compared while some have disagreed lately: one that is suspected is soon known."""
_WINDOW_ROWS: Final = 1000


class AgreementWatch:
    """One for each pair of models. `on_fall` is called once, with the reason, when agreement has fallen."""

    def __init__(
        self,
        allowed: float,
        *,
        shadow_rate: float,
        on_fall: Callable[[str], object] = bool,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """allowed: disagreement among rows that the student answers, 0 to 1. shadow_rate: share of them to compare."""
        good = min(max(allowed, 1e-4), 0.9)
        bad = min(max(WORSE_BY * good, good + WORSE_BY_AT_LEAST), 0.95)
        self._if_other = math.log(bad / good)
        self._if_same = math.log((1.0 - bad) / (1.0 - good))
        self._limit = math.log(FALSE_ALARM_EVERY)
        self._allowed, self._shadow_rate = allowed, shadow_rate
        self._on_fall, self._draw = on_fall, draw
        self._sum = 0.0
        self._lately: deque[bool] = deque(maxlen=_WINDOW_ROWS)
        self.compared = 0
        """Rows since the start."""
        self.disagreed = 0
        self.fallen = ""
        """Why the student is asked no longer; empty while it is."""

    def wants(self) -> bool:
        """Whether a row that the student answers is one to compare."""
        if self.fallen or not self._shadow_rate:
            return False
        rate = max(self._shadow_rate, SUSPECTED_RATE) if self._sum > 0.0 else self._shadow_rate
        return self._draw() < rate

    @property
    def agreement(self) -> float | None:
        """Among the last 1,000 rows compared; None before the first."""
        return 1.0 - sum(self._lately) / len(self._lately) if self._lately else None

    def record(self, agrees: bool) -> None:
        """What a comparison said. Runs that failed are not recorded: they say nothing of the answer."""
        self.compared += 1
        self.disagreed += not agrees
        self._lately.append(not agrees)
        self._sum = max(0.0, self._sum + (self._if_same if agrees else self._if_other))
        if self._sum >= self._limit and not self.fallen:
            wrong, rows = sum(self._lately), len(self._lately)
            self.fallen = (
                f"of the last {rows} rows compared it answered {wrong} otherwise than the larger model; "
                f"{self._allowed:.2%} were expected"
            )
            self._on_fall(self.fallen)
