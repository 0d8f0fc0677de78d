"""When a change of files counts: settled, told once, one at a time."""

from __future__ import annotations

from forebay.models.repository import Stamp
from forebay.repository.watch import Changes


def stamp(number: int) -> Stamp:
    return (("file", number, 0, 0, 0),)


def test_nothing_changes() -> None:
    changes = Changes({"a": stamp(1)})
    for _ in range(3):
        assert changes.settled({"a": stamp(1)}) == {}


def test_a_change_counts_once_two_looks_saw_the_same() -> None:
    changes = Changes({"a": stamp(1)})
    assert changes.settled({"a": stamp(2)}) == {}
    assert changes.settled({"a": stamp(3)}) == {}  # still being written
    assert changes.settled({"a": stamp(3)}) == {"a": True}
    assert changes.settled({"a": stamp(3)}) == {}
    assert changes.settled({"a": stamp(3)}) == {}


def test_a_change_that_is_taken_back_is_none() -> None:
    changes = Changes({"a": stamp(1)})
    assert changes.settled({"a": stamp(2)}) == {}
    assert changes.settled({"a": stamp(1)}) == {}
    assert changes.settled({"a": stamp(2)}) == {}  # begins anew
    assert changes.settled({"a": stamp(2)}) == {"a": True}


def test_what_appears_and_what_vanishes() -> None:
    changes = Changes({"a": stamp(1)})
    looks = {"b": stamp(1)}
    assert changes.settled(looks) == {}
    assert changes.settled(looks) == {"a": False, "b": True}
    assert changes.settled(looks) == {}
    assert changes.settled({"a": stamp(1), "b": stamp(1)}) == {}
    assert changes.settled({"a": stamp(1), "b": stamp(1)}) == {"a": True}


def test_a_model_that_is_being_loaded_waits_for_its_turn() -> None:
    changes = Changes({"a": stamp(1), "b": stamp(1)})
    looks = {"a": stamp(2), "b": stamp(2)}
    changes.settled(looks, {"a"})
    assert changes.settled(looks, {"a"}) == {"b": True}
    assert changes.settled(looks, {"a"}) == {}
    assert changes.settled(looks) == {"a": True}
