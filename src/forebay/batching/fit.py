"""Predictors over measured points: straight lines for a fixed shape, a smooth surface where lengths vary."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

OPTIMISM: Final = 0.2
"""Assumed cost of a further row, as a share of one row alone, while only one batch size was measured."""
TRUST_AFTER: Final = 10
ROW_EDGES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
RIDGE: Final = 1e-6
COUNT_MOST: Final = 20
"""More observations than this make a point no more trustworthy."""
TREND_COUNT: Final = 40.0
"""The trend itself counts as so many observations of no error."""
LEAST_TREND_S: Final = 1e-9
REACH_ROWS_OCTAVES: Final = 1.5
REACH_LENGTH_OCTAVES: Final = 1.0
"""How far from its own place a point corrects the trend; its weight falls in a straight line to nothing there."""
LENGTH_PLACES: Final = 2
"""Corrections are computed at so many lengths an octave, with straight lines between them."""
_LOG_EDGES: Final = tuple(map(math.log2, ROW_EDGES))


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
    """Straight lines between the points of a fixed shape, by rows."""

    __slots__ = ("_rows", "_seconds")

    def __init__(self, points: Sequence[Point]) -> None:
        ordered = sorted({point.rows: point for point in points}.values(), key=lambda point: point.rows)
        self._rows = [point.rows for point in ordered]
        self._seconds = [point.seconds for point in ordered]

    def predict(self, rows: float, length: float) -> float:
        """Seconds, whatever the length; 0 when there are no points."""
        return _polyline(self._rows, self._seconds, rows)

    def tabulate(self, max_rows: int, length: float) -> list[float]:
        """`predict` for 0, 1, ... `max_rows` rows, faster than one by one."""
        return _tabulate(self._rows, self._seconds, max_rows)


class Line:
    """One straight line through all points of a fixed shape, by rows: least squares of relative error."""

    __slots__ = ("_weights",)

    def __init__(self, points: Sequence[Point]) -> None:
        several = len({point.rows for point in points}) > 1
        self._weights = _least_squares([((1.0, p.rows), p) for p in points]) if several else []

    def predict(self, rows: float, length: float) -> float:
        """Seconds, whatever the length; 0 when there were too few points to fit."""
        return self._weights[0] + self._weights[1] * rows if self._weights else 0.0

    def tabulate(self, max_rows: int, length: float) -> list[float]:
        """`predict` for 0, 1, ... `max_rows` rows."""
        return [self.predict(rows, length) for rows in range(max_rows + 1)]


class Surface:
    """Where lengths vary: one smooth trend over rows and length for all points, and about each point a correction.

    The trend is a sum of parts, none of them negative, by least squares of relative error: a fixed one, and parts that
    grow with the rows, with the padded cells (rows x length), with these times the length, as attention does, and with
    these times the logarithm of the rows, as where a processor's caches overflow. So what short rows cost in large
    batches tells about long ones, and a size that was never run is never taken to be free. The corrections are a
    kernel-weighted mean of the relative errors nearby (Nadaraya 1964, Watson 1964), drawn towards none where little was
    measured.
    """

    __slots__ = ("_known", "_longest", "_points", "_shortest", "_weights")

    def __init__(self, points: Sequence[Point]) -> None:
        """At least one point is needed."""
        self._shortest = min(point.length for point in points)
        self._longest = max(point.length for point in points)
        self._weights = _parts(points, self._longest)
        self._known: dict[int, list[float]] = {}
        self._points = [
            (
                math.log2(p.rows),
                math.log2(max(1.0, p.length)),
                min(p.count, COUNT_MOST),
                math.log(p.seconds / self._trend(p.rows, p.length)),
            )
            for p in points
        ]

    def predict(self, rows: int, length: float) -> float:
        """Seconds; as in the table, straight lines between the edges of the grid of rows."""
        at = min(max(1, bisect_left(ROW_EDGES, rows)), len(ROW_EDGES) - 1)
        edges = ROW_EDGES[at - 1 : at + 1]
        return _polyline(edges, self._heights(at - 1, at + 1, length), rows)

    def tabulate(self, max_rows: int, length: float) -> list[float]:
        """`predict` for 0, 1, ... `max_rows` rows."""
        count = max(2, bisect_left(ROW_EDGES, max_rows) + 1)
        return _tabulate(ROW_EDGES[:count], self._heights(0, count, length), max_rows)

    def _heights(self, first: int, end: int, length: float) -> list[float]:
        """Seconds at the edges `first` to `end`, without the last."""
        # The trend is not to be trusted beyond what was seen: there at least in proportion, as for padded rows.
        at = min(max(length, self._shortest), self._longest)
        beyond = length / self._longest if length > self._longest > 0 else 1.0
        place = LENGTH_PLACES * math.log2(max(1.0, at))
        low = int(place)
        share = place - low
        pairs = zip(
            ROW_EDGES[first:end], self._corrections(low)[first:end], self._corrections(low + 1)[first:end], strict=False
        )
        return [
            beyond * self._trend(rows, at) * math.exp(under + share * (above - under)) for rows, under, above in pairs
        ]

    def _corrections(self, place: int) -> list[float]:
        """Logarithms of what to multiply the trend with, at each edge of rows, for one of the places on the scale of
        lengths. Made when first asked for: a curve for each length in use must cost little, as they are made anew
        while requests wait."""
        known = self._known.get(place)
        if known is not None:
            return known
        log_length = place / LENGTH_PLACES
        near = [
            (where_rows, count * (1 - abs(where - log_length) / REACH_LENGTH_OCTAVES), error)
            for where_rows, where, count, error in self._points
            if abs(where - log_length) < REACH_LENGTH_OCTAVES
        ]
        made = self._known[place] = []
        for edge in _LOG_EDGES:
            weights, errors = TREND_COUNT, 0.0
            for where, weight, error in near:
                share = 1 - abs(where - edge) / REACH_ROWS_OCTAVES
                if share > 0:
                    weights += share * weight
                    errors += share * weight * error
            made.append(errors / weights)
        return made

    def _trend(self, rows: float, length: float) -> float:
        fixed, by_row, by_cell, by_square, by_log = self._weights
        cell = by_cell + length * by_square + math.log2(rows) * by_log
        return max(LEAST_TREND_S, fixed + rows * (by_row + length * cell))


def _parts(points: Sequence[Point], longest: float) -> list[float]:
    """The weights of `Surface`'s parts. Where one would be negative, it is 0 and the others are fitted without it."""
    parts = list(range(5))

    def features(rows: float, length: float) -> tuple[float, ...]:
        return (1.0, rows, rows * length, rows * length * length, rows * length * math.log2(rows))

    usual = features(8.0, longest)
    weights = [0.0] * 5
    while parts:
        found = _least_squares([(tuple(features(p.rows, p.length)[part] for part in parts), p) for p in points])
        worst = min(range(len(parts)), key=lambda i: found[i] * usual[parts[i]]) if found else 0
        if found and found[worst] >= 0:
            for part, weight in zip(parts, found, strict=True):
                weights[part] = weight
            break
        del parts[worst if found else -1]
    return weights


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
        weight = min(point.count, COUNT_MOST) / (point.seconds * point.seconds)
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


def row_cell(rows: float) -> int:
    """Index of the grid cell for a number of rows."""
    return bisect_left(ROW_EDGES, rows - 1e-9)
