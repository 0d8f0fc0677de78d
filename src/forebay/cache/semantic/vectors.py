"""Vectors of one partition in this process: all of them compared, by one product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from forebay.core.tensors import Array

_FIRST_ROWS: Final = 64


class Vectors(Protocol):
    """Vectors by number. All have length 1 and one dimension."""

    def put(self, number: int, vector: Array) -> None:
        """Keep a vector; no other has this number."""

    def take_out(self, number: int) -> None:
        """Forget the vector with this number."""

    def nearest(self, vector: Array, at_least: float, most: int) -> list[tuple[int, float]]:
        """Numbers and cosines, best first."""

    def items(self) -> Iterator[tuple[int, Array]]:
        """All of them."""

    @property
    def nbytes(self) -> int:
        """Memory held."""


class NumpyVectors:
    """A matrix that doubles as it grows. Exact: every vector is compared."""

    def __init__(self, dimension: int) -> None:
        self._rows = np.empty((_FIRST_ROWS, dimension), np.float32)
        self._numbers: list[int] = []
        self._places: dict[int, int] = {}

    def put(self, number: int, vector: Array) -> None:
        """Keep a vector; no other has this number."""
        place = len(self._numbers)
        if place == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[place] = vector
        self._places[number] = place
        self._numbers.append(number)

    def take_out(self, number: int) -> None:
        """Forget the vector with this number: the last one takes its place."""
        place = self._places.pop(number)
        last = self._numbers.pop()
        if last != number:
            self._rows[place] = self._rows[len(self._numbers)]
            self._numbers[place] = last
            self._places[last] = place

    def nearest(self, vector: Array, at_least: float, most: int) -> list[tuple[int, float]]:
        """Numbers and cosines, best first."""
        scores = self._rows[: len(self._numbers)] @ vector
        found = np.flatnonzero(scores >= at_least)
        best = found[np.argsort(-scores[found], kind="stable")[:most]]
        return [(self._numbers[place], float(scores[place])) for place in best.tolist()]

    def items(self) -> Iterator[tuple[int, Array]]:
        """All of them."""
        return iter([(number, self._rows[place]) for number, place in self._places.items()])

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self._rows.nbytes)
