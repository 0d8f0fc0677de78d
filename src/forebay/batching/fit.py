"""Two predictors over measured points: interpolation between them, and a smooth least-squares fit."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

OPTIMISM: Final = 0.2
"""Assumed cost of a further row, as a share of one row alone, while only one batch size was measured."""
TRUST_AFTER: Final = 10
RIDGE: Final = 1e-6


class Point:
    """The running mean of the observations in one cell of rows x length."""

    __slots__ = ("count", "length", "rows", "seconds")

    def __init__(self, rows: float, length: float, seconds: float, count: int) -> None:
        self.rows = rows
        self.length = length
        self.seconds = seconds
        self.count = count

    def learn(self, rows: float, length: float, seconds: float, least: float) -> None:
        """Move towards a new observation; its weight is 1/n at first and never below `least`.

        While there are few, one far below the mean replaces it: what disturbs a measurement makes it longer.
        """
        if self.count <= TRUST_AFTER and seconds < 0.5 * self.seconds:
            self.count = 0
        self.count += 1
        weight = max(1 / self.count, least)
        self.rows += weight * (rows - self.rows)
        self.length += weight * (length - self.length)
        self.seconds += weight * (seconds - self.seconds)


class Interpolation:
    """Straight lines between the points: first by rows within each length, then by length."""

    __slots__ = ("_lengths", "_lines", "_tables")

    def __init__(self, points: Sequence[Point]) -> None:
        groups: dict[int, dict[float, Point]] = {}
        for point in points:
            groups.setdefault(length_cell(point.length), {})[point.rows] = point
        rows_of = [sorted(groups[cell].values(), key=lambda p: p.rows) for cell in sorted(groups)]
        self._lengths = [sum(p.length for p in group) / len(group) for group in rows_of]
        self._tables: dict[int, list[float]] = {}
        self._lines = [([p.rows for p in group], [p.seconds for p in group]) for group in rows_of]

    def predict(self, rows: float, length: float) -> float:
        """Seconds; 0 when there are no points."""
        lengths = self._lengths
        if not lengths:
            return 0.0
        at = bisect_right(lengths, length)
        if at == 0:
            return self._along(0, rows)
        if at == len(lengths):
            last = self._along(at - 1, rows)
            # Beyond the longest seen: at least in proportion, the better guess for padded rows.
            return last * (length / lengths[-1]) if lengths[-1] > 0 else last
        share = (length - lengths[at - 1]) / (lengths[at] - lengths[at - 1])
        return self._along(at - 1, rows) * (1 - share) + self._along(at, rows) * share

    def tabulate(self, max_rows: int, length: float) -> list[float]:
        """`predict` for 0, 1, ... `max_rows` rows, faster than one by one."""
        lengths = self._lengths
        at = bisect_right(lengths, length)
        if at == 0 or at == len(lengths):
            line = self._line(max(0, at - 1), max_rows)
            factor = length / lengths[-1] if at and lengths[-1] > 0 else 1.0
            return line if factor == 1.0 else [seconds * factor for seconds in line]
        share = (length - lengths[at - 1]) / (lengths[at] - lengths[at - 1])
        pairs = zip(self._line(at - 1, max_rows), self._line(at, max_rows), strict=True)
        return [low * (1 - share) + high * share for low, high in pairs]

    def _line(self, index: int, max_rows: int) -> list[float]:
        known = self._tables.get(index)
        if known is None or len(known) != max_rows + 1:
            known = self._tables[index] = _tabulate(*self._lines[index], max_rows)
        return known

    def _along(self, index: int, rows: float) -> float:
        return _polyline(*self._lines[index], rows)


class Fit:
    """Least squares of relative error. A fixed shape: a line by rows. Else for each measured number of rows a
    quadratic in the length, and straight lines between those."""

    __slots__ = ("_line", "_longest", "_rows", "_shapes", "_shortest")

    def __init__(self, points: Sequence[Point]) -> None:
        self._line: list[float] = []
        self._rows: list[float] = []
        self._shapes: list[list[float]] = []
        self._shortest = min((p.length for p in points), default=0.0)
        self._longest = max((p.length for p in points), default=0.0)
        if all(point.length <= 0 for point in points):
            if len(points) >= 2:
                self._line = _least_squares([((1.0, p.rows), p) for p in points])
            return
        groups: dict[int, list[Point]] = {}
        for point in points:
            groups.setdefault(row_cell(point.rows), []).append(point)
        for cell in sorted(groups):
            group = groups[cell]
            shape = _least_squares([((1.0, p.length, p.length * p.length), p) for p in group]) if len(group) > 3 else []
            if shape:
                self._rows.append(sum(p.rows * p.count for p in group) / sum(p.count for p in group))
                self._shapes.append(shape)

    def predict(self, rows: float, length: float) -> float:
        """Seconds; 0 when there were too few points to fit."""
        if self._line:
            return self._line[0] + self._line[1] * rows
        return _polyline(self._rows, self._heights(length), rows)

    def tabulate(self, max_rows: int, length: float) -> list[float]:
        """`predict` for 0, 1, ... `max_rows` rows."""
        if self._line:
            fixed, per_row = self._line
            return [fixed + per_row * rows for rows in range(max_rows + 1)]
        return _tabulate(self._rows, self._heights(length), max_rows)

    def _heights(self, length: float) -> list[float]:
        # A quadratic is not to be trusted beyond what was seen: there, as the interpolation does it.
        at = min(max(length, self._shortest), self._longest)
        beyond = length / self._longest if length > self._longest > 0 else 1.0
        return [(a + at * (b + at * c)) * beyond for a, b, c in self._shapes]


def _polyline(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The straight lines through the points, prolonged beyond them but never far below them; 0 without points."""
    if len(xs) < 2:
        return _from_one(xs[0], ys[0], x) if xs else 0.0
    at = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
    return max(ys[at - 1] + slope * (x - xs[at - 1]), min(ys[0], ys[1]) * 0.1)


