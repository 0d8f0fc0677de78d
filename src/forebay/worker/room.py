"""How many jobs of a model to hold. Pure: enough that its instances never wait, few enough that others get theirs."""

from __future__ import annotations

from typing import Final

from forebay.engine.client import EngineClient

AHEAD_S: Final = 0.05
"""Work that is held at least, by the rate at which it gets done: what passes while the next jobs are leased."""
HOLD_S: Final = 1.0
"""Work that is held at most, apart from one full batch for each instance."""
WINDOW_S: Final = 0.1
"""The rate is measured over this time, as long as there is something to do."""
WEIGHT: Final = 0.3
MOST: Final = 4096


class Room:
    """The jobs of one model that are leased here and not done."""

    __slots__ = ("_done_rows", "_rows", "_since", "jobs", "low", "nbytes", "rows_per_s")

    def __init__(self) -> None:
        self.jobs = 0
        self.low = 0
        """At or below this number more are wanted."""
        self.rows_per_s = 0.0
        """0: not known."""
        self.nbytes = 0.0
        """Of a job's body, on average."""
        self._rows = 1.0
        self._since = 0.0
        self._done_rows = 0

    def took(self, nbytes: int, now: float) -> None:
        """A job was leased, with a body of so many bytes."""
        if not self.jobs:
            self._since, self._done_rows = now, 0
        self.jobs += 1
        self.nbytes += WEIGHT * (nbytes - self.nbytes)

    def done(self, rows: int, now: float) -> None:
        """A job is no longer run here; it had so many rows (0: it was not run)."""
        self.jobs -= 1
        if not rows:
            return
        self._rows += WEIGHT * (rows - self._rows)
        self._done_rows += rows
        if now - self._since >= WINDOW_S:
            rate = self._done_rows / (now - self._since)
            self.rows_per_s += (WEIGHT if self.rows_per_s else 1.0) * (rate - self.rows_per_s)
            self._since, self._done_rows = now, 0

    def wanted(self, client: EngineClient) -> int:
        """How many more jobs to lease now."""
        batches = client.instances * max(1, client.best_rows)
        rows = max(2 * batches, self.rows_per_s * AHEAD_S)
        if self.rows_per_s:
            rows = min(rows, max(batches, 2 * client.instances, self.rows_per_s * HOLD_S))
        target = min(MOST, max(1, round(rows / max(1.0, self._rows))))
        self.low = target - max(1, target // 4)
        return target - self.jobs if self.jobs <= self.low else 0
