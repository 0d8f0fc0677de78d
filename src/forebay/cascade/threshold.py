"""How sure the student must be, measured on rows to which both models' answers are known.

What disagrees is counted over all rows, so that agreement is that of the cascade: where the student is not sure the
teacher answers, and agrees with itself. Not the rate on these rows but the upper end of its 95 % interval has to be
within what is allowed. Thresholds are tried from the highest down, and the first that fails ends it, so that trying
many costs nothing in confidence (fixed sequence testing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forebay.core.binomial import trials_needed, upper_bound
from forebay.core.tensors import Array


class Point(NamedTuple):
    """What a threshold would have done: rows that the student answers, of these otherwise than the teacher, and what
    share of all rows that may be at most."""

    threshold: float
    answered: int
    disagreed: int
    upper_bound: float


class Curve(NamedTuple):
    """All thresholds that make a difference, highest first."""

    points: Sequence[Point]
    rows: int


class TooFewRowsError(ValueError):
    """The agreement cannot be shown with so few rows: it takes `needed`, with no disagreement at all."""

    def __init__(self, agreement: float, needed: int, rows: int) -> None:
        super().__init__(f"an agreement of {agreement:.4g} takes at least {needed} rows to show; there are {rows}")
        self.needed = needed


class NoThresholdError(ValueError):
    """Even where it is most sure the student disagrees too often."""


def curve(confidences: Array, agrees: Array) -> Curve:
    """confidences: float64, shape [rows], of the student; agrees: bool, shape [rows], with the teacher."""
    order = np.argsort(-confidences, kind="stable")
    sorted_, wrong = confidences[order], np.cumsum(~agrees[order])
    rows, points, bounds = len(order), [], dict[int, float]()
    for place in range(rows):
        if place + 1 < rows and sorted_[place + 1] == sorted_[place]:
            continue
        disagreed = int(wrong[place])
        if disagreed not in bounds:
            bounds[disagreed] = upper_bound(disagreed, rows)
        points.append(Point(float(sorted_[place]), place + 1, disagreed, bounds[disagreed]))
    return Curve(points, rows)


def check_rows(rows: int, agreement: float) -> None:
    """Raises `TooFewRowsError` where so few cannot show an agreement, whatever is answered to them."""
    needed = trials_needed(1.0 - agreement)
    if rows < needed:
        raise TooFewRowsError(agreement, needed, rows)


def choose(found: Curve, agreement: float) -> Point:
    """The lowest threshold that keeps an agreement. Raises `TooFewRowsError`, `NoThresholdError`."""
    allowed = 1.0 - agreement
    check_rows(found.rows, agreement)
    chosen = None
    for point in found.points:
        if point.upper_bound > allowed:
            break
        chosen = point
    if chosen is None:
        raise NoThresholdError(
            f"no threshold keeps an agreement of {agreement:.4g}: of the rows that the student is most sure of, "
            f"{found.points[0].disagreed} of {found.points[0].answered} are answered otherwise than by the teacher"
        )
    return chosen