def _tabulate(xs: Sequence[float], ys: Sequence[float], end: int) -> list[float]:
    """`_polyline` for 0, 1, ... `end`."""
    if len(xs) < 2:
        return [_polyline(xs, ys, x) for x in range(end + 1)]
    line: list[float] = []
    floor = min(ys[0], ys[1]) * 0.1
    for at in range(1, len(xs)):
        slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
        base = ys[at - 1] - slope * xs[at - 1]
        stop = end + 1 if at == len(xs) - 1 else min(end + 1, math.ceil(xs[at]))
        line += [max(floor, base + slope * x) for x in range(len(line), stop)]
    return line


def _from_one(at: float, seconds: float, rows: float) -> float:
    return seconds * (1 - OPTIMISM + OPTIMISM * rows) / (1 - OPTIMISM + OPTIMISM * at)


def _least_squares(rows: Sequence[tuple[tuple[float, ...], Point]]) -> list[float]:
    """Weights of the features, for relative error; [] when they cannot be told apart."""
    size = len(rows[0][0])
    scale = [max(abs(features[i]) for features, _ in rows) or 1.0 for i in range(size)]
    matrix = [[0.0] * (size + 1) for _ in range(size)]
    for features, point in rows:
        weight = min(point.count, 20) / (point.seconds * point.seconds)
        scaled = [feature / most for feature, most in zip(features, scale, strict=True)]
        for i in range(size):
            for j in range(size):
                matrix[i][j] += weight * scaled[i] * scaled[j]
            matrix[i][size] += weight * scaled[i] * point.seconds
    for i in range(size):
        matrix[i][i] *= 1 + RIDGE
    return [value / most for value, most in zip(_eliminate(matrix), scale, strict=False)]


def _eliminate(matrix: list[list[float]]) -> list[float]:
    """Solve a small symmetric system given as rows of [coefficients..., right side]; [] when it is singular."""
    size = len(matrix)
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(matrix[r][i]))
        if abs(matrix[pivot][i]) < 1e-12:
            return []
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for r in range(i + 1, size):
            factor = matrix[r][i] / matrix[i][i]
            for c in range(i, size + 1):
                matrix[r][c] -= factor * matrix[i][c]
    solution = [0.0] * size
    for i in reversed(range(size)):
        tail = sum(matrix[i][c] * solution[c] for c in range(i + 1, size))
        solution[i] = (matrix[i][size] - tail) / matrix[i][i]
    return solution


def length_cell(length: float) -> int:
    """Index of the grid cell for a length: two an octave, 0 for a fixed shape."""
    return 0 if length <= 0 else 1 + round(2 * math.log2(length))


ROW_EDGES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)


def row_cell(rows: float) -> int:
    """Index of the grid cell for a number of rows."""
    return bisect_left(ROW_EDGES, rows - 1e-9)
