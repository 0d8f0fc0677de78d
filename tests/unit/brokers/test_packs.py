"""Packs: what shares one, and when it is done with."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.brokers.packs import Pack, PackError, each_confirmed, packed, portions, unpacked
from forebay.brokers.port import Confirmed, Message
from forebay.brokers.sqs_text import written
from forebay.jobs.record_store import INLINE_BYTES

MESSAGES = st.lists(
    st.builds(Message, st.text(max_size=8), st.sampled_from("ab"), st.binary(max_size=40), st.integers(0, 2))
)


def one(number: int, size: int = 1, level: int = 1) -> Message:
    return Message(str(number), "q", b"x" * size, level)


@given(MESSAGES, st.integers(1, 5), st.integers(1, 60))
def test_every_message_is_in_one_portion_in_its_order_and_within_bounds(
    sent: list[Message], most: int, most_bytes: int
) -> None:
    found = [[sent[at] for at in positions] for positions in portions(sent, most, most_bytes)]
    for place in {(message.queue, message.level) for message in sent}:
        own = [message for portion in found for message in portion if (message.queue, message.level) == place]
        assert own == [message for message in sent if (message.queue, message.level) == place]
    for portion in found:
        assert len({(message.queue, message.level) for message in portion}) == 1
        assert len(portion) <= most
        assert len(portion) == 1 or sum(len(message.payload) for message in portion) <= most_bytes
    assert sum(map(len, found)) == len(sent)


@given(st.lists(st.tuples(st.text(), st.binary()), min_size=1))
def test_what_is_packed_comes_out(rows: list[tuple[str, bytes]]) -> None:
    sent = [Message(id, "q", payload, 2) for id, payload in rows]
    assert unpacked(packed(sent), "q", 2) == sent


@given(st.binary())
def test_what_is_no_pack_is_refused_and_breaks_nothing(body: bytes) -> None:
    try:
        assert unpacked(body, "q", 1)
    except PackError:
        pass


@pytest.mark.parametrize("body", [b"", b"\x90", b"nonsense", packed([one(1)])[:-1]])
def test_what_is_certainly_no_pack(body: bytes) -> None:
    with pytest.raises(PackError):
        unpacked(body, "q", 1)


def test_messages_are_handed_out_once_and_settled_once() -> None:
    pack = Pack([one(number) for number in range(5)], None, 7)
    first, rest = pack.hand_out(2), pack.hand_out(9)
    assert [each.message.id for each in (*first, *rest)] == ["0", "1", "2", "3", "4"]
    assert pack.hand_out(1) == []
    assert pack.settle(0, "done")
    assert not pack.settle(0, "given back")
    assert (pack.left, pack.whole) == (4, False)


def test_what_is_given_back_is_to_be_sent_anew_until_it_was() -> None:
    pack = Pack([one(number) for number in range(3)], None, 7)
    pack.hand_out(1)
    assert pack.give_back("kept")
    assert not pack.give_back("kept")
    assert (pack.left, pack.whole) == (1, True)
    taken = pack.take_to_send()
    assert taken == [1, 2]
    pack.sent(taken, confirmed=False)
    assert pack.given_back()
    assert pack.whole
    pack.sent(pack.take_to_send(), confirmed=True)
    assert not pack.given_back()
    assert (pack.left, pack.whole) == (1, False)


def test_what_is_given_back_while_other_parts_are_being_sent_is_not_taken_for_sent() -> None:
    pack = Pack([one(number) for number in range(3)], None, 7)
    pack.hand_out(3)
    pack.settle(0, "given back")
    first = pack.take_to_send()
    pack.settle(1, "given back")
    second = pack.take_to_send()
    assert (first, second) == ([0], [1])
    pack.settle(2, "done")
    pack.sent(first, confirmed=True)
    assert not pack.is_over
    assert not pack.given_back()
    pack.sent(second, confirmed=False)
    assert pack.is_over
    assert pack.given_back()


async def test_of_a_pack_that_is_too_large_each_message_goes_by_itself() -> None:
    sizes, sent = [10, 60, 10, 200, 10], list[Sequence[int]]()

    async def send(packs: Sequence[Sequence[int]]) -> list[Confirmed]:
        sent.extend(packs)
        return [None if sum(sizes[at] for at in positions) > 100 else 0 not in positions for positions in packs]

    assert await each_confirmed([[0, 1], [2, 3], [4]], 5, send) == [False, False, True, None, True]
    assert sent == [[0, 1], [2, 3], [4], [2], [3]]


def test_what_goes_inline_fits_the_smallest_messages_that_are_usual() -> None:
    payload = random.Random(1).randbytes(INLINE_BYTES)
    assert written(packed([Message("0190a7c4-0000-7000-8000-000000000000", "q", payload)]), 256 << 10) is not None
