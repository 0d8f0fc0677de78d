"""How long a batch takes, by rows and padded length, learned from what the instances measured.

Observations are kept as a few cells (rows x length, both on a geometric grid), each the running mean of what fell into
it. Where lengths vary, one smooth surface through the cells answers. For a fixed shape two predictors are built:
straight lines from cell to cell, and one line through all. Both are judged on new observations before these are
learned; the one that has been nearer lately answers.

How fast the machine is just now (its neighbours, its clock, its temperature) is one factor for all sizes, the pace: how
the latest batches compare with the means of their own cells. A slow spell moves every prediction at once and leaves the
shape alone; what lasts goes over into the cells that are run, and the pace comes back to 1.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Any, Final

from forebay.batching.fit import ROW_EDGES, Interpolation, Line, Point, Surface, length_cell, row_cell

PRIOR_S: Final = 0.001
"""Assumed time of one row before anything was measured: small, so that nothing is refused for want of data."""
LEAST_S: Final = 1e-7
"""No batch is taken to be faster than this."""
LEARN: Final = 0.05
"""Weight of a new observation in a well-filled cell."""
REFRESH_LEAST: Final = 64
REFRESH_MOST: Final = 512
"""Curves are rebuilt after an eighth of all observations, within these bounds, where the cells are well known."""
Q95_TO_99: Final = 2.326 / 1.645
"""Ratio of the 99 % to the 95 % quantile of a normal distribution. The band is measured at 95 % and stretched, so that
a rare stall, which no batch size can help, does not shrink every batch."""
KNOWN_AFTER: Final = 4
"""Observations after which a cell can tell whether the machine has become slower."""
PACE_WEIGHT: Final = 0.08
PACE_STEP_MOST: Final = 0.5
"""A single error counts as this much at most (natural logarithm), so that a stall is not taken for a slow machine."""
PACE_NOTED: Final = 0.1
"""Predictions follow the pace in steps of so much (natural logarithm)."""
APART: Final = 16
"""Batches between two steps of the pace that make all curves anew, where lengths vary: a step before only scales them.
Where others work on the same cores the pace never rests, and such curves are costly."""
REACH: Final = 2.0
"""Costs of lengths up to so many times the longest measured are estimated; longer ones are taken to cost no more."""
LEAST_TABLE: Final = 16
"""Rows that the curve of a variable length reaches at least."""
NEAR_BEST: Final = 0.1
"""Rows cost "nearly as little" up to this share above the least."""
NEAR: Final = 0.7
"""Lengths from this share of a length upwards tell how many of its rows may share a batch."""


class Curve:
    """Expected seconds for 0, 1, 2, ... rows of one length, never falling, and the best batch size on it."""

    __slots__ = ("best_rows", "enough_rows", "seconds", "unit_s")

    def __init__(self, seconds: list[float], known_rows: int) -> None:
        """`known_rows`: so many rows have been measured, or are near enough to what has been."""
        self.seconds = seconds
        per_row = [value / rows for rows, value in enumerate(seconds[: known_rows + 1]) if rows]
        self.unit_s = min(per_row)
        """Seconds a row at `best_rows`."""
        level = self.unit_s * (1 + 1e-9)
        self.best_rows = next(rows for rows in range(len(per_row), 0, -1) if per_row[rows - 1] <= level)
        """The most rows at which a row costs least; beyond it a row costs more than it saves."""
        near = self.unit_s * (1 + NEAR_BEST)
        self.enough_rows = next(rows for rows, cost in enumerate(per_row, 1) if cost <= near)
        """The fewest rows at which a row costs nearly as little."""

    def rows_within(self, seconds: float) -> int:
        """The most rows that take at most `seconds`; 0 if not even one does."""
        return bisect_right(self.seconds, seconds, 1) - 1

    def scale(self, factor: float) -> None:
        """Every size takes so much longer."""
        self.seconds = [value * factor for value in self.seconds]
        self.unit_s *= factor


class LatencyModel:
    """Predicts and learns batch times. Lengths are rounded up to about 3 % for the lookup."""

    __slots__ = (
        "_band_log",
        "_cells",
        "_curves",
        "_errors",
        "_farthest",
        "_grid",
        "_line",
        "_pace_log",
        "_surface",
        "_unseen",
        "band",
        "max_rows",
        "observations",
        "pace",
        "version",
    )

    def __init__(self, max_rows: int = 256) -> None:
        self.max_rows = max_rows
        """Curves are tabulated up to here; larger batches are computed on the spot."""
        self.observations = 0
        self.version = 0
        """Changes when predictions change."""
        self.pace = 1.0
        """How much longer than in the cells a batch of any size takes just now."""
        self._cells: dict[tuple[int, int], Point] = {}
        self._curves: dict[int, Curve] = {}
        self._grid = Interpolation([])
        self._line = Line([])
        self._surface: Surface | None = None
        self._errors = [0.0, 0.0]
        self._unseen = 0
        self._farthest = sys.maxsize
        self._pace_log = 0.0
        self._band_log = 0.05
        self.band = math.exp(self._band_log * Q95_TO_99)
        """Factor from the expected time to its 99 % quantile."""

    def tabulate_to(self, rows: int) -> None:
        """Make sure that curves reach `rows`."""
        if rows > self.max_rows:
            self.max_rows = rows
            self._curves.clear()
            self.version += 1

    def curve(self, length: int, rows: int = 0) -> Curve:
        """The tabulated costs at a length, at least for as many rows as may be run or tried; for `rows` too, where that
        is not more than `max_rows`."""
        # Far beyond what was measured nothing is known: an estimate in proportion would refuse requests for no reason.
        length = min(length, self._farthest)
        key = length if length < 64 else round_length(length)
        curve = self._curves.get(key)
        if curve is None or len(curve.seconds) <= rows <= self.max_rows:
            if len(self._curves) > 512:
                self._curves.clear()
            known_rows = self._known_rows(key)
            # Curves of many lengths are made anew while requests wait: short ones are enough for nearly all of them.
            end = max(LEAST_TABLE, 2 * known_rows)
            if self._surface is None or end < rows:
                end = self.max_rows
            curve = self._curves[key] = Curve(self._tabulate(key, min(end, self.max_rows)), known_rows)
        return curve

    def predict(self, rows: int, length: int = 0) -> float:
        """Expected seconds of a batch."""
        seconds = self.curve(length, rows).seconds
        if rows < len(seconds):
            return seconds[rows]
        longest = seconds[-1]
        if not self._cells:
            return longest
        return max(longest, self.pace * self._predictor().predict(rows, min(length, self._farthest)))

    def predict99(self, rows: int, length: int = 0) -> float:
        """Seconds that a batch exceeds about one time in a hundred, rare stalls apart."""
        return self.predict(rows, length) * self.band

    def batches_pay(self) -> bool:
        """Whether at any of the lengths measured a batch is cheaper than its rows one by one."""
        return any(self.curve(round(length)).best_rows > 1 for length in {p.length for p in self._cells.values()})

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Learn from one batch that took `seconds` of computing."""
        if not (rows >= 1 and math.isfinite(seconds)):
            return
        if seconds < LEAST_S:
            seconds = LEAST_S
        self.observations += 1
        key = (bisect_left(ROW_EDGES, rows), length_cell(length) if length else 0)
        cell = self._cells.get(key)
        if cell is None:
            # The first look at a new place says nothing about noise.
            self._cells[key] = Point(rows, length, max(LEAST_S, seconds / self.pace), 1)
            self._refresh()
            return
        self._judge(rows, length, seconds)
        # Pace and cells move against each other: what one gives up the other has taken over, so both count at once.
        before = self.pace
        noted = cell.count >= KNOWN_AFTER and self._learn_pace(cell, rows, length, seconds)
        cell.learn(rows, length, seconds, LEARN)
        self._unseen += 1
        cheap = self._surface is None or self._unseen >= APART
        enough = min(REFRESH_MOST, max(REFRESH_LEAST, self.observations // 8))
        if cell.count <= 4 or (noted and cheap) or self._unseen >= enough:
            self._refresh()
        elif noted:
            for curve in self._curves.values():
                curve.scale(self.pace / before)
            self.version += 1

    def _judge(self, rows: int, length: int, seconds: float) -> None:
        """Score the band, and at times both predictors of a fixed shape, on an observation that they have not seen."""
        residual = math.log(seconds / self.predict(rows, length))
        band_log = self._band_log
        step = 0.2 * band_log + 0.0005
        band_log += 0.95 * step if residual > band_log else -0.05 * step
        self._band_log = band_log = 0.5 if band_log > 0.5 else 0.002 if band_log < 0.002 else band_log
        self.band = math.exp(band_log * Q95_TO_99)
        if self._surface is None and (self.observations < 64 or not self.observations % 8):
            for index, guess in enumerate((self._grid.predict(rows, length), self._line.predict(rows, length))):
                miss = min(1.0, abs(math.log(seconds / max(guess * self.pace, 1e-9))))
                self._errors[index] += 0.05 * (miss - self._errors[index])

    def _learn_pace(self, cell: Point, rows: int, length: int, seconds: float) -> bool:
        """Compare an observation with what its own cell has seen, so that an error of shape is not taken for speed.
        Returns whether the pace has changed enough to be noted."""
        expected = cell.seconds
        if rows != cell.rows or length != cell.length:
            expected *= self.predict(rows, length) / self.predict(round(cell.rows), round(cell.length))
        step = math.log(seconds / expected) - self._pace_log
        step = PACE_STEP_MOST if step > PACE_STEP_MOST else max(step, -PACE_STEP_MOST)
        self._pace_log = pace_log = self._pace_log + PACE_WEIGHT * step
        if -PACE_NOTED < pace_log - math.log(self.pace) < PACE_NOTED:
            return False
        self.pace = math.exp(pace_log)
        return True

    def _refresh(self) -> None:
        points = list(self._cells.values())
        if any(point.length for point in points):
            self._surface = Surface(points)
        else:
            self._grid, self._line = Interpolation(points), Line(points)
        self._curves.clear()
        self._unseen = 0
        self._farthest = int(REACH * max((point.length for point in points), default=0.0)) or sys.maxsize
        self.version += 1

    def _predictor(self) -> Interpolation | Line | Surface:
        if self._surface is not None:
            return self._surface
        grid_miss, line_miss = self._errors
        return self._line if line_miss < grid_miss else self._grid

    def _tabulate(self, length: int, end: int) -> list[float]:
        """Seconds for 0, 1, ... `end` rows at the present pace, never falling."""
        if not self._cells:
            return [PRIOR_S * (0.8 + 0.2 * rows) for rows in range(end + 1)]
        seconds = self._predictor().tabulate(end, length)
        seconds[0] = 0.0
        pace = self.pace
        return list(accumulate((pace * value if value > 1e-7 else 1e-7 for value in seconds), max))

    def _known_rows(self, length: int) -> int:
        """Twice the most rows that were measured at about this length or above. Costs often rise faster than rows, so
        a batch many times larger than any that was tried is no saving that could be counted on."""
        if not self._cells:
            return self.max_rows
        most = max((point.rows for point in self._cells.values() if point.length >= NEAR * length), default=0.5)
        return max(1, min(self.max_rows, int(2 * most)))

    def change_since(self, then: LatencyModel) -> tuple[float, int]:
        """How much costlier batches are than they were (natural logarithm), and from how many batches that is known.

        `then`: a copy from earlier. Sizes count by how often they have been run since.
        """
        total, batches = 0.0, 0
        for key, cell in self._cells.items():
            before = then._cells.get(key)
            since = cell.count - before.count if before is not None else 0
            if before is None or since <= KNOWN_AFTER:
                continue
            now_s = cell.seconds * self.pace
            shape = then.predict(round(cell.rows), round(cell.length)) / then.predict(
                round(before.rows), round(before.length)
            )
            total += since * math.log(now_s / (before.seconds * then.pace * shape))
            batches += since
        return (total / batches if batches else 0.0), batches

    def to_json(self) -> dict[str, Any]:
        """The measured cells, for the file that outlives the process."""
        cells = [[p.rows, p.length, p.seconds, p.count] for _, p in sorted(self._cells.items())]
        return {"format": 1, "band": self.band, "cells": cells}

    @classmethod
    def from_json(cls, data: Any, max_rows: int = 256) -> LatencyModel:
        """Rebuild from `to_json`. Raises ValueError when the data has another form."""
        model = cls(max_rows)
        try:
            if data["format"] != 1:
                raise ValueError(f"format {data['format']!r}")
            for rows, length, seconds, count in data["cells"]:
                point = Point(float(rows), float(length), float(seconds), int(count))
                if not (point.rows >= 1 and point.length >= 0 and LEAST_S <= point.seconds < 1e6 and point.count >= 1):
                    raise ValueError(f"cell {[rows, length, seconds, count]!r}")
                model._cells[row_cell(point.rows), length_cell(point.length)] = point
                model.observations += point.count
            band = float(data["band"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a table of measured costs: {error}") from None
        if not 1.0 <= band <= 3.0:
            raise ValueError(f"not a table of measured costs: band {band}")
        model._band_log = max(0.002, math.log(band) / Q95_TO_99)
        model.band = math.exp(model._band_log * Q95_TO_99)
        model._refresh()
        return model


def round_length(length: int) -> int:
    """Round up to five significant bits."""
    shift = max(0, length.bit_length() - 5)
    return -(-length >> shift) << shift
