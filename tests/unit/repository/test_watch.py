"""When a change of files counts: settled, told once, one at a time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, cast

import pytest

from forebay.core.errors import AdmissionError
from forebay.models.repository import Stamp
from forebay.repository.watch import Changes, Watch


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


def test_what_could_not_be_loaded_is_told_again_and_may_still_vanish() -> None:
    changes = Changes({"a": stamp(1)})
    for number in (2, 2):
        found = changes.settled({"a": stamp(number)})
    assert found == {"a": True}
    changes.again("a")
    assert changes.settled({"a": stamp(2)}) == {}
    assert changes.settled({"a": stamp(2)}) == {"a": True}
    changes.again("a")
    assert changes.settled({}) == {}
    assert changes.settled({}) == {"a": False}
    changes.again("a")  # it is gone
    assert changes.settled({}) == {}


async def test_a_load_that_found_no_room_is_tried_until_there_is_some(caplog: pytest.LogCaptureFixture) -> None:
    loads: list[str] = []
    there = asyncio.Event()

    class House:
        """A catalog whose model has changed, and a registry that has room for it at the third try."""

        def stamps(self) -> dict[str, Stamp]:
            return {"a": stamp(2)}

        async def load(self, name: str) -> None:
            loads.append(name)
            if len(loads) < 3:
                raise AdmissionError("no room", code="model_not_ready")
            there.set()

    house = cast(Any, House())
    with caplog.at_level(logging.WARNING):
        running = asyncio.create_task(Watch(house, house, 0.001).run({"a": stamp(1)}))
        async with asyncio.timeout(30):
            await there.wait()
        await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert loads == ["a"] * 3
    assert [record.message for record in caplog.records] == ["no room; it is tried again"]
