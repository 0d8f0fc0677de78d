"""Answers in memory: bounded, in order of use, gone together with what hangs on them."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cache.made import entry

from forebay.cache.entry import OVERHEAD_BYTES, Entry, KeptRows
from forebay.cache.key import digest_of, entry_id
from forebay.cache.memory import WHOLE_SHARE, MemoryCache

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
    before = memory.nbytes
    memory.remember(first, table, b"body", "answer", ROOM)
    assert (len(memory), memory.nbytes, table) == (1, before, {})


def test_of_remembered_bodies_the_one_used_longest_ago_goes_first() -> None:
    memory = MemoryCache(1 << 20)
    table: dict[bytes, object] = {}
    one, other, third = (entry(key) for key in (b"a", b"b", b"c"))
    for each in (one, other, third):
        memory.put(each)
    before = memory.nbytes
    share = int(memory.max_bytes * WHOLE_SHARE) // 2
    memory.remember(one, table, b"one", "", share)
    memory.remember(other, table, b"other", "", share)
    memory.touch(one)
    memory.remember(third, table, b"third", "", share)
    assert set(table) == {b"one", b"third"}
    assert (len(memory), memory.nbytes, memory.whole_bytes) == (3, before + 2 * share, 2 * share)
    memory.drop(lambda each: True)
    assert (table, memory.nbytes, memory.whole_bytes) == ({}, 0, 0)


def test_dropping_tells_what_is_being_computed() -> None:
    memory = MemoryCache(ROOM)
    memory.put(entry(b"a", tags=("x",)))
    memory.put(entry(b"b"))
    before = memory.generation
    assert memory.drop(lambda one: "x" in one.tags) == 1
    assert memory.generation != before
    assert memory.peek(b"b") is not None


def test_rows_of_a_batch_are_entries_when_they_are_asked_for() -> None:
    memory = MemoryCache(1 << 20)
    memory.pending = rows({b"a": 2, b"b": 0}, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    before = memory.nbytes
    assert memory.pending is None
    found = [memory.get(key, 0.0) for key in (b"b", b"a")]
    assert [numbers(one) for one in found] == [[1, 2], [5, 6]]
    assert all(one is not None and one.shapes == ((1, 2),) and one.created == 1.0 for one in found)
    assert memory.get(b"a", 0.0) is found[1]
    assert memory.nbytes == before == 2 * (OVERHEAD_BYTES + 1 + 8)
    assert memory.get(b"a", 10.0) is None
    assert memory.get(b"c", 0.0) is None


def test_rows_of_a_batch_go_like_entries() -> None:
    memory = MemoryCache(ROOM)
    memory.pending = rows({b"a": 0, b"b": 1, b"c": 2}, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    memory.put(entry(b"d"))
    memory.get(b"a", 0.0)
    memory.pending = rows({b"e": 0}, [7.0, 8.0])
    assert (len(memory), memory.evicted) == (4, 1)
    assert kept_keys(memory) in ({b"a", b"c", b"d", b"e"}, {b"a", b"b", b"d", b"e"})
    memory.pending = rows({b"f": 0, b"g": 1}, [7.0, 8.0], [7.0, 8.0])
    assert (len(memory), memory.evicted) == (4, 3)
    assert kept_keys(memory) == {b"a", b"e", b"f", b"g"}
    assert memory.drop(lambda one: one.created == 1.0) == 4
    assert len(memory) == 0


def test_a_row_does_not_take_the_place_of_what_came_while_it_was_computed() -> None:
    memory = MemoryCache(ROOM)
    memory.pending = rows({b"a": 0}, [1.0, 2.0])
    memory.settle()
    memory.pending = rows({b"a": 0, b"b": 1}, [3.0, 4.0], [5.0, 6.0])
    assert numbers(memory.get(b"a", 0.0)) == [1, 2]
    assert numbers(memory.get(b"b", 0.0)) == [5, 6]
    assert (len(memory), memory.nbytes) == (2, 2 * (OVERHEAD_BYTES + 1 + 8))


def test_few_rows_of_a_large_batch_do_not_hold_the_others() -> None:
    memory = MemoryCache(ROOM)
    batch = rows({b"a": 7, b"b": 2}, *([float(number), 0.0] for number in range(100)))
    memory.pending = batch
    memory.settle()
    assert len(batch.data) == 2 * 8
    assert [numbers(memory.get(key, 0.0))[0] for key in (b"a", b"b")] == [7, 2]


def test_an_answer_is_found_and_forgotten_by_its_id_in_every_form() -> None:
    memory = MemoryCache(1 << 20)
    memory.put(entry(b"a"))
    memory.pending = rows({b"b": 0, b"c": 1}, [1.0, 2.0], [3.0, 4.0])
    for key in (b"a", b"b"):
        found = memory.named(entry_id(digest_of(key)))
        assert found is not None
        assert found.key == key
        assert memory.drop(lambda one: False, digest_of(key)) == 0
        assert memory.drop(lambda one: True, digest_of(key)) == 1
        assert memory.named(entry_id(digest_of(key))) is None
    assert kept_keys(memory) == {b"c"}


def test_rows_and_entries_go_in_the_order_of_their_last_use() -> None:
    memory = MemoryCache(ROOM)
    memory.put(entry(b"a"))
    memory.pending = rows({b"b": 0}, [1.0, 2.0])
    memory.put(entry(b"c"))
    memory.pending = rows({b"d": 0}, [1.0, 2.0])
    assert memory.get(b"a", 0.0) is not None
    went: list[bytes] = []
    for number in range(4):
        before = kept_keys(memory)
        memory.put(entry(bytes([number])))
        went += before - kept_keys(memory)
    assert went == [b"b", b"c", b"d", b"a"]


def test_many_small_batches_do_not_grow_it_beyond_its_bytes() -> None:
    memory = MemoryCache(1000 * (OVERHEAD_BYTES + 2 + 8))
    for number in range(3000):
        memory.pending = rows({number.to_bytes(2, "big"): 0}, [1.0, float(number)])
        memory.settle()
        if number % 7 == 0:
            memory.get((number // 2).to_bytes(2, "big"), 0.0)
    assert 995 <= len(memory) <= 1000
    assert memory.nbytes == len(memory) * (OVERHEAD_BYTES + 2 + 8)
    assert len(memory) + memory.evicted == 3000
    assert numbers(memory.get((2990).to_bytes(2, "big"), 0.0)) == [1, 2990]
    memory.drop(lambda one: True)
    assert (len(memory), memory.nbytes) == (0, 0)


def kept_keys(memory: MemoryCache) -> set[bytes]:
    memory.settle()
    assert memory.entries.keys().isdisjoint(memory.rows)
    return {*memory.entries, *memory.rows}


def rows(starts: dict[bytes, int], *values: list[float]) -> KeptRows:
    data = np.array(values, np.float32).tobytes()
    return KeptRows(("m", "1"), ((1, 2),), data, 8, 1.0, 10.0, 10.0, 0.5, starts)


def numbers(one: Entry | None) -> list[float]:
    assert one is not None
    assert isinstance(one.data, bytes)
    found: list[float] = np.frombuffer(one.data, np.float32).tolist()
    return found


STEPS = ["put", "row", "get", "remember", "drop"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=60))
def test_bytes_are_those_of_what_is_there(steps: list[tuple[str, int]]) -> None:
    memory = MemoryCache(ROOM)
    table: dict[bytes, object] = {}
    there: dict[bytes, Entry] = {}
    for step, number in steps:
        key = bytes([number])
        if step == "put":
            memory.put(entry(key, size=number + 1))
        elif step == "row":
            memory.pending = rows({key: 1, b"more": 0}, [1.0, 2.0], [3.0, 4.0])
        elif step == "get":
            memory.get(key, 0.0)
        elif step == "drop":
            memory.drop(partial(_is, key))
        elif (found := memory.peek(key)) is not None:
            memory.remember(found, table, bytes([number, len(table)]), "", 300)
        keys = [b"more", *map(bytes, ([n] for n in range(8)))]
        there = {key: one for key in keys if (one := memory.peek(key)) is not None}
        assert memory.nbytes == sum(one.nbytes for one in there.values()) <= ROOM
        assert len(memory) == len(there)
        assert set(table) == {body for one in there.values() for _, body, _ in one.memos or []}


def _is(key: bytes, one: Entry) -> bool:
    return one.key == key
