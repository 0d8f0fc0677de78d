"""What every index of texts promises."""

from __future__ import annotations

import numpy as np
import pytest
from tests.contract.semantic.conftest import MAX_ENTRIES

from forebay.cache import port
from forebay.cache.semantic.index import Kept, Origin, SemanticIndex
from forebay.core.tensors import Array

DIMENSION = 48


def vectors(count: int, seed: int = 7) -> Array:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def near(vector: Array, cosine: float) -> Array:
    """A vector of length 1 with this cosine to one of length 1."""
    other = vectors(1, seed=99)[0]
    other -= (other @ vector) * vector
    other /= np.linalg.norm(other)
    return np.asarray(cosine * vector + np.sqrt(1 - cosine**2) * other, np.float32)


def kept(name: str, vector: Array) -> Kept:
    return Kept(name, f"Text {name}\nof two lines?", f"text {name} of two lines", vector)


async def fill(index: SemanticIndex, partition: str, count: int) -> Array:
    drawn = vectors(count)
    for number, vector in enumerate(drawn):
        await index.add(partition, kept(f"e{number}", vector))
    return drawn


async def test_what_is_near_enough_is_found_with_its_cosine(index: SemanticIndex) -> None:
    drawn = await fill(index, "p", 20)
    (found,) = await index.near("p", near(drawn[7], 0.95), 0.9, 5)
    assert (found.entry_id, found.text) == ("e7", "Text e7\nof two lines?")
    assert found.score == pytest.approx(0.95, abs=1e-5)
    assert list(await index.near("p", near(drawn[7], 0.85), 0.9, 5)) == []


async def test_the_best_come_first_and_no_more_than_asked_for(index: SemanticIndex) -> None:
    [vector] = vectors(1)
    for name, cosine in (("c", 0.91), ("a", 0.99), ("b", 0.95), ("d", 0.2)):
        await index.add("p", kept(name, near(vector, cosine)))
    assert [match.entry_id for match in await index.near("p", vector, 0.9, 9)] == ["a", "b", "c"]
    assert [match.entry_id for match in await index.near("p", vector, 0.9, 2)] == ["a", "b"]


async def test_partitions_never_meet(index: SemanticIndex) -> None:
    [vector] = vectors(1)
    await index.add("p", kept("a", vector))
    await index.add("q", kept("b", near(vector, 0.99)))
    assert [match.entry_id for match in await index.near("p", vector, 0.0, 9)] == ["a"]
    assert [match.entry_id for match in await index.near("q", vector, 0.0, 9)] == ["b"]
    assert await index.same("q", "text a of two lines") is None
    await index.drop("p")
    assert (await index.count("p"), await index.count("q")) == (0, 1)
    assert list(await index.near("p", vector, 0.0, 9)) == []


async def test_partitions_may_have_vectors_of_other_dimensions(index: SemanticIndex) -> None:
    await index.add("p", kept("a", np.array([1.0, 0.0], np.float32)))
    await index.add("q", kept("b", np.array([0.0, 0.0, 1.0], np.float32)))
    [match] = await index.near("q", np.array([0.0, 0.0, 1.0], np.float32), 0.9, 3)
    assert match.entry_id == "b"


async def test_a_text_is_found_by_its_normalised_form(index: SemanticIndex) -> None:
    [vector] = vectors(1)
    await index.add("p", kept("a", vector))
    found = await index.same("p", "text a of two lines")
    assert found is not None
    assert (found.entry_id, found.text, found.score) == ("a", "Text a\nof two lines?", 1.0)
    assert await index.same("p", "text b of two lines") is None


