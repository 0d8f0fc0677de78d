"""Rows a second of requests of several sizes, where a batch mostly holds rows of one of them.

Short rows run before long ones and share batches with others as short. So a few batches tell less of the rate than of
whose turn it was. What a row takes is therefore found for each size apart, and put together again by how often each
comes: stratified sampling (Cochran, Sampling Techniques, 1977, chapter 5). Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Protocol

STRATA: Final = 4
ALIKE: Final = 1.25
"""Rows of which the largest has at most so many times the bytes of the smallest are of one size."""

Ended = tuple[float, Sequence[int]]
"""When a batch ended, in seconds, and its rows of each size."""


class Sized(Protocol):
    """A request, or a piece of one."""

    @property
    def rows(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class Mix:
    """Of the requests that come again and again."""

    def __init__(self, requests: Sequence[Sized]) -> None:
        sizes = sorted(request.nbytes / request.rows for request in requests)
        self._bounds: list[float] = []
        """The smallest size of each kind but the first."""
        if sizes and sizes[-1] > ALIKE * sizes[0]:
            cuts = {sizes[len(sizes) * place // STRATA] for place in range(1, STRATA)} - {sizes[0]}
            self._bounds = sorted(cuts) or [sizes[-1]]
        counts = self.counted(requests)
        self._shares = [count / (sum(counts) or 1) for count in counts]

    def counted(self, items: Iterable[Sized]) -> list[int]:
        """Rows of each size."""
        if not self._bounds:
            return [sum([item.rows for item in items])]
        counts = [0] * (len(self._bounds) + 1)
        for item in items:
            counts[bisect_right(self._bounds, item.nbytes / item.rows)] += item.rows
        return counts

    def fewest(self, series: Iterable[Sequence[Ended]]) -> int:
        """How many batches there were of the size of which there were fewest; the first ones are not counted, as in
        `rate`."""
        batches = [0] * len(self._shares)
        for ends in series:
            for _, counts in ends[1:]:
                for place, count in enumerate(counts):
                    batches[place] += count > 0
        return min(batches)

    def rate(self, series: Sequence[Sequence[Ended]]) -> float:
        """Rows a second, by what each instance ended and when. The first end of each only says when the next batch
        began, so that none counts in part. A size of which there was none is taken to cost what the others do."""
        spent_s, rows = [0.0] * len(self._shares), [0] * len(self._shares)
        for ends in series:
            for (began, _), (ended, counts) in pairwise(ends):
                for place, count in enumerate(counts):
                    spent_s[place] += (ended - began) * count / sum(counts)
                    rows[place] += count
        seen = [place for place, count in enumerate(rows) if count]
        weight = sum([self._shares[place] for place in seen])
        row_s = sum([self._shares[place] / weight * spent_s[place] / rows[place] for place in seen])
        return len(series) / max(1e-9, row_s)
