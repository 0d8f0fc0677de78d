"""The shared arena: slots, limits, alignment, and two mappings of one memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from forebay.engine.arena import Arena

SLOT = 4096


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(slot_bytes=SLOT)
    yield made
    made.close()


def test_groups_are_contiguous_and_aligned(arena: Arena) -> None:
    offsets = arena.place(0, [[b"abc", bytearray(b"def")], [], [memoryview(b"ghi")]], answer=False)
    assert offsets is not None
    assert all(offset % 64 == 0 for offset in offsets)
    assert offsets[0] + 6 <= offsets[1] <= offsets[2]
    assert bytes(arena.view[offsets[0] : offsets[0] + 6]) == b"abcdef"
    assert bytes(arena.view[offsets[2] : offsets[2] + 3]) == b"ghi"


def test_two_batches_and_their_answers_have_slots_of_their_own(arena: Arena) -> None:
    full = [[b"%d" % number * SLOT] for number in range(4)]
    places = [(0, False), (1, False), (0, True), (1, True)]
    starts = [arena.place(batch, [group], answer=answer) for (batch, answer), group in zip(places, full, strict=True)]
    assert sorted(start[0] for start in starts if start) == [0, SLOT, 2 * SLOT, 3 * SLOT]
    for start, group in zip(starts, full, strict=True):
        assert start is not None
        assert bytes(arena.view[start[0] : start[0] + SLOT]) == group[0]


def test_every_second_batch_uses_the_same_slot(arena: Arena) -> None:
    assert arena.place(3, [[b"x"]], answer=False) == arena.place(5, [[b"y"]], answer=False)
    assert arena.place(3, [[b"x"]], answer=True) != arena.place(4, [[b"y"]], answer=True)


@pytest.mark.parametrize("groups", [[[b"x" * (SLOT + 1)]], [[b"x"], [b"x" * (SLOT - 63)]], [[b"x" * SLOT, b"y"]]])
def test_what_does_not_fit_is_not_placed(arena: Arena, groups: list[list[bytes]]) -> None:
    neighbour = arena.place(1, [[b"n" * SLOT]], answer=False)
    assert neighbour is not None
    assert arena.place(0, groups, answer=False) is None
    assert bytes(arena.view[SLOT : 2 * SLOT]) == b"n" * SLOT


def test_the_other_end_sees_what_was_placed(arena: Arena) -> None:
    other = Arena(os.dup(arena.fd), SLOT)
    offsets = arena.place(1, [[b"for you"]], answer=False)
    assert offsets is not None
    assert bytes(other.view[offsets[0] : offsets[0] + 7]) == b"for you"
    other.close()


def test_closing_twice_closes_nobody_elses_file() -> None:
    arena = Arena(slot_bytes=SLOT)
    number = arena.fd
    arena.close()
    taken = os.open(os.devnull, os.O_RDONLY)
    try:
        arena.close()
        os.fstat(taken)
        assert taken == number  # else the test has shown nothing
    finally:
        os.close(taken)


def test_closing_while_an_array_looks_at_it() -> None:
    arena = Arena(slot_bytes=SLOT)
    array = np.frombuffer(arena.view[:8], np.uint8)
    number = arena.fd
    arena.close()
    assert array.tolist() == [0] * 8
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
