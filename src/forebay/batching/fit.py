"""Two predictors over measured points: interpolation between them, and a smooth least-squares fit."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

OPTIMISM: Final = 0.2
"""Assumed cost of a further row, as a share of one row alone, while only one batch size was measured."""
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
        """Move towards a new observation; its weight is 1/n at first and never below `least`."""
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
        if known is not None and len(known) == max_rows + 1:
            return known
        xs, ys = self._lines[index]
        if len(xs) == 1:
            line = [_from_one(xs[0], ys[0], rows) for rows in range(max_rows + 1)]
        else:
            line = []
            floor = min(ys[0], ys[1]) * 0.1
            for at in range(1, len(xs)):
                slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
                base = ys[at - 1] - slope * xs[at - 1]
                end = max_rows + 1 if at == len(xs) - 1 else min(max_rows + 1, math.ceil(xs[at]))
                line += [max(floor, base + slope * rows) for rows in range(len(line), end)]
        self._tables[index] = line
        return line

    def _along(self, index: int, rows: float) -> float:
        xs, ys = self._lines[index]
        if len(xs) == 1:
            return _from_one(xs[0], ys[0], rows)
        at = min(max(bisect_right(xs, rows), 1), len(xs) - 1)
        slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
        value = ys[at - 1] + slope * (rows - xs[at - 1])
        # Outside the measured rows the line may lead below zero: never below a share of what was measured.
        return max(value, min(ys[0], ys[1]) * 0.1)


def _from_one(at_rows: float, seconds: float, rows: float) -> float:
    return seconds * (1 - OPTIMISM + OPTIMISM * rows) / (1 - OPTIMISM + OPTIMISM * at_rows)


class Fit:
    """Least squares of relative error with terms 1, rows, rows x length, rows x length squared."""

    __slots__ = ("_scale", "_weights")

    def __init__(self, points: Sequence[Point]) -> None:
        self._scale = max((p.length for p in points), default=0.0)
        terms = 2 if self._scale <= 0 else 4
        self._weights: list[float] = []
        if len(points) >= terms:
            self._weights = self._solve(points, terms)

    def _features(self, rows: float, length: float) -> tuple[float, ...]:
        if self._scale <= 0:
            return (1.0, rows)
        relative = length / self._scale
        return (1.0, rows, rows * relative, rows * relative * relative)

    def _solve(self, points: Sequence[Point], terms: int) -> list[float]:
        matrix = [[0.0] * (terms + 1) for _ in range(terms)]
        for point in points:
            features = self._features(point.rows, point.length)
            weight = min(point.count, 20) / (point.seconds * point.seconds)
            for i in range(terms):
                for j in range(terms):
                    matrix[i][j] += weight * features[i] * features[j]
                matrix[i][terms] += weight * features[i] * point.seconds
        for i in range(terms):
            matrix[i][i] *= 1 + RIDGE
        return _eliminate(matrix)

    def predict(self, rows: float, length: float) -> float:
        """Seconds; 0 when there were too few points to fit."""
        fixed, per_row = self._terms(length)
        return fixed + per_row * rows

    def tabulate(self, max_rows: int, length: float) -> list[float]:
        """`predict` for 0, 1, ... `max_rows` rows."""
        fixed, per_row = self._terms(length)
        return [fixed + per_row * rows for rows in range(max_rows + 1)]

    def _terms(self, length: float) -> tuple[float, float]:
        weights = self._weights
        if len(weights) < 4:
            return (weights[0], weights[1]) if weights else (0.0, 0.0)
        relative = length / self._scale
        return weights[0], weights[1] + relative * (weights[2] + relative * weights[3])


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
