"""Bounds of the index in memory, and its move to another kind of vectors."""

from __future__ import annotations

import numpy as np

from forebay.cache.semantic.index import Kept
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.vectors import NumpyVectors
from forebay.core.tensors import Array


def kept(number: int, vector: Array) -> Kept:
    return Kept(f"e{number}", f"text {number}", f"text {number}", vector)


def spread(count: int, dimension: int = 8) -> Array:
    drawn = np.random.default_rng(3).standard_normal((count, dimension)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


async def test_beyond_its_bytes_the_partition_used_least_recently_goes() -> None:
    drawn = spread(4)
    index = LocalIndex()
    await index.add("a", kept(0, drawn[0]))
    one_partition = index.nbytes
    await index.close()
    index = LocalIndex(max_bytes=2 * one_partition + 100)
    for name in ("a", "b"):
        await index.add(name, kept(0, drawn[0]))
    assert [match.entry_id for match in await index.near("a", drawn[0], 0.9, 1)] == ["e0"]
    await index.add("c", kept(0, drawn[0]))
    assert [await index.count(name) for name in ("a", "b", "c")] == [1, 0, 1]
    assert index.nbytes <= 2 * one_partition + 100


async def test_beyond_its_bytes_the_only_partition_grows_no_more() -> None:
    index = LocalIndex(max_bytes=20_000)
    drawn = spread(400)
    for number, vector in enumerate(drawn):
        await index.add("a", kept(number, vector))
    assert 20 < await index.count("a") < 60
    assert index.nbytes < 21_000
    assert [match.entry_id for match in await index.near("a", drawn[-1], 0.9, 1)] == ["e399"]
    assert await index.same("a", "text 0") is None


async def test_bytes_are_counted_to_nothing() -> None:
    index = LocalIndex(max_entries=50)
    for number, vector in enumerate(spread(80)):
        await index.add("a", kept(number, vector))
        await index.add("a", kept(number // 2, vector))
    held = index.nbytes
    for number in range(80):
        await index.remove("a", f"e{number}")
    assert (await index.count("a"), held > index.nbytes > 0) == (0, True)
    await index.drop("a")
    assert index.nbytes == 0


async def test_a_partition_that_grows_large_is_moved_and_finds_the_same() -> None:
    made: list[NumpyVectors] = []

    def make(dimension: int) -> NumpyVectors:
        made.append(NumpyVectors(dimension))
        return made[-1]

    index = LocalIndex(large=make, large_from=100)
    drawn = spread(130)
    for number, vector in enumerate(drawn):
        await index.add("a", kept(number, vector))
        assert len(made) == (number >= 99)
    await index.remove("a", "e5")
    found = [[match.entry_id for match in await index.near("a", vector, 0.999, 1)] for vector in drawn]
    assert found == [[] if number == 5 else [f"e{number}"] for number in range(130)]
