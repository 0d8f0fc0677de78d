"""Whom to unload so that a model fits."""

from __future__ import annotations

import pytest

from forebay.repository.budget import Loaded, make_room

OLD, MIDDLE, NEW = Loaded("old", 30, 1.0), Loaded("middle", 20, 2.0), Loaded("new", 10, 3.0)
ALL = (NEW, OLD, MIDDLE)
BUSY = Loaded("busy", 30, 0.0, in_use=True)


@pytest.mark.parametrize(
    ("need_bytes", "unload"),
    [(40, ()), (41, ("old",)), (70, ("old",)), (71, ("old", "middle")), (100, ("old", "middle", "new"))],
)
def test_the_least_recently_used_go_first_and_no_more_than_needed(need_bytes: int, unload: tuple[str, ...]) -> None:
    room = make_room(ALL, need_bytes, limit_bytes=100)
    assert (room.unload, room.over_bytes) == (unload, 0)


def test_what_is_in_use_stays_and_the_next_one_goes() -> None:
    assert make_room((BUSY, NEW), 65, limit_bytes=100).unload == ("new",)


def test_where_that_is_not_enough_nobody_goes() -> None:
    room = make_room((BUSY, NEW), 71, limit_bytes=100)
    assert (room.unload, room.over_bytes) == ((), 1)


def test_what_has_grown_beyond_the_limit_goes_even_for_nothing() -> None:
    assert make_room(ALL, 0, limit_bytes=35).unload == ("old",)
