"""Vectors of one large partition in this process, in a graph of the `usearch` library: `pip install forebay[usearch]`.

Approximate: it may overlook a vector, which is a miss, but what it finds has the cosine that it says. An index holds at
least 16 MB, so that `LocalIndex` takes one only for partitions that are large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array


def _library() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise SetupError("semantic_index = \"usearch\" needs usearch: pip install 'forebay[usearch]'") from None
    return usearch.index


class UsearchVectors:
    """A graph of vectors, FP32 as they came."""

    def __init__(self, dimension: int) -> None:
        """Raises `SetupError` where usearch is not installed."""
        self._graph: Any = _library().Index(ndim=dimension, metric="ip", dtype="f32")

    def put(self, number: int, vector: Array) -> None:
        """Keep a vector; no other has this number."""
        self._graph.add(number, np.asarray(vector, np.float32))

    def take_out(self, number: int) -> None:
        """Forget the vector with this number."""
        self._graph.remove(number)

    def nearest(self, vector: Array, at_least: float, most: int) -> list[tuple[int, float]]:
        """Numbers and cosines, best first."""
        found = self._graph.search(np.asarray(vector, np.float32), most)
        scores = zip(found.keys.tolist(), (1.0 - found.distances).tolist(), strict=True)
        return [(number, score) for number, score in scores if score >= at_least]

    def items(self) -> Iterator[tuple[int, Array]]:
        """All of them."""
        return iter([(int(number), self._graph.get(number)) for number in self._graph.keys])

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self._graph.memory_usage)
