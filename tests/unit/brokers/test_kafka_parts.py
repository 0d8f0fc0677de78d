"""Partitions that are one's own for now: what is handed out, and how far they are done with."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.brokers.kafka_parts import AHEAD_BYTES, AHEAD_JOBS, Parts, Place
from forebay.brokers.packs import Pack
from forebay.brokers.port import Delivery, Message

ONE: Place = ("topic", 0)
TWO: Place = ("topic", 1)


def come(parts: Parts, place: Place, offset: int, *ids: str, nbytes: int = 10) -> None:
    """A pack of these jobs has come."""
    part = parts.expects(place, offset)
    assert part is not None
    parts.add(part, offset, Pack([Message(id, "q", b"") for id in ids], part, offset), nbytes)


def end(parts: Parts, deliveries: Sequence[Delivery]) -> None:
    """They are done with."""
    for pack, at in (each.receipt for each in deliveries):
        pack.settle(at, "done")
        if pack.is_over:
            parts.done(pack.owner, pack.tag)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.message.id for each in deliveries]


def test_positions_move_as_far_as_all_before_is_done() -> None:
    parts = Parts()
    parts.given([ONE, TWO])
    for offset in range(5, 9):
        come(parts, ONE, offset, f"{offset}")
    come(parts, TWO, 0, "a", "b")
    assert parts.to_commit() == []
    found = parts.take(10)
    assert ids(found) == ["5", "6", "7", "8", "a", "b"]
    end(parts, found[1:3])
    assert parts.to_commit() == []
    end(parts, found[:1])
    assert parts.to_commit() == [(ONE, 8)]
    assert parts.to_commit() == []
    parts.not_committed([ONE])
    assert parts.to_commit() == [(ONE, 8)]
    end(parts, found[4:5])
    assert parts.to_commit() == []
    end(parts, found[5:])
    assert parts.to_commit() == [(TWO, 1)]


def test_what_was_delivered_from_a_partition_that_went_counts_no_more() -> None:
    parts = Parts()
    parts.given([ONE, TWO])
    for offset in range(3):
        come(parts, ONE, offset, f"one-{offset}")
        come(parts, TWO, offset, f"two-{offset}")
    held = parts.take(3)
    assert ids(held) == ["one-0", "two-0", "one-1"]
    end(parts, held[:1])
    assert parts.taken_away([ONE]) == [(ONE, 1)]
    assert ids(parts.take(10)) == ["two-1", "two-2"]
    parts.given([ONE])
    end(parts, held[2:])
    come(parts, ONE, 1, "again")
    assert parts.to_commit() == []
    assert parts.expects(("topic", 9), 0) is None


def test_a_topic_that_was_made_anew_begins_anew() -> None:
    parts = Parts()
    parts.given([ONE])
    come(parts, ONE, 100, "old")
    old = parts.take(1)
    come(parts, ONE, 0, "new")
    end(parts, old)
    assert parts.to_commit() == []
    end(parts, parts.take(1))
    assert parts.to_commit() == [(ONE, 1)]


def test_enough_is_enough_until_half_of_it_is_taken() -> None:
    parts = Parts()
    parts.given([ONE])
    assert parts.full([]) == set()
    for offset in range(AHEAD_JOBS // 32):
        come(parts, ONE, offset, *map(str, range(32)))
    assert parts.full([]) == {ONE}
    parts.take(AHEAD_JOBS // 2)
    assert parts.full([]) == set()
    assert parts.full([ONE]) == {ONE}
    parts.take(1)
    assert parts.full([ONE]) == set()
    come(parts, ONE, AHEAD_JOBS, "large", nbytes=AHEAD_BYTES)
    assert parts.full([]) == {ONE}
    parts.taken_away([ONE])
    assert parts.full([ONE]) == set()
    assert parts.take(1) == []


def test_each_partition_has_its_share_of_what_is_enough() -> None:
    parts = Parts()
    parts.given([ONE, TWO])
    for offset in range(AHEAD_JOBS // 64):
        come(parts, ONE, offset, *map(str, range(32)))
    assert parts.full([]) == {ONE}
    come(parts, TWO, 0, "large", nbytes=AHEAD_BYTES // 2)
    assert parts.full([]) == {ONE, TWO}
    parts.taken_away([TWO])  # what is left has it all
    assert parts.full([]) == set()


def test_what_could_not_be_sent_anew_is_here_again() -> None:
    parts = Parts()
    parts.given([ONE])
    come(parts, ONE, 0, "a", "b", "c")
    come(parts, ONE, 1, "d")
    held = parts.take(2)
    pack = held[0].receipt.pack
    for each in held:
        pack.settle(each.receipt.at, "given back")
    assert parts.put_back(pack, pack.take_to_send())
    assert ids(parts.take(10)) == ["a", "b", "c", "d"]
    parts.taken_away([ONE])
    pack.settle(0, "given back")
    assert not parts.put_back(pack, pack.take_to_send())


def test_what_waits_is_what_nobody_has() -> None:
    parts = Parts()
    parts.given([ONE, TWO])
    for offset in range(3):
        come(parts, ONE, offset, f"{offset}")
    assert (parts.waits(ONE, 10), parts.waits(TWO, 10)) == (10, None)
    assert not parts.holds()
    held = parts.take(2)
    assert parts.waits(ONE, 10) == 8
    assert parts.holds()
    end(parts, held)
    assert (parts.waits(ONE, 3), parts.holds()) == (1, False)


def test_only_packs_that_are_begun_with_all_before_them_are_ended_early() -> None:
    parts = Parts()
    parts.given([ONE])
    for offset in range(4):
        come(parts, ONE, offset, f"{offset}a", f"{offset}b")
    held = parts.take(8)
    end(parts, [held[0], held[3], held[7]])
    assert [pack.tag for pack in parts.begun()] == [0, 1]
