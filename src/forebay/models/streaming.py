"""What a generator may yield: a piece of one row's answer, or how far a row is. See `Model.predict`."""

from __future__ import annotations

import math
from typing import Any


class Partial:
    """A piece of the answer of row `row` of the batch, counted from 0.

    `outputs`: the row's own values, without the batch axis: one value (one output), a tuple in the order of `outputs`,
    or a dict by name, which may leave outputs out. None: nothing more, together with `last`.
    `last`: the row's answer is complete; its caller gets it now, and need not wait for the other rows.
    """

    __slots__ = ("last", "outputs", "row")

    def __init__(self, row: int, outputs: Any = None, *, last: bool = False) -> None:
        self.row = row
        self.outputs = outputs
        self.last = last

    def __repr__(self) -> str:
        return f"Partial({self.row}, {self.outputs!r}, last={self.last})"


class Progress:
    """How far row `row` is (None: all rows), from 0 to 1. Raises `ValueError` for anything else."""

    __slots__ = ("fraction", "row")

    def __init__(self, fraction: float, row: int | None = None) -> None:
        if not 0 <= fraction <= 1 or math.isnan(fraction):
            raise ValueError(f"progress is a number from 0 to 1, not {fraction!r}")
        self.fraction = float(fraction)
        self.row = row

    def __repr__(self) -> str:
        return f"Progress({self.fraction}, row={self.row})"
