"""Answers in memory: bounded, in order of use, gone together with what hangs on them."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cache.made import entry

from forebay.cache.entry import OVERHEAD_BYTES, Entry
from forebay.cache.memory import MemoryCache

ROOM = 4 * (OVERHEAD_BYTES + 1 + 8)


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = MemoryCache(ROOM)
    for key in (b"a", b"b", b"c", b"d"):
        memory.put(entry(key))
    assert memory.get(b"a", 0.0) is not None
    memory.put(entry(b"e"))
    assert [memory.peek(key) is not None for key in (b"a", b"b", b"c", b"d", b"e")] == [True, False, True, True, True]
    assert memory.evicted == 1


def test_one_that_is_too_large_for_all_leaves_nothing() -> None:
    memory = MemoryCache(ROOM)
    memory.put(entry(b"a"))
    memory.put(entry(b"b", size=ROOM))
    assert (len(memory), memory.nbytes) == (0, 0)


def test_time_ends_an_entry() -> None:
    memory = MemoryCache(ROOM)
    memory.put(entry(b"a", until=5.0))
    assert memory.get(b"a", 4.9) is not None
    assert memory.get(b"a", 5.0) is None
    assert (len(memory), memory.nbytes) == (0, 0)


def test_bodies_that_are_remembered_count_and_go_with_their_entry() -> None:
    memory = MemoryCache(ROOM)
    table: dict[bytes, object] = {}
    first = entry(b"a")
    memory.put(first)
    before = memory.nbytes
    memory.remember(first, table, b"body", "answer", 100)
    memory.remember(first, table, b"body", "another", 100)
    assert (table, memory.nbytes) == ({b"body": "answer"}, before + 100)
    memory.put(entry(b"a"))
    assert (table, memory.nbytes) == ({}, before)
    memory.remember(first, table, b"body", "answer", 100)  # it is not here any more
    assert (table, memory.nbytes) == ({}, before)


def test_remembered_bodies_are_bounded_too() -> None:
    memory = MemoryCache(ROOM)
    table: dict[bytes, object] = {}
    first = entry(b"a")
    memory.put(first)
    memory.remember(first, table, b"body", "answer", ROOM)
    assert (len(memory), memory.nbytes, table) == (0, 0, {})


def test_dropping_tells_what_is_being_computed() -> None:
    memory = MemoryCache(ROOM)
    memory.put(entry(b"a", tags=("x",)))
    memory.put(entry(b"b"))
    before = memory.generation
    assert memory.drop(lambda one: "x" in one.tags) == 1
    assert memory.generation != before
    assert memory.peek(b"b") is not None


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "remember", "drop"]), st.integers(0, 7)), max_size=60))
def test_bytes_are_those_of_what_is_there(steps: list[tuple[str, int]]) -> None:
    memory = MemoryCache(ROOM)
    table: dict[bytes, object] = {}
    there: dict[bytes, Entry] = {}
    for step, number in steps:
        key = bytes([number])
        if step == "put":
            memory.put(entry(key, size=number + 1))
        elif step == "get":
            memory.get(key, 0.0)
        elif step == "drop":
            memory.drop(partial(_is, key))
        elif (found := memory.peek(key)) is not None:
            memory.remember(found, table, bytes([number, len(table)]), "", 300)
        there = {key: one for key in map(bytes, ([n] for n in range(8))) if (one := memory.peek(key)) is not None}
        assert memory.nbytes == sum(one.nbytes for one in there.values()) <= ROOM
        assert len(memory) == len(there)
        assert set(table) == {body for one in there.values() for _, body in one.memos or []}


def _is(key: bytes, one: Entry) -> bool:
    return one.key == key