async def test_the_same_id_or_the_same_normalised_form_gives_way(index: SemanticIndex) -> None:
    one, two, three = vectors(3)
    await index.add("p", kept("a", one))
    await index.add("p", Kept("a", "again", "again", two))
    assert await index.count("p") == 1
    assert await index.same("p", "text a of two lines") is None
    assert list(await index.near("p", one, 0.9, 3)) == []
    await index.add("p", Kept("b", "Again!", "again", three))
    assert await index.count("p") == 1
    found = await index.same("p", "again")
    assert found is not None
    assert (found.entry_id, found.text) == ("b", "Again!")
    await index.add("p", Kept("a", "once more", "once more", one))
    await index.add("p", Kept("a", "both", "again", two))
    assert await index.count("p") == 1


async def test_what_was_removed_is_not_found(index: SemanticIndex) -> None:
    drawn = await fill(index, "p", 12)
    for name in ("e0", "e5", "e11", "e5", "never there"):
        await index.remove("p", name)
    await index.remove("nowhere", "e0")
    assert await index.count("p") == 9
    for number, vector in enumerate(drawn):
        found = [match.entry_id for match in await index.near("p", vector, 0.99, 3)]
        assert found == ([] if number in (0, 5, 11) else [f"e{number}"])
    assert await index.same("p", "text e5 of two lines") is None


async def test_a_partition_is_bounded_and_the_oldest_leave_it(index: SemanticIndex) -> None:
    drawn = await fill(index, "p", MAX_ENTRIES + 40)
    assert await index.count("p") == MAX_ENTRIES
    found = [[match.entry_id for match in await index.near("p", vector, 0.99, 3)] for vector in drawn]
    assert found == [[]] * 40 + [[f"e{number}"] for number in range(40, MAX_ENTRIES + 40)]


def of(name: str, vector: Array, tenant: str, place: tuple[str, str], *tags: str) -> Kept:
    return kept(name, vector)._replace(origin=Origin(tenant, place, tags, name.encode() * 16))


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (port.Match(), []),
        (port.Match(tenant="alice"), ["d", "e"]),
        (port.Match(tenant=""), ["a", "b", "c", "d"]),
        (port.Match(model="qa"), ["d", "e"]),
        (port.Match(model="qa", version="2"), ["a", "b", "d", "e"]),
        (port.Match(tag="prices"), ["b", "c", "e"]),
        (port.Match(tag="price"), ["a", "b", "c", "d", "e"]),
        (port.Match(tenant="alice", tag="prices"), ["b", "c", "d", "e"]),
        (port.Match(digest=b"b" * 16), ["a", "c", "d", "e"]),
        (port.Match(tenant="bob", digest=b"b" * 16), ["a", "b", "c", "d", "e"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else repr(value)[6:-1],
)
async def test_texts_go_with_the_answers_that_are_forgotten(
    index: SemanticIndex, which: port.Match, left: list[str]
) -> None:
    [vector] = vectors(1)
    texts = {
        "p": [of("a", vector, "alice", ("qa", "1"), "prices", "uk"), of("b", vector, "alice", ("qa", "1"))],
        "q": [of("c", vector, "alice", ("qa", "2"), "uk")],
        "r": [of("d", vector, "bob", ("other", "1"), "prices")],
        "s": [of("e", vector, "", ("other", "1"))],
    }
    for partition, several in texts.items():
        for one in several:
            await index.add(partition, one)
    await index.clear(which)
    found = [(await index.near(partition, vector, 0.9, 9), several) for partition, several in texts.items()]
    assert sorted(match.entry_id for matches, _ in found for match in matches) == left
    same = [await index.same(partition, one.normal) for partition, several in texts.items() for one in several]
    assert [match.entry_id for match in same if match is not None] == left


async def test_an_empty_partition_finds_nothing(index: SemanticIndex) -> None:
    [vector] = vectors(1)
    assert list(await index.near("p", vector, -1.0, 3)) == []
    assert await index.same("p", "a") is None
    assert await index.count("p") == 0
    await index.add("p", kept("a", vector))
    await index.remove("p", "a")
    assert list(await index.near("p", vector, -1.0, 3)) == []
