"""Latency models for the simulator: how long an instance computes on a batch, by rows and padded length."""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol


class Cost(Protocol):
    """A true cost; the batcher does not see it, it only learns from its draws."""

    def seconds(self, rows: int, length: int) -> float:
        """Mean seconds of a batch."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A fixed part, a part a row, and a part a padded cell (rows x length). With `per_row_s` 0 it is flat."""

    fixed_s: float
    per_row_s: float = 0.0
    per_cell_s: float = 0.0

    def seconds(self, rows: int, length: int) -> float:
        """Mean seconds of a batch."""
        return self.fixed_s + rows * (self.per_row_s + length * self.per_cell_s)


class Table:
    """Measured seconds by rows and length, with straight lines between the points and beyond the last ones."""

    def __init__(self, rows: Sequence[int], lengths: Sequence[int], seconds: Sequence[Sequence[float]]) -> None:
        """`seconds[i][j]` belongs to `rows[i]` and `lengths[j]`. Raises ValueError when the shapes do not fit."""
        if not rows or not lengths or len(seconds) != len(rows) or any(len(line) != len(lengths) for line in seconds):
            raise ValueError("`seconds` must hold one line for each of `rows`, with one number for each of `lengths`")
        if list(rows) != sorted(set(rows)) or list(lengths) != sorted(set(lengths)) or rows[0] < 1 or lengths[0] < 0:
            raise ValueError("`rows` (from 1) and `lengths` (from 0) must rise")
        if any(not value > 0 for line in seconds for value in line):
            raise ValueError("`seconds` must be positive")
        self._rows, self._lengths, self._seconds = list(rows), list(lengths), [list(line) for line in seconds]
        self._known: dict[tuple[int, int], float] = {}

    @classmethod
    def from_file(cls, path: Path) -> Table:
        """Read a JSON object with `rows`, `lengths` and `seconds`. Raises ValueError with the reason."""
        try:
            data: Any = json.loads(path.read_text())
            return cls(data["rows"], data["lengths"], data["seconds"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a table of costs: {error}") from None

    def seconds(self, rows: int, length: int) -> float:
        """Mean seconds of a batch."""
        found = self._known.get((rows, length))
        if found is None:
            columns = [_between(self._lengths, line, length) for line in self._seconds]
            found = self._known[rows, length] = max(1e-6, _between(self._rows, columns, rows))
        return found


def _between(xs: Sequence[int], ys: Sequence[float], x: float) -> float:
    if len(xs) == 1:
        return ys[0]
    at = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    share = (x - xs[at - 1]) / (xs[at] - xs[at - 1])
    return ys[at - 1] + share * (ys[at] - ys[at - 1])


_MINILM_ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
_MINILM_LENGTHS: Final = (4, 8, 16, 32, 64, 96, 128, 192, 256, 384)
_MINILM_FACTORS: Final = (1.0, 1.01, 1.02, 1.12, 1.28, 1.44, 1.6)


def minilm() -> Table:
    """MiniLM-L6 (fp32, one core) by rows and tokens.

    Drawn to agree with what was measured on texts of 5 to 200 words: 79 texts/s alone, 41 in batches of 4 and 16 in
    batches of 32 in arrival order, 54 in batches of 32 sorted by length.
    """
    alone = [0.0012 + 1.335e-4 * length + 3.86e-7 * length * length for length in _MINILM_LENGTHS]
    seconds = [[rows * factor * s for s in alone] for rows, factor in zip(_MINILM_ROWS, _MINILM_FACTORS, strict=True)]
    return Table(_MINILM_ROWS, _MINILM_LENGTHS, seconds)


@dataclass(frozen=True, slots=True)
class Noise:
    """What real machines add: a lognormal spread and now and then a stall."""

    sigma: float = 0.0
    stall_share: float = 0.0
    stall_factor: float = 2.0

    def draw(self, rng: random.Random) -> float:
        """The factor for one batch; its mean without stalls is 1."""
        factor = 1.0
        if self.sigma:
            factor = rng.lognormvariate(-self.sigma * self.sigma / 2, self.sigma)
        if self.stall_share and rng.random() < self.stall_share:
            factor *= self.stall_factor
        return factor


def best_rate(cost: Cost, lengths: Sequence[int], max_rows: int) -> float:
    """The most rows a second that one instance can do with rows of these lengths: over all batch sizes up to
    `max_rows`, each batch of rows of one length."""
    per_row = [min(cost.seconds(b, length) / b for b in range(1, max_rows + 1)) for length in lengths]
    return len(per_row) / math.fsum(per_row)
