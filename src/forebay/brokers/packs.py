"""Packs: messages of one queue and level that travel as one, and are done with one by one.

What a broker carries and acks is the pack; who leases sees single messages. A pack may be acked when each of its
messages is acked, or has been sent anew in another pack.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from forebay.brokers.port import Confirmed, Delivery, Message

CONTENT_TYPE: Final = "application/vnd.forebay.jobs.1+msgpack"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode

State = Literal["kept", "held", "given back", "sending", "done"]
"""kept: here, and given to nobody yet. held: somebody works on it. given back: it is to be sent anew. sending: that is
under way. done: acked, or sent anew."""


class PackError(ValueError):
    """This is no pack."""


def packed(messages: Sequence[Message]) -> bytes:
    """What travels."""
    return _encode([(message.id, message.payload) for message in messages])


def unpacked(body: bytes, queue: str, level: int) -> list[Message]:
    """What has traveled. Raises `PackError`."""
    try:
        rows = _decode(body)
    except msgspec.MsgspecError as error:
        raise PackError(str(error)) from None
    if not rows:
        raise PackError("it holds nothing")
    return [Message(id, queue, payload, level) for id, payload in rows]


def portions(messages: Sequence[Message], most: int, most_bytes: int) -> Iterator[list[int]]:
    """Which messages go together: positions, in their order, of one queue and level each; one message may be larger
    than `most_bytes`."""
    open_portions: dict[tuple[str, int], list[int]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for at, message in enumerate(messages):
        place, size = (message.queue, message.level), len(message.payload)
        portion = open_portions.setdefault(place, [])
        if portion and (len(portion) >= most or sizes[place] + size > most_bytes):
            yield portion
            portion = open_portions[place] = []
        sizes[place] = size + (sizes[place] if portion else 0)
        portion.append(at)
    yield from open_portions.values()


async def each_confirmed(
    packs: Sequence[Sequence[int]],
    number: int,
    send: Callable[[Sequence[Sequence[int]]], Awaitable[Sequence[Confirmed]]],
) -> list[Confirmed]:
    """Send packs of `number` messages, told by their positions; what became of each message. Of a pack that is too
    large each message goes once more by itself."""
    confirmed: list[Confirmed] = [False] * number
    while packs:
        apart: list[list[int]] = []
        for positions, told in zip(packs, await send(packs), strict=True):
            for at in positions:
                confirmed[at] = told
            if told is None and len(positions) > 1:
                apart += [[at] for at in positions]
        packs = apart
    return confirmed


class Pack:
    """One that was delivered. `tag` is what the broker calls it, `owner` the connection it came on."""

    __slots__ = ("left", "messages", "owner", "states", "tag", "whole")

    def __init__(self, messages: Sequence[Message], owner: Any, tag: int) -> None:
        self.messages, self.owner, self.tag = messages, owner, tag
        self.states: list[State] = ["kept"] * len(messages)
        self.left = len(messages)
        """Messages that are kept or held."""
        self.whole = True
        """None of its messages is done."""

    def hand_out(self, most: int) -> list[Delivery]:
        """The next messages that are kept; they are held then."""
        found: list[Delivery] = []
        for at, state in enumerate(self.states):
            if len(found) == most:
                break
            if state == "kept":
                self.states[at] = "held"
                found.append(Delivery(self.messages[at], Receipt(self, at)))
        return found

    @property
    def kept(self) -> int:
        """How many are given to nobody yet."""
        return self.states.count("kept")

    def settle(self, at: int, state: Literal["given back", "done"]) -> bool:
        """A message is not worked on any more. False: that was so before."""
        if self.states[at] not in ("kept", "held"):
            return False
        self.states[at] = state
        self.left -= 1
        if state == "done":
            self.whole = False
        return True

    def give_back(self, *states: Literal["kept", "held"]) -> bool:
        """What is in these states is to be sent anew. False: there was none."""
        found = [at for at, state in enumerate(self.states) if state in states]
        for at in found:
            self.settle(at, "given back")
        return bool(found)

    @property
    def is_over(self) -> bool:
        """Nobody works on any of it, or is about to send any of it anew."""
        return not self.left and "sending" not in self.states

    def given_back(self) -> bool:
        """Whether any of it is to be sent anew."""
        return "given back" in self.states

    def take_to_send(self) -> list[int]:
        """Where what is to be sent anew stands; nobody else sends it until `sent` tells how that went."""
        taken = [at for at, state in enumerate(self.states) if state == "given back"]
        for at in taken:
            self.states[at] = "sending"
        return taken

    def sent(self, taken: Sequence[int], confirmed: Confirmed) -> None:
        """What was taken is in another pack now, or is still to be sent."""
        for at in taken:
            self.states[at] = "done" if confirmed else "given back"
        if confirmed and taken:
            self.whole = False

    def keep(self, taken: Sequence[int]) -> None:
        """What was taken is here again, and given to nobody."""
        for at in taken:
            self.states[at] = "kept"
        self.left += len(taken)


class Receipt(NamedTuple):
    """Where a delivered message stands in its pack."""

    pack: Pack
    at: int


def settled(deliveries: Sequence[Delivery], state: Literal["given back", "done"]) -> list[Pack]:
    """Packs of which something is settled by this, or was before, by a call that may have been canceled before it
    could do anything about them."""
    receipts = [one.receipt for one in deliveries]
    return [pack for pack, at in receipts if pack.settle(at, state) or not pack.left or pack.given_back()]
