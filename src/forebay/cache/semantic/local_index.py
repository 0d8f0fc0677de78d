"""`LocalIndex`: texts and vectors in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from forebay.cache import port
from forebay.cache.semantic.index import Kept, Match, Origin
from forebay.cache.semantic.vectors import NumpyVectors, Vectors
from forebay.core.tensors import Array

MakeVectors = Callable[[int], Vectors]
_TEXT_BYTES: Final = 450
"""What the bookkeeping of one text costs beside its characters."""


class _Partition:
    """Texts by number, oldest first, and their vectors."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.kept: dict[int, tuple[str, str, str, Origin]] = {}
        """By number: id, text, normalised form and where its answer comes from."""
        self.numbers: dict[str, int] = {}
        self.normals: dict[str, int] = {}
        self.next_number = 0
        self.text_bytes = 0
        self.large = False

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + self.text_bytes

    def add(self, kept: Kept) -> None:
        for number in {self.numbers.get(kept.entry_id), self.normals.get(kept.normal)} - {None}:
            self.forget(number)
        number, self.next_number = self.next_number, self.next_number + 1
        self.vectors.put(number, kept.vector)
        self.kept[number] = (kept.entry_id, kept.text, kept.normal, kept.origin)
        self.numbers[kept.entry_id] = self.normals[kept.normal] = number
        self.text_bytes += _cost(kept.text, kept.normal)

    def forget(self, number: int | None) -> None:
        if number is None:
            return
        entry_id, text, normal, _ = self.kept.pop(number)
        self.vectors.take_out(number)
        del self.numbers[entry_id], self.normals[normal]
        self.text_bytes -= _cost(text, normal)

    def match(self, number: int, score: float) -> Match:
        entry_id, text, _, _ = self.kept[number]
        return Match(entry_id, text, score)


class LocalIndex:
    """Bounded in entries a partition, and in bytes over all: then the partition that was used least recently goes.

    `large`: makes the vectors of a partition with `large_from` texts or more; they are moved there once.
    """

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 256 << 20,
        large: MakeVectors | None = None,
        large_from: int = 20_000,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._large = large
        self._large_from = large_from
        self._partitions: OrderedDict[str, _Partition] = OrderedDict()
        self._nbytes = 0

    async def add(self, partition: str, kept: Kept) -> None:
        """Keep a text. One with the same id, or the same normalised form, gives way."""
        here = self._partitions.get(partition)
        if here is None:
            here = self._partitions[partition] = _Partition(NumpyVectors(kept.vector.size))
        else:
            self._nbytes -= here.nbytes
        self._partitions.move_to_end(partition)
        here.add(kept)
        if len(here.kept) > self._max_entries:
            here.forget(next(iter(here.kept)))
        if self._large is not None and not here.large and len(here.kept) >= self._large_from:
            here.vectors, here.large = _moved(here.vectors, self._large(kept.vector.size)), True
        self._nbytes += here.nbytes
        while self._nbytes > self._max_bytes and len(self._partitions) > 1:
            self._nbytes -= self._partitions.popitem(last=False)[1].nbytes
        if self._nbytes > self._max_bytes and len(here.kept) > 1:
            # It is alone and grows no more. Only one goes: what vectors hold does not shrink with every one.
            self._nbytes -= here.nbytes
            here.forget(next(iter(here.kept)))
            self._nbytes += here.nbytes

    async def same(self, partition: str, normal: str) -> Match | None:
        """The text with this normalised form."""
        here = self._partition(partition)
        number = None if here is None else here.normals.get(normal)
        return None if here is None or number is None else here.match(number, 1.0)

    async def near(self, partition: str, vector: Array, at_least: float, most: int) -> Sequence[Match]:
        """Texts whose vectors have at least this cosine with one of length 1, best first, at most so many."""
        here = self._partition(partition)
        if here is None or not here.kept:
            return []
        return [here.match(number, score) for number, score in here.vectors.nearest(vector, at_least, most)]

    async def remove(self, partition: str, entry_id: str) -> None:
        """Forget a text, if it is kept."""
        here = self._partitions.get(partition)
        if here is not None:
            self._nbytes -= here.nbytes
            here.forget(here.numbers.get(entry_id))
            self._nbytes += here.nbytes

    async def drop(self, partition: str) -> None:
        """Forget a partition."""
        here = self._partitions.pop(partition, None)
        self._nbytes -= 0 if here is None else here.nbytes

    async def clear(self, which: port.Match) -> None:
        """Forget the texts of these answers, in all partitions."""
        self.clear_now(which)

    def clear_now(self, which: port.Match) -> None:
        """The same, for whoever cannot wait."""
        for name, here in list(self._partitions.items()):
            self._nbytes -= here.nbytes
            for number in [number for number, kept in here.kept.items() if kept[3].meant(which)]:
                here.forget(number)
            if here.kept:
                self._nbytes += here.nbytes
            else:
                del self._partitions[name]

    async def count(self, partition: str) -> int:
        """How many texts a partition has."""
        here = self._partitions.get(partition)
        return 0 if here is None else len(here.kept)

    async def close(self) -> None:
        """Let go of what is held."""
        self._partitions.clear()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Memory held, about."""
        return self._nbytes

    def _partition(self, name: str) -> _Partition | None:
        here = self._partitions.get(name)
        if here is not None:
            self._partitions.move_to_end(name)
        return here


def _cost(text: str, normal: str) -> int:
    return len(text) + len(normal) + _TEXT_BYTES


def _moved(vectors: Vectors, target: Vectors) -> Vectors:
    for number, vector in vectors.items():
        target.put(number, vector)
    return target
